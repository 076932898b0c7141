//! An application changes only its connection manager, and serves requests while tokens rotate and the compute is suspended.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use axum::Router;
use diesel_async::AsyncPgConnection;
use diesel_async::pooled_connection::AsyncDieselConnectionManager;
use diesel_async::pooled_connection::bb8::Pool;
use lakebase_core::Lakebase;
use lakebase_examples::shop::{with_diesel, with_seaorm};
use lakebase_local::{Cut, Event, EventKind, LocalLakebase, Wake};
use lakebase_tests::{
    TooSlow, in_time, lakebase, local, local_with_tokens_of, logins, no_session, session, soon,
    too_slow_unless,
};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Orm {
    Diesel,
    SeaOrm,
}

/// Runs a test with both ORMs at the same time.
pub(crate) async fn with_both_orms<F>(prove: impl Fn(Orm) -> F)
where
    F: Future<Output = ()>,
{
    futures_util::future::join_all([Orm::Diesel, Orm::SeaOrm].map(prove)).await;
}

/// The shop on a free port, until it is dropped.
pub(crate) struct Shop {
    pub(crate) url: String,
    http: reqwest::Client,
    serving: JoinHandle<()>,
}

/// Settings that differ from the defaults of the pools.
#[derive(Clone, Copy, Default)]
struct Settings {
    /// The maximum lifetime of a connection.
    lifetime: Option<Duration>,
    /// The time that a request waits for a connection.
    timeout: Option<Duration>,
}

impl Shop {
    /// Like `shop_diesel` and `shop_seaorm`.
    pub(crate) async fn open(orm: Orm, lakebase: &Lakebase) -> Self {
        Self::open_with(orm, lakebase, Settings::default()).await
    }

    async fn open_with(orm: Orm, lakebase: &Lakebase, settings: Settings) -> Self {
        let Settings { lifetime, timeout } = settings;
        match orm {
            Orm::Diesel => {
                let mut builder = Pool::builder();
                if let Some(lifetime) = lifetime {
                    builder = builder.max_lifetime(lifetime).reaper_rate(lifetime / 4);
                }
                if let Some(timeout) = timeout {
                    builder = builder.connection_timeout(timeout);
                }
                let manager = lakebase_diesel::manager(lakebase);
                Self::open_diesel(builder.build(manager).await.expect("a pool")).await
            }
            Orm::SeaOrm => {
                let mut options = lakebase_seaorm::options();
                if let Some(lifetime) = lifetime {
                    options.max_lifetime(lifetime);
                }
                if let Some(timeout) = timeout {
                    options.acquire_timeout(timeout);
                }
                let db = lakebase_seaorm::connect_with(lakebase, options).await;
                Self::open_seaorm(db.expect("a connection")).await
            }
        }
    }

    /// Like `shop_diesel_before` and `shop_seaorm_before`.
    async fn open_before(orm: Orm, url: &str) -> Self {
        match orm {
            Orm::Diesel => {
                let manager = AsyncDieselConnectionManager::<AsyncPgConnection>::new(url);
                Self::open_diesel(Pool::builder().build(manager).await.expect("a pool")).await
            }
            Orm::SeaOrm => {
                let db = sea_orm::Database::connect(url).await;
                Self::open_seaorm(db.expect("a connection")).await
            }
        }
    }

    async fn open_diesel(pool: Pool<AsyncPgConnection>) -> Self {
        with_diesel::migrate(&pool).await.expect("migrated");
        Self::serve(with_diesel::routes(pool)).await
    }

    async fn open_seaorm(db: impl with_seaorm::Db) -> Self {
        with_seaorm::migrate(&db).await.expect("migrated");
        Self::serve(with_seaorm::routes(db)).await
    }

    async fn serve(routes: Router) -> Self {
        let (url, serving) = listen(routes).await;
        Self {
            url,
            http: http(),
            serving,
        }
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        fetch(self.http.get(format!("{}{path}", self.url))).await
    }

    async fn get_json(&self, path: &str) -> Value {
        let (status, text) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).expect("JSON")
    }

    async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        let request = self.http.post(format!("{}{path}", self.url)).json(body);
        let (status, text) = fetch(request).await;
        let answer = serde_json::from_str(&text);
        (status, answer.unwrap_or_else(|_| panic!("{text:?}")))
    }

    async fn submit(&self, name: &str, item: &str, price: &str) -> (StatusCode, String) {
        let form = [("name", name), ("item", item), ("price", price)];
        fetch(self.http.post(format!("{}/", self.url)).form(&form)).await
    }

    async fn sign_up(&self, name: &str) -> i64 {
        let (status, user) = self.post("/api/users", &json!({ "name": name })).await;
        assert_eq!(status, 201, "{user}");
        user["id"].as_i64().expect("an id")
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn fetch(request: reqwest::RequestBuilder) -> (StatusCode, String) {
    let response = soon(request.send()).await.expect("an answer");
    let status = response.status();
    (status, response.text().await.expect("a text"))
}

/// Serves an application on a free port, and returns its URL.
pub(crate) async fn listen(app: Router) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let serving = async move { axum::serve(listener, app).await.expect("served") };
    (format!("http://{address}"), tokio::spawn(serving))
}

/// A client that does not follow redirects. reqwest needs a TLS configuration even for HTTP.
pub(crate) fn http() -> reqwest::Client {
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .expect("versions")
    .with_root_certificates(rustls::RootCertStore::empty())
    .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .expect("a client")
}

/// On the platform, the service principal of an app has no privileges in `public`.
async fn close_public(local: &LocalLakebase) {
    let everybody = format!("PUBLIC, \"{}\"", local.client_id());
    let sql = format!("REVOKE ALL ON SCHEMA public FROM {everybody}");
    local.sql(&sql).await.expect("revoked");
}

/// The URL of the Postgres server without the gateway.
fn plain_postgres(local: &LocalLakebase) -> String {
    let host = local.dir().display().to_string().replace('/', "%2F");
    format!("postgresql://lakebase_admin@{host}/postgres")
}

/// Valid requests.
async fn visit(shop: &Shop) {
    let (status, page) = shop.get("/").await;
    assert_eq!(status, 200);
    assert!(page.contains("<form"), "{page}");

    let (status, text) = shop.submit("Ann", "<b>tea & \"milk\"", "12.5").await;
    assert_eq!(status, 303, "{text}");
    let (_, page) = shop.get("/").await;
    let row = "<td>Ann</td><td>&lt;b&gt;tea &amp; &quot;milk&quot;</td><td>12.50</td>";
    assert!(page.contains(row), "{page}");

    let users = shop.get_json("/api/users").await;
    let ann = users[0]["id"].as_i64().expect("an id");
    assert_eq!(users, json!([{ "id": ann, "name": "Ann" }]));
    let order = json!({ "user_id": ann, "item": "sugar", "cents": 99 });
    let (status, created) = shop.post("/api/orders", &order).await;
    assert_eq!(status, 201, "{created}");
    let orders = shop.get_json("/api/orders").await;
    let newest = json!({
        "id": created["id"], "user": { "id": ann, "name": "Ann" }, "item": "sugar", "cents": 99
    });
    assert_eq!(orders[0], newest);
    assert_eq!(orders[1]["item"], "<b>tea & \"milk\"");
    assert_eq!(orders[1]["cents"], 1250);

    // The same name is the same user.
    let (status, _) = shop.submit("Ann", "bread", "3").await;
    assert_eq!(status, 303);
    let user = shop.get_json(&format!("/api/users/{ann}")).await;
    let items: Vec<_> = user["orders"].as_array().expect("orders").iter().collect();
    assert_eq!(items.len(), 3, "{user}");
    assert_eq!(items[0]["item"], "bread");
    let (status, answer) = shop.post("/api/users", &json!({ "name": "Ann" })).await;
    assert_eq!((status.as_u16(), &answer["field"]), (409, &json!("name")));
}

/// Invalid requests.
async fn make_mistakes(shop: &Shop) {
    let user = shop.sign_up("Eve").await;
    let before = shop.get_json("/api/orders").await;
    let table = [
        ("/api/users", json!({ "name": "  " }), 422, "name"),
        ("/api/users", json!({ "name": "a\u{0}b" }), 422, "name"),
        ("/api/users", json!({ "name": 5 }), 422, "name"),
        ("/api/users", json!({}), 422, "name"),
        (
            "/api/orders",
            json!({ "user_id": user, "item": "", "cents": 1 }),
            422,
            "item",
        ),
        (
            "/api/orders",
            json!({ "user_id": user, "item": "x", "cents": 0 }),
            422,
            "cents",
        ),
        (
            "/api/orders",
            json!({ "user_id": user, "item": "x", "cents": 1.5 }),
            422,
            "cents",
        ),
        (
            "/api/orders",
            json!({ "user_id": i64::MAX, "item": "x", "cents": 1 }),
            404,
            "user_id",
        ),
    ];
    for (path, body, status, field) in table {
        let (returned, answer) = shop.post(path, &body).await;
        assert_eq!(returned, status, "{body}: {answer}");
        assert!(answer.to_string().contains(field), "{body}: {answer}");
    }
    for (name, item, price, field) in [
        ("", "tea", "1", "name"),
        ("Eve", "", "1", "item"),
        ("Eve", "tea", "cheap", "price"),
        ("Eve", "tea", "0", "price"),
    ] {
        let (status, page) = shop.submit(name, item, price).await;
        assert_eq!(status, 422, "{page}");
        let alert = format!("<strong role=\"alert\">{field} ");
        assert!(page.contains(&alert), "{page}");
        assert!(page.contains(&format!("value=\"{item}\"")), "{page}");
    }
    let (status, answer) = shop.get(&format!("/api/users/{}", i64::MAX)).await;
    assert_eq!(status, 404, "{answer}");
    assert_eq!(shop.get_json("/api/orders").await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shop_after_the_swap_works_without_privileges_on_public() {
    with_both_orms(async |orm| {
        let local = local().await;
        close_public(&local).await;
        let shop = Shop::open(orm, &lakebase(&local)).await;
        visit(&shop).await;
        make_mistakes(&shop).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shop_before_the_swap_works_in_the_same_way() {
    with_both_orms(async |orm| {
        let local = local().await;
        let shop = Shop::open_before(orm, &plain_postgres(&local)).await;
        visit(&shop).await;
        make_mistakes(&shop).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_of_both_orms_start_at_the_same_time() {
    let local = local().await;
    close_public(&local).await;
    let lakebase = lakebase(&local);
    let opening = [Orm::Diesel, Orm::SeaOrm, Orm::Diesel, Orm::SeaOrm].map(|orm| {
        let lakebase = lakebase.clone();
        tokio::spawn(async move { Shop::open(orm, &lakebase).await })
    });
    let mut shops = Vec::new();
    for shop in opening {
        shops.push(soon(shop).await.expect("open"));
    }
    for (number, shop) in shops.iter().enumerate() {
        let (status, text) = shop.submit("Ann", &format!("tea {number}"), "1").await;
        assert_eq!(status, 303, "{text}");
    }
    for shop in &shops {
        let orders = shop.get_json("/api/orders").await;
        assert_eq!(orders.as_array().map(Vec::len), Some(shops.len()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shop_without_a_connection_answers_503_and_recovers() {
    const NEVER: Duration = Duration::from_secs(3600);

    with_both_orms(async |orm| {
        let local = local().await;
        let settings = Settings {
            timeout: Some(Duration::from_secs(4)),
            ..Settings::default()
        };
        let shop = Shop::open_with(orm, &lakebase(&local), settings).await;
        let user = shop.sign_up("Ann").await;
        let suspended = local.suspend(Cut::Close, NEVER, Wake::SlowAccept);
        suspended.await.expect("suspended");
        no_session(&local).await;
        // A round trip later, the shop has noticed the end, too, or notices it by a failed statement.
        local.sql("SELECT 1").await.expect("an answer");

        let order = json!({ "user_id": user, "item": "tea", "cents": 1 });
        let (mut status, mut answer) = shop.post("/api/orders", &order).await;
        if status == 500 {
            (status, answer) = shop.post("/api/orders", &order).await;
        }
        assert_eq!(status, 503, "{orm:?}: {answer}");
        let (status, page) = shop.get("/").await;
        assert_eq!(status, 503, "{orm:?}: {page}");
        assert!(page.contains("Sorry"), "{page}");

        let woken = local.suspend(Cut::Close, Duration::ZERO, Wake::SlowAccept);
        woken.await.expect("suspended");
        // Waiting logins pause; another client resumes the compute.
        session(&lakebase(&local)).await;
        soon(async {
            while shop.post("/api/orders", &order).await.0 != 201 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(shop.get("/").await.0, 200);
    })
    .await;
}

const CUSTOMERS: usize = 8;
/// Between two requests of a customer. Without it, the customers would slow down all other tests.
const PAUSE: Duration = Duration::from_millis(3);
const TOKEN_LIFETIME: Duration = Duration::from_secs(2);
/// Short, so that every token is used for logins.
const CONNECTION_LIFETIME: Duration = Duration::from_millis(500);
const WAKE_DELAY: Duration = Duration::from_secs(1);
/// The time until the shop notices the end of its sessions. Far shorter than the compute takes to resume: a request that
/// waited for the compute must not fail.
const NOTICED: Duration = Duration::from_millis(400);
/// After the compute is active again.
const AT_ONCE: Duration = Duration::from_secs(2);

/// A request and its response.
#[derive(Debug)]
struct Attempt {
    /// The item of an order.
    item: Option<String>,
    began: SystemTime,
    ended: SystemTime,
    status: StatusCode,
    text: String,
}

/// Shared by the customers and the test.
#[derive(Default)]
struct Signals {
    served: watch::Sender<usize>,
    stop: AtomicBool,
}

impl Signals {
    async fn served_once_more_to_each(&self) {
        let mut served = self.served.subscribe();
        let enough = *served.borrow() + 2 * CUSTOMERS;
        let enough = served.wait_for(|&served| served >= enough);
        soon(enough).await.expect("customers");
    }
}

/// Orders and reads orders until the end.
async fn be_a_customer(shop: Arc<Shop>, number: usize, signals: Arc<Signals>) -> Vec<Attempt> {
    let user = shop.sign_up(&format!("customer {number}")).await;
    let url = format!("{}/api/orders", shop.url);
    let mut attempts = Vec::new();
    for serial in 0.. {
        if signals.stop.load(Ordering::Relaxed) {
            break;
        }
        let item = format!("{number}/{serial}");
        let order = json!({ "user_id": user, "item": item, "cents": 1 });
        for (item, request) in [
            (Some(item), shop.http.post(&url).json(&order)),
            (None, shop.http.get(&url)),
        ] {
            let began = SystemTime::now();
            let (status, text) = fetch(request).await;
            if status.is_success() {
                signals.served.send_modify(|served| *served += 1);
            }
            attempts.push(Attempt {
                item,
                began,
                ended: SystemTime::now(),
                status,
                text,
            });
            tokio::time::sleep(PAUSE).await;
        }
    }
    attempts
}

fn tokens_used(events: &[Event]) -> usize {
    let used: BTreeSet<_> = logins(events)
        .iter()
        .filter_map(|(_, login)| login.token)
        .collect();
    used.len()
}

fn wakes(events: &[Event]) -> usize {
    let is_wake = |event: &&Event| event.kind == EventKind::Awake;
    events.iter().filter(is_wake).count()
}

/// From the suspend of the compute to the end of its last session, and to the time when it was active again.
struct Outage {
    from: SystemTime,
    until: SystemTime,
    active: SystemTime,
}

fn outages(events: &[Event]) -> Vec<Outage> {
    let starts = (0..events.len()).filter(|&at| events[at].kind == EventKind::Suspended);
    let outages = starts.map(|at| {
        let suspended = events[at..].split(|event| event.kind == EventKind::Awake);
        let suspended = suspended.into_iter().next().expect("a piece");
        let ended = suspended
            .iter()
            .rfind(|event| matches!(event.kind, EventKind::Ended { .. }));
        Outage {
            from: events[at].at,
            until: ended.expect("sessions that were cut").at,
            active: events[at + suspended.len()].at,
        }
    });
    outages.collect()
}

async fn shop_under_load(orm: Orm) -> Result<(), TooSlow> {
    let local = local_with_tokens_of(TOKEN_LIFETIME).await;
    let lakebase = lakebase(&local);
    let settings = Settings {
        lifetime: Some(CONNECTION_LIFETIME),
        ..Settings::default()
    };
    let shop = Arc::new(Shop::open_with(orm, &lakebase, settings).await);
    let signals = Arc::<Signals>::default();
    let mut customers = JoinSet::new();
    for number in 0..CUSTOMERS {
        let (shop, signals) = (Arc::clone(&shop), Arc::clone(&signals));
        customers.spawn(be_a_customer(shop, number, signals));
    }

    let suspends = [
        (Cut::Message, Wake::SlowAccept),
        (Cut::Close, Wake::StartingUp),
        (Cut::Reset, Wake::Close),
    ];
    for (before, (cut, wake)) in suspends.into_iter().enumerate() {
        soon(local.wait_until(|events| tokens_used(events) > before)).await;
        signals.served_once_more_to_each().await;
        let suspended = local.suspend(cut, WAKE_DELAY, wake).await;
        suspended.expect("suspended");
        soon(local.wait_until(|events| wakes(events) > before)).await;
    }
    // Tokens also rotate without a suspend.
    soon(local.wait_until(|events| tokens_used(events) > suspends.len() + 2)).await;
    signals.served_once_more_to_each().await;
    signals.stop.store(true, Ordering::Relaxed);
    let attempts = soon(customers.join_all()).await;
    let attempts: Vec<_> = attempts.into_iter().flatten().collect();

    assert_orders_are_stored(&lakebase, &attempts).await;
    let outages = outages(&local.events());
    assert_eq!(outages.len(), suspends.len());
    for attempt in &attempts {
        if attempt.status.is_success() {
            continue;
        }
        assert!(attempt.status.is_server_error(), "{orm:?}: {attempt:?}");
        let outage = outages
            .iter()
            .find(|outage| attempt.ended >= outage.from && attempt.began <= outage.until + NOTICED);
        let text = &attempt.text;
        let outage = outage.unwrap_or_else(|| panic!("{orm:?}: failed: {attempt:?} {text}"));
        let is_in_time = attempt.ended <= outage.until + NOTICED;
        too_slow_unless(is_in_time, || {
            format!("{orm:?}: failed late: {attempt:?} {text}")
        })?;
    }
    for outage in &outages {
        let served = attempts.iter().any(|attempt| {
            attempt.status.is_success()
                && attempt.began > outage.until
                && attempt.ended <= outage.active + AT_ONCE
        });
        too_slow_unless(served, || {
            format!("{orm:?}: served late after the compute woke")
        })?;
    }
    Ok(())
}

/// An order with the response 201 is stored once, any other at most once, because a response can be lost.
async fn assert_orders_are_stored(lakebase: &Lakebase, attempts: &[Attempt]) {
    let client = session(lakebase).await;
    let sql = "SELECT item, count(*) FROM shop.orders GROUP BY item";
    let rows = client.query(sql, &[]).await.expect("rows");
    let mut stored: HashMap<String, i64> =
        rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let mut created = 0;
    for attempt in attempts {
        let Some(item) = &attempt.item else { continue };
        let times = stored.remove(item).unwrap_or(0);
        if attempt.status == StatusCode::CREATED {
            created += 1;
            assert_eq!(times, 1, "{attempt:?}");
        } else {
            assert!(times <= 1, "stored {times} times: {attempt:?}");
        }
    }
    assert!(stored.is_empty(), "not ordered: {stored:?}");
    assert!(created >= 4 * CUSTOMERS, "only {created} orders");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_order_is_lost_on_diesel_while_tokens_rotate_and_the_compute_is_suspended() {
    in_time(async || shop_under_load(Orm::Diesel).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_order_is_lost_on_seaorm_while_tokens_rotate_and_the_compute_is_suspended() {
    in_time(async || shop_under_load(Orm::SeaOrm).await).await;
}

/// The lines of a program without its doc comment.
fn lines(program: &str) -> Vec<&str> {
    let is_code = |line: &&str| !line.starts_with("//!");
    program.lines().filter(is_code).collect()
}

/// Removes these lines, in their order.
fn without<'a>(mut program: Vec<&'a str>, lines: &[&str]) -> Vec<&'a str> {
    let mut from = 0;
    for line in lines {
        let next = program[from..].iter().position(|found| found == line);
        from += next.unwrap_or_else(|| panic!("no {line:?} in {program:#?}"));
        program.remove(from);
    }
    program
}

#[test]
fn the_swap_changes_only_the_lines_that_connect() {
    let programs = [
        (
            include_str!("../../examples/src/bin/shop_diesel_before.rs"),
            [
                "use diesel_async::pooled_connection::AsyncDieselConnectionManager;",
                "    let url = std::env::var(\"DATABASE_URL\")?;",
                "    let manager = AsyncDieselConnectionManager::<AsyncPgConnection>::new(url);",
            ]
            .as_slice(),
            include_str!("../../examples/src/bin/shop_diesel.rs"),
            [
                "use lakebase_core::Lakebase;",
                "    let lakebase = Lakebase::from_env()?;",
                "    let manager = lakebase_diesel::manager(&lakebase);",
            ]
            .as_slice(),
        ),
        (
            include_str!("../../examples/src/bin/shop_seaorm_before.rs"),
            &[
                "    let url = std::env::var(\"DATABASE_URL\")?;",
                "    let db = sea_orm::Database::connect(url).await?;",
            ],
            include_str!("../../examples/src/bin/shop_seaorm.rs"),
            &[
                "use lakebase_core::Lakebase;",
                "    let lakebase = Lakebase::from_env()?;",
                "    let db = lakebase_seaorm::connect(&lakebase).await?;",
            ],
        ),
    ];
    for (before, gone, after, new) in programs {
        assert_eq!(without(lines(before), gone), without(lines(after), new));
    }
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .flat_map(|path| {
            if path.is_dir() {
                sources(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

#[test]
fn the_rest_of_the_shop_does_not_mention_lakebase() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/src/shop");
    let sources = sources(&folder);
    assert!(sources.len() > 10, "{sources:?}");
    for path in sources {
        let text = std::fs::read_to_string(&path).expect("a text");
        let line = text
            .lines()
            .find(|line| line.to_lowercase().contains("lakebase"));
        assert_eq!(line, None, "{}", path.display());
    }
}
