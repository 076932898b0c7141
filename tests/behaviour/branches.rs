//! Branches: ready when their creation returns, independent of each other, and deleted in the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use diesel::QueryableByName;
use diesel_async::RunQueryDsl;
use futures_util::future::{join_all, try_join_all};
use lakebase_core::admin::{
    Branch, BranchId, BranchState, Branches, Expiry, IdentityKind, NewBranch, NewRole,
};
use lakebase_core::testing::TestBranch;
use lakebase_core::{Error, Lakebase};
use lakebase_local::{Call, Event, EventKind, Fault, LocalLakebase, LoginFault};
use lakebase_tests::{lakebase, lakebase_with, local, native, open, service_principal, soon};
use sea_orm::{ConnectionTrait as _, Statement};

use crate::roles::owner;
use crate::shop::{http, listen};

const HOUR: Expiry = Expiry::After(Duration::from_secs(3600));

/// For many branches, each with its own Postgres, which may take longer than [`soon`] waits.
async fn later<T>(future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(Duration::from_secs(300), future).await;
    outcome.expect("in time")
}

fn id(id: &str) -> BranchId {
    BranchId::new(id).expect("an id")
}

fn new(name: &str) -> NewBranch {
    NewBranch::new(id(name), HOUR)
}

fn branches(local: &LocalLakebase) -> Branches {
    lakebase(local).branches().expect("a project")
}

async fn create(branches: &Branches, name: &str) -> Branch {
    soon(branches.create(new(name))).await.expect("a branch")
}

/// Runs a query that returns one text.
async fn ask(lakebase: &Lakebase, sql: &str) -> Result<String, Error> {
    let row = open(lakebase).await?.query_one(sql, &[]).await;
    let row = row.map_err(|error| Error::database(error.to_string(), false))?;
    Ok(row.get(0))
}

/// Creates a table that the service principal can write.
async fn seed(local: &LocalLakebase) {
    let sql = format!(
        "CREATE TABLE items (id bigint PRIMARY KEY, text text NOT NULL); \
         INSERT INTO items VALUES (1, 'seeded'); GRANT ALL ON items TO \"{}\"",
        local.client_id()
    );
    local.sql(&sql).await.expect("seeded");
}

/// Waits until a branch is deleted.
async fn is_deleted(branches: &Branches, name: &str) {
    soon(async {
        while branches.get(name).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
}

/// Waits for the deletion of the only branch besides production.
async fn one_deletion(local: &LocalLakebase) {
    let is_deletion = |event: &Event| matches!(event.kind, EventKind::BranchDeleted { .. });
    soon(local.wait_until(|events| events.iter().any(is_deletion))).await;
    assert_eq!(local.branches().len(), 1);
}

fn assert_contains(error: &Error, text: &str) {
    let shown = error.to_string();
    assert!(shown.contains(text), "{text:?} in {shown}");
}

#[tokio::test]
async fn a_branch_has_the_data_of_its_source_and_changes_only_its_own() {
    let local = local().await;
    seed(&local).await;
    // Set for production, and not used for the branch.
    let changes = [("PGHOST", "localhost"), ("PGHOSTADDR", "127.0.0.1")];
    let production = lakebase_with(&local, &changes);
    let branches = production.branches().expect("a project");
    let before = local.counters();
    let branch = soon(branches.create(new("copy").source("production")));
    let branch = branch.await.expect("a branch");
    assert_eq!((branch.id(), branch.source()), ("copy", Some("production")));
    assert_eq!(*branch.state(), BranchState::Ready);
    assert!(!branch.is_default() && !branch.is_protected());
    assert!(branch.expires_at() > Some(SystemTime::UNIX_EPOCH));

    let copy = branch.lakebase();
    let text = "UPDATE items SET text = 'changed' WHERE id = 1 RETURNING text";
    assert_eq!(soon(ask(&copy, text)).await.expect("a row"), "changed");
    let text = "SELECT text FROM items WHERE id = 1";
    assert_eq!(soon(ask(&production, text)).await.expect("a row"), "seeded");
    let (one, other) = (copy.target().await, production.target().await);
    let (one, other) = (one.expect("a target"), other.expect("a target"));
    assert_ne!(one.host(), other.host());
    assert_eq!(one.port(), other.port());
    assert_eq!(one.hostaddr(), None);

    let after = local.counters();
    assert_eq!(
        after.workspace_tokens,
        before.workspace_tokens + 1,
        "shared"
    );
    assert_eq!(after.minted, before.minted + 2, "one for each");
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_tests_write_the_same_keys_at_the_same_time() {
    let local = local().await;
    seed(&local).await;
    let production = lakebase(&local);
    let test = |number: usize| {
        let production = production.clone();
        async move {
            let branch = TestBranch::of(&production, "production").await?;
            let write = format!("INSERT INTO items VALUES (2, 'of {number}') RETURNING text");
            ask(&branch.lakebase(), &write).await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
            let read = "SELECT string_agg(text, ' ' ORDER BY id) FROM items";
            let found = ask(&branch.lakebase(), read).await?;
            assert_eq!(found, format!("seeded of {number}"));
            branch.finish().await
        }
    };
    let all = try_join_all((0..20).map(test));
    later(all).await.expect("no test disturbs another");
    let left = branches(&local).list().await.expect("a list");
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(
        soon(ask(&production, "SELECT count(*)::text FROM items"))
            .await
            .expect("a row"),
        "1"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rejected_logins_of_a_new_branch_are_never_visible() {
    let local = local().await;
    local.set_fresh_branch_refusal(Some(Duration::from_secs(6)));
    let production = lakebase(&local);
    soon(ask(&production, "SELECT ''")).await.expect("a login");
    let held = production.credential().await.expect("a credential");
    let branches = production.branches().expect("a project");
    let one = |number: usize| {
        let branches = branches.clone();
        async move {
            let branch = branches.create(new(&format!("b-{number}"))).await?;
            let lakebase = branch.lakebase();
            assert!(lakebase.last_failure().is_none());
            // The first login works.
            let at_once = lakebase.with_connect_timeout(Duration::from_secs(5));
            ask(&at_once, "SELECT ''").await?;
            assert!(lakebase.last_failure().is_none());
            branch.purge().await
        }
    };
    for group in 0..3 {
        let all = join_all((0..5).map(|number| one(group * 5 + number)));
        for outcome in later(all).await {
            outcome.expect("no failed login");
        }
    }
    let counters = local.counters();
    assert!(
        counters.refused >= 15,
        "no branch rejected logins: {counters:?}"
    );
    assert!(counters.minted <= 1 + 15 * 3, "{counters:?}");
    let now = production.credential().await.expect("a credential");
    assert_eq!(
        now.generation(),
        held.generation(),
        "production has another credential"
    );
    assert!(production.last_failure().is_none());
}

#[tokio::test]
async fn a_branch_whose_login_never_works_is_a_timeout_with_the_cause() {
    let local = local().await;
    local.set_fresh_branch_refusal(Some(Duration::MAX));
    let limit = Duration::from_secs(10);
    let branches = branches(&local);
    let branch = branches.create(new("closed").timeout(limit));
    let error = soon(branch).await.expect_err("no login");
    assert!(error.is_timeout(), "{error}");
    assert_contains(&error, "closed is ready, but a login fails");
    let open = branches.create(new("open").without_login());
    soon(open).await.expect("a branch");
}

#[tokio::test]
async fn a_rejected_password_is_retried_while_a_branch_becomes_ready() {
    let local = local().await;
    let mut production = branches(&local).get("production").await.expect("a branch");
    let text = "password authentication failed for user";
    local.fail_logins(3, LoginFault::refuse("28P01", text));
    soon(production.wait_ready(Duration::from_secs(30)))
        .await
        .expect("ready");
    let counters = local.counters();
    assert_eq!(counters.refused, 3);
    assert!(counters.minted <= 3, "{counters:?}");
}

#[tokio::test]
async fn a_slow_operation_is_polled_until_the_timeout() {
    let local = local().await;
    local.set_operation_delay(Duration::from_secs(3));
    let branches = branches(&local);
    create(&branches, "slow").await;
    local.set_operation_delay(Duration::from_secs(60));
    let limit = Duration::from_secs(2);
    let error = soon(branches.create(new("slower").timeout(limit)));
    let error = error.await.expect_err("too slow");
    assert!(error.is_timeout(), "{error}");
    assert_contains(&error, "is not done");
}

#[tokio::test]
async fn the_error_of_each_broken_rule_names_the_next_step() {
    let local = local().await;
    let branches = branches(&local);
    create(&branches, "taken").await;
    let error = soon(branches.create(new("taken")))
        .await
        .expect_err("taken");
    assert_eq!(error.status(), Some(409));
    assert_contains(&error, "choose another id");
    let mut branch = branches.get("taken").await.expect("a branch");

    soon(branch.set_protected(true)).await.expect("protected");
    let error = soon(branch.purge()).await.expect_err("protected");
    assert_contains(&error, "set_protected(false)");
    soon(branch.set_protected(false))
        .await
        .expect("not protected");

    let error = soon(branches.purge("production")).await.expect_err("root");
    assert_contains(&error, "root branch");
    soon(branches.create(new("child").source("taken")))
        .await
        .expect("a child");
    let error = soon(branch.purge()).await.expect_err("a child");
    assert_contains(&error, "delete those first");
    soon(branches.purge("child")).await.expect("purged");

    let forty_days = Expiry::After(Duration::from_secs(40 * 86_400));
    let error = soon(branches.create(NewBranch::new(id("long"), forty_days)));
    assert_contains(&error.await.expect_err("too long"), "shorter expiry");
    let error = soon(branch.set_expiry(forty_days)).await;
    assert_contains(&error.expect_err("too long"), "shorter expiry");

    for source in ["nothing", "br-quiet-river-d1abc234"] {
        let error = soon(branches.create(new("x").source(source)));
        assert_contains(&error.await.expect_err("no source"), "uid");
    }

    soon(branch.delete()).await.expect("deleted");
    let error = soon(branches.create(new("taken")))
        .await
        .expect_err("taken");
    assert_contains(&error, "keeps its id until it is purged");
    soon(branches.purge("taken")).await.expect("purged");
    create(&branches, "taken").await;

    local.set_branch_limit(2);
    let error = soon(branches.create(new("more")))
        .await
        .expect_err("a limit");
    assert_contains(&error, "delete some");
    assert!(!error.is_transient(), "{error}");

    local.set_can_manage(local.client_id(), false);
    let error = soon(branches.create(new("more")))
        .await
        .expect_err("no privilege");
    assert!(error.is_sign_in(), "{error}");
    assert_contains(&error, "CAN MANAGE");
    let error = soon(branches.purge("taken"))
        .await
        .expect_err("no privilege");
    assert_contains(&error, "CAN MANAGE");
    assert_eq!(branches.list().await.expect("a list").len(), 2);
}

#[tokio::test]
async fn expiry_can_be_changed_and_deletion_undone() {
    let local = local().await;
    let branches = branches(&local);
    let mut branch = create(&branches, "kept").await;
    let before = branch.expires_at();
    let day = Expiry::After(Duration::from_secs(86_400));
    soon(branch.set_expiry(day)).await.expect("extended");
    assert!(branch.expires_at() > before);
    soon(branch.set_expiry(Expiry::Never)).await.expect("kept");
    assert_eq!(branch.expires_at(), None);
    soon(branch.delete()).await.expect("deleted");
    let names = |all: Vec<Branch>| {
        all.iter()
            .map(|known| known.id().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names(branches.list().await.expect("a list")),
        ["production"]
    );
    let mut branch = soon(branches.undelete("kept")).await.expect("undeleted");
    soon(branch.wait_ready(Duration::from_secs(30)))
        .await
        .expect("ready");
    soon(ask(&branch.lakebase(), "SELECT ''"))
        .await
        .expect("a login");
}

#[tokio::test]
async fn a_plain_postgres_has_no_branches() {
    let local = local().await;
    let error = native(&local, &[]).await.branches().expect_err("none");
    assert!(error.is_config(), "{error}");
    assert_contains(&error, "LAKEBASE_ENDPOINT");
}

#[tokio::test]
async fn roles_and_databases_of_a_branch_are_created_and_deleted() {
    let local = local().await;
    let (client, newcomer) = service_principal(&local, &[]);
    let branches = owner(&local).branches().expect("a project");
    let branch = create(&branches, "roles").await;
    let role = NewRole::of_identity(&client, IdentityKind::ServicePrincipal)
        .member_of(["DATABRICKS_SUPERUSER"]);
    let role = soon(branch.create_role(role.clone()))
        .await
        .expect("a role");
    assert_eq!(role.postgres_role, client);
    assert_eq!(role.memberships, ["DATABRICKS_SUPERUSER"]);
    let role = soon(branch.grant_memberships(role.id(), ["DATABRICKS_SUPERUSER"])).await;
    let role = role.expect("the same");
    assert_eq!(role.memberships, ["DATABRICKS_SUPERUSER"]);
    let again = NewRole::of_identity(&client, IdentityKind::ServicePrincipal);
    let error = soon(branch.create_role(again))
        .await
        .expect_err("it exists");
    assert_contains(&error, "use that role");

    let plain = soon(branch.create_role(NewRole::without_login("holder")))
        .await
        .expect("a role");
    assert!(plain.memberships.is_empty());
    let plain = soon(branch.grant_memberships(plain.id(), ["DATABRICKS_SUPERUSER"])).await;
    assert_eq!(
        plain.expect("granted").memberships,
        ["DATABRICKS_SUPERUSER"]
    );

    let made = soon(branch.create_database("My Shop", role.id()))
        .await
        .expect("a database");
    assert_eq!(
        (made.id(), made.owner.as_deref()),
        ("my-shop", Some(role.id()))
    );
    let error = soon(branch.create_database("My Shop", role.id())).await;
    assert_contains(&error.expect_err("it exists"), "use that database");
    let error = soon(branch.create_database("other", "nobody")).await;
    assert_contains(&error.expect_err("no owner"), "Create the role first");

    let newcomer = newcomer.branches().expect("a project");
    let newcomer = newcomer.get("roles").await.expect("a branch").lakebase();
    let newcomer = newcomer.with_database("My Shop").expect("a name");
    let found = soon(ask(&newcomer, "SELECT current_database()::text")).await;
    assert_eq!(found.expect("a login"), "My Shop");

    soon(branch.delete_database("my-shop"))
        .await
        .expect("deleted");
    soon(branch.delete_role("holder", None))
        .await
        .expect("deleted");
    let ids: Vec<String> = branch
        .roles()
        .await
        .expect("roles")
        .iter()
        .map(|role| role.id().to_owned())
        .collect();
    assert!(!ids.contains(&"holder".to_owned()), "{ids:?}");
    let databases = branch.databases().await.expect("databases");
    assert!(
        databases.iter().all(|known| known.id() != "my-shop"),
        "{databases:?}"
    );
}

#[derive(QueryableByName)]
struct Item {
    #[diesel(sql_type = diesel::sql_types::Text)]
    text: String,
}

#[tokio::test]
async fn pools_of_both_orms_connect_to_a_branch() {
    let local = local().await;
    seed(&local).await;
    let branch = soon(TestBranch::of(&lakebase(&local), "production")).await;
    let branch = branch.expect("a branch");
    let pool = lakebase_diesel::bb8::connect(&branch.lakebase())
        .await
        .expect("a pool");
    let mut connection = soon(pool.get()).await.expect("a connection");
    let sql = "INSERT INTO items VALUES (2, 'diesel') RETURNING text";
    let made: Item = RunQueryDsl::get_result(diesel::sql_query(sql), &mut connection)
        .await
        .expect("a row");
    assert_eq!(made.text, "diesel");
    let db = soon(lakebase_seaorm::connect(&branch.lakebase()))
        .await
        .expect("a connection");
    let sql = "SELECT text FROM items WHERE id = 2";
    let statement = Statement::from_string(db.get_database_backend(), sql);
    let row = db
        .query_one_raw(statement)
        .await
        .expect("rows")
        .expect("a row");
    assert_eq!(row.try_get::<String>("", "text").expect("a text"), "diesel");
    drop(connection);
    db.close().await.expect("closed");
    soon(branch.finish()).await.expect("deleted");
}

#[tokio::test]
async fn a_test_branch_is_deleted_if_it_or_the_future_that_creates_it_is_dropped() {
    let local = local().await;
    let production = lakebase(&local);
    let branch = soon(TestBranch::of(&production, "production"))
        .await
        .expect("a branch");
    let name = branch.branch().id().to_owned();
    drop(branch);
    is_deleted(&branches(&local), &name).await;

    local.set_operation_delay(Duration::from_secs(2));
    let given_up = TestBranch::of(&production, "production");
    let outcome = tokio::time::timeout(Duration::from_millis(500), given_up).await;
    assert!(outcome.is_err(), "it takes two seconds");
    let deleted = local.counters().branches_deleted;
    soon(local.wait_until(|_| local.counters().branches_deleted > deleted)).await;
}

#[tokio::test]
async fn a_failure_after_the_creation_leaves_no_branch() {
    let local = local().await;
    let production = lakebase(&local);
    let denied = Fault::status(403, "PERMISSION_DENIED", "no credential for you");
    local.fail(Call::Credential, denied);
    let error = soon(TestBranch::of(&production, "production")).await;
    assert_eq!(error.expect_err("no login").status(), Some(403));
    one_deletion(&local).await;

    let branches = branches(&local);
    let failed = soon(branches.try_create(new("left"))).await;
    assert!(failed.expect_err("no login").may_exist);
    let failed = soon(branches.try_create(new("left"))).await;
    assert!(
        !failed.expect_err("taken").may_exist,
        "another branch has the id"
    );
}

#[test]
fn a_test_branch_is_deleted_after_the_runtime_of_its_test_has_ended() {
    let runtime = || tokio::runtime::Runtime::new().expect("a runtime");
    let outer = runtime();
    let local = outer.block_on(local());
    let inner = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let inner = inner.expect("a runtime");
    let branch = inner.block_on(TestBranch::of(&lakebase(&local), "production"));
    let branch = branch.expect("a branch");
    let name = branch.branch().id().to_owned();
    drop(inner);
    drop(branch);
    outer.block_on(is_deleted(&branches(&local), &name));
}

/// Tells a process of this test its part.
const PART: &str = "LAKEBASE_TESTS_PART";

#[tokio::test]
async fn branches_of_a_killed_process_are_deleted_by_the_next_one() {
    const NAME: &str = "branches::branches_of_a_killed_process_are_deleted_by_the_next_one";
    match std::env::var(PART).as_deref() {
        Ok("dies") => {
            let _branch = soon(TestBranch::from("production"))
                .await
                .expect("a branch");
            std::process::abort();
        }
        Ok(_) => {
            let branch = soon(TestBranch::from("production"))
                .await
                .expect("a branch");
            soon(branch.finish()).await.expect("deleted");
            // The branch of the other process is deleted in the background.
            let branches = Lakebase::from_env().expect("a handle").branches();
            let branches = branches.expect("a project");
            soon(async {
                while branches.list().await.expect("a list").len() > 1 {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            })
            .await;
            return;
        }
        Err(_) => {}
    }
    let local = local().await;
    for (part, works, left) in [("dies", false, 2), ("cleans", true, 1)] {
        let program = std::env::current_exe().expect("this program");
        let child = tokio::process::Command::new(program)
            .args([NAME, "--exact", "--nocapture"])
            .envs(local.env())
            .env(PART, part)
            .output();
        let child = later(child).await.expect("it ran");
        assert_eq!(child.status.success(), works, "{child:?}");
        assert_eq!(local.branches().len(), left, "{part}: {child:?}");
    }
}

#[tokio::test]
async fn a_rate_limited_request_for_a_branch_is_retried() {
    let local = local().await;
    local.fail_times(Call::Branch, 2, Fault::rate_limited("1"));
    create(&branches(&local), "limited").await;
    assert_eq!(local.counters().branches_created, 1);
}

#[tokio::test]
async fn an_older_branch_with_the_same_id_is_not_mistaken_for_a_lost_creation() {
    let local = local().await;
    let branches = branches(&local);
    create(&branches, "taken").await;
    // Its creation time has to be in the past, in whole seconds.
    tokio::time::sleep(Duration::from_secs(3)).await;
    local.fail_times(Call::Branch, 1, Fault::Reset);
    let error = soon(branches.create(new("taken")))
        .await
        .expect_err("taken");
    assert_eq!(error.status(), Some(409), "{error}");

    // Without an older branch, the request is repeated.
    local.fail_times(Call::Branch, 1, Fault::Reset);
    create(&branches, "free").await;
}

/// A workspace that drops the reply to the first request for a branch.
#[derive(Clone)]
struct Loses {
    workspace: String,
    has_lost: Arc<AtomicBool>,
}

async fn lose(
    State(state): State<Loses>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let is_creation = method == Method::POST && uri.path().ends_with("/branches");
    let response = forward(&state.workspace, method, uri, headers, body).await;
    match is_creation && !state.has_lost.swap(true, Ordering::SeqCst) {
        true => broken(),
        false => response,
    }
}

/// A reply that is cut off.
fn broken() -> Response {
    let broken = Err::<Bytes, _>(std::io::Error::other("lost on purpose"));
    Body::from_stream(futures_util::stream::iter([broken])).into_response()
}

async fn forward(
    workspace: &str,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let url = format!("{workspace}{uri}");
    let request = http().request(method.clone(), url);
    let kept = [header::AUTHORIZATION, header::CONTENT_TYPE];
    let kept = kept
        .iter()
        .filter_map(|name| Some((name.clone(), headers.get(name)?.clone())));
    let request = request.headers(kept.collect()).body(body);
    let reply = request.send().await.expect("a reply");
    let status = StatusCode::from_u16(reply.status().as_u16()).expect("a status");
    let date = reply.headers().get(header::DATE).cloned();
    let body = reply.bytes().await.expect("a body");
    let mut response = (status, body).into_response();
    response
        .headers_mut()
        .extend(date.map(|date| (header::DATE, date)));
    response
}

/// A workspace that gets the first request for a branch after the request to delete it, and rejects the next ones.
#[derive(Clone)]
struct Overtakes {
    workspace: String,
    has_delayed: Arc<AtomicBool>,
    has_overtaken: Arc<tokio::sync::Notify>,
}

async fn overtake(
    State(state): State<Overtakes>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let workspace = state.workspace;
    if method == Method::POST && uri.path().ends_with("/branches") {
        if state.has_delayed.swap(true, Ordering::SeqCst) {
            let denied = r#"{"error_code":"PERMISSION_DENIED","message":"not any more"}"#;
            return (StatusCode::FORBIDDEN, denied).into_response();
        }
        tokio::spawn(async move {
            state.has_overtaken.notified().await;
            forward(&workspace, method, uri, headers, body).await
        });
        return broken();
    }
    let is_deletion = method == Method::DELETE;
    let response = forward(&workspace, method, uri, headers, body).await;
    if is_deletion && response.status() == StatusCode::NOT_FOUND {
        state.has_overtaken.notify_one();
    }
    response
}

#[tokio::test]
async fn a_branch_that_is_created_after_its_deletion_is_deleted() {
    let local = local().await;
    let state = Overtakes {
        workspace: local.workspace_url(),
        has_delayed: Arc::default(),
        has_overtaken: Arc::default(),
    };
    let (host, _) = listen(axum::Router::new().fallback(overtake).with_state(state)).await;
    let production = lakebase_with(&local, &[("DATABRICKS_HOST", &host)]);
    let error = soon(TestBranch::of(&production, "production")).await;
    assert_eq!(error.expect_err("rejected").status(), Some(403));
    one_deletion(&local).await;
    assert_eq!(local.counters().branches_created, 1);
}

#[tokio::test]
async fn a_branch_is_found_if_the_reply_to_its_creation_is_lost() {
    let local = local().await;
    let state = Loses {
        workspace: local.workspace_url(),
        has_lost: Arc::default(),
    };
    let app = axum::Router::new().fallback(lose).with_state(state.clone());
    let (host, _) = listen(app).await;
    let lakebase = lakebase_with(&local, &[("DATABRICKS_HOST", &host)]);
    let branches = lakebase.branches().expect("a project");
    let branch = soon(branches.create(new("lost"))).await.expect("found");
    assert_eq!(branch.id(), "lost");
    assert!(AtomicBool::load(&state.has_lost, Ordering::SeqCst));
    assert_eq!(local.counters().branches_created, 1);
}
