//! Users of one application get the notes that the policies in Postgres allow.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join, join_all};
use lakebase_core::users::UserPools;
use lakebase_core::{Config, Lakebase, User};
use lakebase_examples::notes::{
    Headers, Notes, Users, add_people, front, routes, with_diesel, with_seaorm,
};
use lakebase_local::LocalLakebase;
use lakebase_tests::{local, session, soon};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::shop::{Orm, http, listen};

const HOUR: Duration = Duration::from_secs(3600);
const ANA: &str = "ana@example.com";
const BO: &str = "bo@example.com";
const CY: &str = "cy@example.com";

/// The application, directly and behind its login page.
pub(crate) struct App {
    local: LocalLakebase,
    lakebase: Lakebase,
    direct: String,
    pub(crate) front: String,
    serving: [JoinHandle<()>; 2],
}

impl App {
    pub(crate) async fn start(orm: Orm) -> Self {
        Self::start_with(orm, Headers::default()).await
    }

    async fn start_with(orm: Orm, headers: Headers) -> Self {
        let local = local().await;
        add_people(&local).await.expect("people");
        let config = Config::builder().schema("notes").vars(local.env());
        let lakebase = Lakebase::new(config.build().expect("settings")).expect("a handle");
        match orm {
            Orm::Diesel => {
                with_diesel::migrate(&lakebase).await.expect("migrated");
                let pools = lakebase_diesel::bb8::user_pools(&lakebase).build();
                Self::serve(local, lakebase, pools, headers).await
            }
            Orm::SeaOrm => {
                with_seaorm::migrate(&lakebase).await.expect("migrated");
                let pools = lakebase_seaorm::user_pools(&lakebase).build();
                Self::serve(local, lakebase, pools, headers).await
            }
        }
    }

    async fn serve<P: Notes>(
        local: LocalLakebase,
        lakebase: Lakebase,
        pools: UserPools<P>,
        headers: Headers,
    ) -> Self {
        let headers = Arc::new(headers);
        let app = routes(Users { pools, headers });
        let (front, serving_front) = listen(front(app.clone(), &local)).await;
        let (direct, serving) = listen(app).await;
        Self {
            local,
            lakebase,
            direct,
            front,
            serving: [serving, serving_front],
        }
    }

    fn direct(&self, path: &str) -> RequestBuilder {
        http().get(format!("{}{path}", self.direct))
    }

    fn token(&self, person: &str) -> String {
        self.local.forwarded_token(person, HOUR, &["postgres"])
    }

    async fn log_in(&self, person: &str) -> Person {
        let form = [("person", person)];
        let login = http().post(format!("{}/login", self.front)).form(&form);
        let response = soon(login.send()).await.expect("a response");
        let cookie = response.headers()["set-cookie"].to_str().expect("text");
        let (cookie, _) = cookie.split_once(';').expect("attributes");
        Person {
            url: self.front.clone(),
            cookie: cookie.to_owned(),
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.serving.iter().for_each(JoinHandle::abort);
    }
}

/// A user who has logged in on the login page.
struct Person {
    url: String,
    cookie: String,
}

impl Person {
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = http().request(method, format!("{}{path}", self.url));
        request.header("cookie", &self.cookie)
    }

    async fn add(&self, text: &str) -> i64 {
        let add = self.request(Method::POST, "/api/notes");
        let (status, text) = send(add.json(&json!({ "text": text }))).await;
        assert_eq!(status, 201, "{text}");
        let note: Value = serde_json::from_str(&text).expect("JSON");
        note["id"].as_i64().expect("an id")
    }

    async fn delete(&self, id: i64) -> StatusCode {
        let path = format!("/api/notes/{id}");
        send(self.request(Method::DELETE, &path)).await.0
    }

    async fn notes(&self) -> Vec<String> {
        texts(self.request(Method::GET, "/api/notes")).await
    }
}

async fn send(request: RequestBuilder) -> (StatusCode, String) {
    let response = soon(request.send()).await.expect("a response");
    (response.status(), response.text().await.expect("a text"))
}

/// Returns owner and text of each note, sorted.
async fn texts(request: RequestBuilder) -> Vec<String> {
    let (status, text) = send(request).await;
    assert_eq!(status, 200, "{text}");
    let notes: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let mut texts: Vec<String> = notes
        .iter()
        .map(|note| {
            let field = |name: &str| note[name].as_str().expect("a text").to_owned();
            format!("{}: {}", field("owner"), field("text"))
        })
        .collect();
    texts.sort();
    texts
}

async fn two_users(orm: Orm) {
    let app = App::start(orm).await;
    let (bo, cy) = join(app.log_in(BO), app.log_in(CY)).await;
    let add = async |person: &Person| {
        let numbers = ["1", "2", "3", "4", "5", "6"];
        join_all(numbers.map(|number| person.add(number))).await
    };
    let (of_bo, of_cy) = join(add(&bo), add(&cy)).await;
    let expected = |name: &str, numbers: &[u32]| -> Vec<String> {
        let each = numbers.iter().map(|number| format!("{name}: {number}"));
        each.collect()
    };
    let all = [1, 2, 3, 4, 5, 6];
    let (seen_by_bo, seen_by_cy) = join(bo.notes(), cy.notes()).await;
    assert_eq!(seen_by_bo, expected(BO, &all));
    assert_eq!(seen_by_cy, expected(CY, &all));

    assert_eq!(cy.delete(of_bo[0]).await, StatusCode::NOT_FOUND);
    assert_eq!(cy.delete(of_cy[0]).await, StatusCode::NO_CONTENT);
    assert_eq!(bo.notes().await, expected(BO, &all));
    assert_eq!(cy.notes().await, expected(CY, &all[1..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_concurrent_users_have_their_own_notes_with_diesel() {
    two_users(Orm::Diesel).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_concurrent_users_have_their_own_notes_with_seaorm() {
    two_users(Orm::SeaOrm).await;
}

async fn admins_see_all_notes(orm: Orm) {
    let app = App::start(orm).await;
    let (ana, bo) = join(app.log_in(ANA), app.log_in(BO)).await;
    let (_, of_bo) = join(ana.add("hers"), bo.add("his")).await;
    let both = ["ana@example.com: hers", "bo@example.com: his"];
    assert_eq!(ana.notes().await, both);
    assert_eq!(bo.notes().await, both[1..]);
    assert_eq!(ana.delete(of_bo).await, StatusCode::NOT_FOUND);

    // As the owner of the table, and as a member who logs in with the role of the group.
    let rows = async |lakebase: &Lakebase| -> i64 {
        let client = session(lakebase).await;
        let row = client.query_one("SELECT count(*) FROM notes", &[]).await;
        row.expect("a row").get(0)
    };
    assert_eq!(rows(&app.lakebase).await, 0);
    let member = User::new(ANA, app.token(ANA)).role("notes_admins");
    let group = app.lakebase.on_behalf_of(&member).expect("a handle");
    assert_eq!(rows(&group).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn group_members_read_all_notes_and_the_owner_of_the_table_none_with_diesel() {
    admins_see_all_notes(Orm::Diesel).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn group_members_read_all_notes_and_the_owner_of_the_table_none_with_seaorm() {
    admins_see_all_notes(Orm::SeaOrm).await;
}

async fn forged_headers(orm: Orm) {
    let app = App::start(orm).await;
    let (ana, bo) = join(app.log_in(ANA), app.log_in(BO)).await;
    join(ana.add("hers"), bo.add("his")).await;
    let forge = |request: RequestBuilder| {
        let request = request.header("x-forwarded-email", ANA);
        let request = request.header("x-forwarded-user", ANA);
        request.header("X-Forwarded-Access-Token", app.token(ANA))
    };
    // The front with the login page removes them.
    let seen = texts(forge(bo.request(Method::GET, "/api/notes"))).await;
    assert_eq!(seen, ["bo@example.com: his"]);
    let nobody = http().get(format!("{}/api/notes", app.front));
    let (status, text) = send(forge(nobody)).await;
    assert_eq!(status, StatusCode::SEE_OTHER, "{text}");
    let stranger = http().get(format!("{}/", app.front));
    let (status, text) = send(stranger.header("cookie", "person=eve@example.com")).await;
    assert_eq!(status, StatusCode::SEE_OTHER, "{text}");

    // Without the front, the e-mail needs the token of the same user.
    let forged = app.direct("/api/notes").header("x-forwarded-email", ANA);
    let forged = forged.header("x-forwarded-access-token", app.token(BO));
    let (status, text) = send(forged).await;
    assert_eq!(status, StatusCode::FORBIDDEN, "{text}");
    assert!(text.contains(ANA), "{text}");
    assert_eq!(bo.notes().await, ["bo@example.com: his"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_headers_give_no_access_to_notes_of_others_with_diesel() {
    forged_headers(Orm::Diesel).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_headers_give_no_access_to_notes_of_others_with_seaorm() {
    forged_headers(Orm::SeaOrm).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_valid_login_gets_the_reason() {
    let app = App::start(Orm::Diesel).await;
    let token = |scope| app.local.forwarded_token(BO, HOUR, &[scope]);
    let expired = app.local.forwarded_token(BO, Duration::ZERO, &["postgres"]);
    let get = || app.direct("/");
    let as_bo = || get().header("x-forwarded-email", BO);
    let with = |token: String| as_bo().header("x-forwarded-access-token", token);
    let table = [
        (
            get(),
            401,
            "neither header x-forwarded-email nor x-forwarded-user",
        ),
        (as_bo(), 401, "no header x-forwarded-access-token"),
        (
            with(String::new()),
            401,
            "no header x-forwarded-access-token",
        ),
        (with(expired), 401, "has expired"),
        (with(token("sql")), 403, "postgres"),
    ];
    for (request, status, reason) in table {
        let (returned, text) = send(request).await;
        assert_eq!(returned, status, "{text}");
        assert!(text.contains(reason), "{reason}: {text}");
    }
    let by_user = get().header("x-forwarded-user", BO);
    let by_user = by_user.header("x-forwarded-access-token", token("postgres"));
    let (status, text) = send(by_user).await;
    assert_eq!(status, 200, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_names_of_the_headers_are_settings() {
    let headers = Headers {
        email: "x-auth-request-email".to_owned(),
        token: "x-auth-request-access-token".to_owned(),
        ..Headers::default()
    };
    let app = App::start_with(Orm::Diesel, headers).await;
    let request = app.direct("/").header("x-auth-request-email", BO);
    let request = request.header("x-auth-request-access-token", app.token(BO));
    let (status, text) = send(request).await;
    assert_eq!(status, 200, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_note_is_rejected() {
    let app = App::start(Orm::Diesel).await;
    let bo = app.log_in(BO).await;
    let (longest, too_long) = ("ä".repeat(1000), "ä".repeat(1001));
    bo.add(&longest).await;
    for text in [" ", "a\0b", &too_long] {
        let add = bo.request(Method::POST, "/api/notes");
        let (status, text) = send(add.json(&json!({ "text": text }))).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{text}");
    }
}
