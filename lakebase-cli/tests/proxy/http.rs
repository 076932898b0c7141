//! Metrics and probes: `lakebase proxy --http`.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use lakebase_local::{LocalLakebase, LoginFault};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio_postgres::NoTls;

use super::support::{run, soon};
use super::{Running, TOKEN_LIFETIME, ask, client, local, url_of};

const POOL: &str = "db_client_connection_pool_name";
const MAIN: &str = "databricks_postgres";
/// Of `--http`, as documented.
const MOST_CONNECTIONS: usize = 64;

struct Response {
    status: u16,
    head: String,
    body: String,
}

/// The HTTP server of a proxy. Checks that no response has a secret.
struct Server<'a> {
    local: &'a LocalLakebase,
    /// `host:port`.
    address: String,
}

impl<'a> Server<'a> {
    fn at(local: &'a LocalLakebase, url: &str) -> Self {
        let address = url.strip_prefix("http://").expect("a URL").to_owned();
        Self { local, address }
    }

    /// Of a proxy with `--json`, with its listeners.
    async fn of(local: &'a LocalLakebase, proxy: &mut Running) -> (Self, Vec<Value>) {
        let line: Value = serde_json::from_str(&proxy.line().await).expect("JSON");
        let server = Self::at(local, line["http"].as_str().expect("a URL"));
        (server, line["listeners"].as_array().expect("some").clone())
    }

    async fn connect(&self) -> TcpStream {
        soon(TcpStream::connect(&self.address)).await.expect("open")
    }

    async fn request(&self, method: &str, path: &str) -> Response {
        let mut stream = self.connect().await;
        let request = format!("{method} {path} HTTP/1.1\r\nhost: any\r\n\r\n");
        soon(stream.write_all(request.as_bytes()))
            .await
            .expect("sent");
        let mut response = String::new();
        soon(stream.read_to_string(&mut response))
            .await
            .expect("a response and its end");
        for secret in self.local.secrets() {
            assert!(!response.contains(&secret), "{path}: {response}");
        }
        let (head, body) = response.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).expect("a status");
        Response {
            status: status.parse().expect("a number"),
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    async fn get(&self, path: &str) -> Response {
        self.request("GET", path).await
    }

    async fn metrics(&self) -> Metrics {
        let response = self.get("/metrics").await;
        assert_eq!(response.status, 200);
        let content_type = "content-type: text/plain; version=0.0.4; charset=utf-8";
        assert!(response.head.contains(content_type), "{}", response.head);
        Metrics::parse(&response.body)
    }

    /// Repeats the request until the metrics match.
    async fn metrics_when(&self, wanted: impl Fn(&Metrics) -> bool) -> Metrics {
        soon(async {
            loop {
                let metrics = self.metrics().await;
                if wanted(&metrics) {
                    return metrics;
                }
            }
        })
        .await
    }

    async fn ready(&self) {
        soon(async { while self.get("/readyz").await.status != 200 {} }).await;
    }

    /// Waits until the database is not ready for a reason with this text.
    async fn not_ready(&self, database: &str, cause: &str) {
        soon(async {
            loop {
                let response = self.get("/readyz").await;
                if response.status == 200 {
                    continue;
                }
                assert_eq!(response.status, 503);
                let body: Value = serde_json::from_str(&response.body).expect("JSON");
                let found = body["not_ready"][database].as_str().expect("a cause");
                if found.contains(cause) {
                    return;
                }
            }
        })
        .await;
    }
}

type Labels = BTreeMap<String, String>;

/// Metrics, parsed strictly as Prometheus' text format.
#[derive(Debug, Default)]
struct Metrics {
    kinds: BTreeMap<String, String>,
    samples: BTreeMap<(String, Labels), f64>,
}

impl Metrics {
    fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'));
        let mut metrics = Self::default();
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            let help = line.strip_prefix("# HELP ").expect("a family");
            let (family, help) = help.split_once(' ').expect("a help text");
            assert!(is_name(family) && !help.contains('\\'), "{line}");
            let line = lines.next().expect("a type");
            let kind = line.strip_prefix(&format!("# TYPE {family} "));
            let kind = kind.expect("a type").to_owned();
            assert_eq!(kind == "counter", family.ends_with("_total"), "{line}");
            let ends: &[&str] = match &*kind {
                "counter" | "gauge" => &[""],
                "histogram" => &["_bucket", "_sum", "_count"],
                kind => panic!("{kind}"),
            };
            let earlier = metrics.kinds.insert(family.to_owned(), kind);
            assert_eq!(earlier, None, "{family} is split");
            let mut has_samples = false;
            while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
                let (name, labels, value) = sample(line);
                let end = name.strip_prefix(family).expect("the family's name");
                assert!(ends.contains(&end), "{line}");
                let earlier = metrics.samples.insert((name, labels), value);
                assert_eq!(earlier, None, "twice: {line}");
                has_samples = true;
            }
            assert!(has_samples, "{family}");
        }
        metrics
    }

    /// The value of a sample with these labels and no others. Zero if there is none.
    fn value(&self, name: &str, database: &str, label: Option<(&str, &str)>) -> f64 {
        let labels = [(POOL, database)].into_iter().chain(label);
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let found = self.samples.get(&(name.to_owned(), labels.collect()));
        found.copied().unwrap_or_default()
    }

    fn of(&self, name: &str, database: &str) -> f64 {
        self.value(name, database, None)
    }

    /// Checks a histogram and returns its count.
    fn histogram(&self, family: &str, database: &str, bounds: &[&str]) -> f64 {
        let name = format!("{family}_bucket");
        let buckets = bounds.iter().map(|bound| {
            let value = self.value(&name, database, Some(("le", bound)));
            let labels = self.samples.keys().filter(|(known, _)| *known == name);
            let has_bound = |labels: &Labels| labels.get("le").is_some_and(|le| le == bound);
            assert!(labels.into_iter().any(|(_, labels)| has_bound(labels)));
            value
        });
        let buckets: Vec<_> = buckets.collect();
        assert!(buckets.is_sorted(), "{buckets:?}");
        let count = self.of(&format!("{family}_count"), database);
        assert_eq!(buckets.last(), Some(&count));
        let sum = self.of(&format!("{family}_sum"), database);
        assert_eq!(sum > 0.0, count > 0.0, "{family}");
        count
    }
}

fn is_name(name: &str) -> bool {
    let is_first = |c: char| c.is_ascii_alphabetic() || c == '_';
    name.starts_with(is_first) && name.chars().all(|c| is_first(c) || c.is_ascii_digit())
}

/// The name, the labels and the value of a line.
fn sample(line: &str) -> (String, Labels, f64) {
    let (name, mut rest) = line.split_once('{').expect("labels");
    assert!(is_name(name), "{line}");
    let mut labels = Labels::new();
    loop {
        let (label, after) = rest.split_once("=\"").expect("a label");
        assert!(is_name(label), "{line}");
        let mut value = String::new();
        let mut chars = after.chars();
        loop {
            match chars.next().expect("a closing quote") {
                '"' => break,
                '\\' => value.push(match chars.next() {
                    Some('n') => '\n',
                    Some(escaped @ ('\\' | '"')) => escaped,
                    other => panic!("{other:?}: {line}"),
                }),
                other => value.push(other),
            }
        }
        assert_eq!(labels.insert(label.to_owned(), value), None, "{line}");
        rest = chars.as_str();
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => break,
        }
    }
    let value = rest.strip_prefix("} ").expect("a value");
    let value: f64 = value.parse().expect("a number");
    assert!(value.is_finite() && value >= 0.0, "{line}");
    (name.to_owned(), labels, value)
}

const JSON: [&str; 5] = ["--json", "--timeout", "1", "--http", "127.0.0.1:0"];

#[tokio::test]
async fn a_proxy_is_ready_once_a_login_works_and_while_its_token_can_be_used() {
    let local = local().await;
    let starting = || LoginFault::refuse("57P03", "the database system is starting up");
    local.set_api_down(true);
    local.fail_logins_for(Duration::MAX, starting());
    let args = [&JSON[..], &["--listen", "127.0.0.1:0"]].concat();
    let mut proxy = Running::start(&local, &args, &[]).await;
    let (server, listeners) = Server::of(&local, &mut proxy).await;
    assert_eq!(server.get("/readyz").await.status, 503);
    let health = server.get("/healthz").await;
    assert_eq!((health.status, &*health.body), (200, "ok\n"));
    server.not_ready(MAIN, "workspace").await;
    let failures = "lakebase_token_failures_total";
    let has_failed = |metrics: &Metrics| metrics.of(failures, MAIN) > 0.0;
    let metrics = server.metrics_when(has_failed).await;
    assert_eq!(metrics.of("lakebase_token_usable_for_seconds", MAIN), 0.0);

    local.set_api_down(false);
    server.not_ready(MAIN, "starting up").await;
    let failures = "lakebase_login_failures_total";
    let has_failed = |metrics: &Metrics| {
        let mut names = metrics.samples.keys();
        names.any(|(name, labels)| name == failures && labels.contains_key("error_type"))
    };
    server.metrics_when(has_failed).await;
    local.heal_logins();
    server.ready().await;

    // An outage of Postgres alone lasts until the next login, which a probe must not prevent.
    local.fail_logins_for(Duration::MAX, starting());
    let url = url_of(&listeners[0]);
    let refused = soon(tokio_postgres::connect(url, NoTls)).await.map(drop);
    refused.expect_err("an outage");
    assert_eq!(server.get("/readyz").await.status, 200);
    local.set_api_down(true);
    server.not_ready(MAIN, "").await;
    let health = server.get("/healthz").await;
    assert_eq!(health.status, 200);
    // Without a client.
    local.set_api_down(false);
    server.ready().await;
    proxy.terminate().await;
}

#[tokio::test]
async fn metrics_count_logins_and_sessions_of_each_database_and_the_token_once() {
    let local = local().await;
    let other = r#"o"ther\s"#;
    let create = r#"CREATE DATABASE "o""ther\s""#;
    local.sql(create).await.expect("a database");
    let second = format!("127.0.0.1:0={other}");
    let listens = ["--listen", "127.0.0.1:0", "--listen", &second];
    // The same database again.
    let again = format!("127.0.0.1:0={MAIN}");
    let args = [&JSON[..], &listens, &["--listen", &again]].concat();
    let mut proxy = Running::start(&local, &args, &[]).await;
    let (server, listeners) = Server::of(&local, &mut proxy).await;
    server.ready().await;
    let before = server.metrics().await;
    let attempts = "lakebase_login_attempts_total";
    let sessions = "lakebase_proxy_sessions";
    for database in [MAIN, other] {
        assert_eq!(before.of(attempts, database), 1.0, "{before:?}");
        assert_eq!(before.of(sessions, database), 0.0);
    }

    let (first, third) = (url_of(&listeners[0]), url_of(&listeners[2]));
    let clients = [client(first).await, client(third).await];
    for client in &clients {
        ask(client, "SELECT 'answer'").await;
    }
    let during = server.metrics().await;
    assert_eq!(during.of(attempts, MAIN), 3.0);
    assert_eq!(during.of(attempts, other), 1.0);
    assert_eq!(during.of(sessions, MAIN), 2.0);
    assert_eq!(during.of(sessions, other), 0.0);
    let created = "db_client_connection_create_time_seconds";
    let seconds = [
        "0.001", "0.005", "0.01", "0.05", "0.1", "0.5", "1", "5", "10", "+Inf",
    ];
    assert_eq!(during.histogram(created, MAIN, &seconds), 3.0);
    assert_eq!(during.histogram(created, other, &seconds), 1.0);
    let lasts = during.of("lakebase_token_usable_for_seconds", MAIN);
    assert!(lasts > 0.0 && lasts <= TOKEN_LIFETIME.as_secs_f64());
    let mints = "lakebase_token_mints_total";
    let refreshes = "lakebase_token_refresh_duration_milliseconds";
    let millis = [
        "1", "5", "10", "50", "100", "500", "1000", "5000", "10000", "+Inf",
    ];
    let minted = during.of(mints, MAIN);
    assert!(minted >= 1.0);
    assert_eq!(during.histogram(refreshes, MAIN, &millis), minted);
    let is_of_token = |name: &str| name.starts_with("lakebase_token_");
    for (name, labels) in during.samples.keys() {
        assert!(!is_of_token(name) || labels[POOL] == MAIN, "{name}");
    }
    let names: BTreeSet<_> = during.kinds.keys().map(String::as_str).collect();
    let expected = [
        attempts,
        "lakebase_login_pending",
        created,
        sessions,
        "lakebase_token_age_seconds",
        "lakebase_token_usable_for_seconds",
        mints,
        "lakebase_token_failures_total",
        refreshes,
    ];
    assert_eq!(names, BTreeSet::from(expected));

    drop(clients);
    let is_over = |metrics: &Metrics| metrics.of(sessions, MAIN) == 0.0;
    let after = server.metrics_when(is_over).await;
    assert_eq!(after.of(attempts, MAIN), 3.0);
    proxy.terminate().await;
}

#[tokio::test]
async fn a_native_password_has_no_metrics_of_tokens() {
    let local = local().await;
    local
        .create_native_role("native", "a-native-password")
        .await
        .expect("a role");
    local.set_native_login(true);
    let changes = [
        ("LAKEBASE_ENDPOINT", ""),
        ("PGUSER", "native"),
        ("PGPASSWORD", "a-native-password"),
    ];
    let mut proxy = Running::start(&local, &JSON, &changes).await;
    let (server, _) = Server::of(&local, &mut proxy).await;
    server.ready().await;
    let metrics = server.metrics().await;
    assert_eq!(metrics.of("lakebase_login_attempts_total", MAIN), 1.0);
    assert!(!metrics.kinds.keys().any(|name| name.contains("token")));
    proxy.terminate().await;
}

#[tokio::test]
async fn http_serves_reads_of_three_paths_and_nothing_else() {
    let local = local().await;
    let mut proxy = Running::start(&local, &JSON, &[]).await;
    let (server, _) = Server::of(&local, &mut proxy).await;
    server.ready().await;
    for path in ["/metrics", "/healthz", "/readyz"] {
        let head = server.request("HEAD", path).await;
        assert_eq!((head.status, &*head.body), (200, ""), "{path}");
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let response = server.request(method, path).await;
            assert_eq!(response.status, 405, "{method} {path}");
            assert!(response.head.contains("allow: get,head"));
        }
    }
    for path in ["/", "/metrics/", "/stats"] {
        assert_eq!(server.get(path).await.status, 404, "{path}");
    }
    proxy.terminate().await;
}

#[tokio::test]
async fn slow_clients_are_disconnected_and_do_not_block_probes() {
    let local = local().await;
    let mut proxy = Running::start(&local, &JSON, &[]).await;
    let (server, _) = Server::of(&local, &mut proxy).await;
    let mut closed = FuturesUnordered::new();
    for _ in 0..MOST_CONNECTIONS {
        let mut stream = server.connect().await;
        stream.write_all(b"GET /").await.expect("sent");
        closed.push(async move {
            let mut rest = String::new();
            soon(stream.read_to_string(&mut rest)).await.expect("end");
            rest
        });
    }
    let mut health = pin!(server.get("/healthz"));
    tokio::select! {
        biased;
        rest = closed.next() => assert_eq!(rest.as_deref(), Some("")),
        _ = &mut health => panic!("more connections than {MOST_CONNECTIONS}"),
    }
    assert_eq!(health.await.status, 200);
    while let Some(rest) = closed.next().await {
        assert_eq!(rest, "");
    }
    proxy.terminate().await;
}

#[tokio::test]
async fn http_serves_until_the_command_ends() {
    let local = local().await;
    let script = "trap 'exit 5' TERM; echo up; while :; do read _ || :; done";
    let http = ["--http", "127.0.0.1:0", "--", "sh", "-c", script];
    let mut proxy = Running::start(&local, &http, &[]).await;
    let mut errors = BufReader::new(proxy.child.stderr.take().expect("errors"));
    let mut line = String::new();
    soon(errors.read_line(&mut line)).await.expect("text");
    let url = line.trim_end().rsplit(' ').next().expect("a URL");
    let server = Server::at(&local, url);
    assert_eq!(proxy.line().await, "up");
    server.ready().await;
    proxy.signal(Signal::SIGTERM);
    let (code, _) = proxy.end().await;
    assert_eq!(code, Some(5));
    let gone = soon(TcpStream::connect(&server.address)).await;
    gone.expect_err("it has ended");
}

#[tokio::test]
async fn an_address_in_use_is_an_error_that_names_the_option() {
    let local = local().await;
    let mut proxy = Running::start(&local, &JSON, &[]).await;
    let (server, _) = Server::of(&local, &mut proxy).await;
    let ran = run(["proxy", "--http", &server.address], &local.env(), &[]).await;
    assert_eq!(ran.code, Some(2), "{}", ran.err);
    assert!(ran.err.contains("--http"), "{}", ran.err);
    assert!(ran.err.contains(&server.address), "{}", ran.err);
    proxy.terminate().await;
}
