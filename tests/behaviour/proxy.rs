//! The auth proxy: drivers of this process log in with a current token, and other processes do not.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, TryStreamExt as _};
use lakebase_core::proxy::{Builder, Clients, Proxy};
use lakebase_local::{Cut, LocalLakebase};
use lakebase_tests::{
    TestClock, lakebase, lakebase_on, lakebase_with, local, local_with_schema, logins, no_session,
    soon, statements_run, until,
};
use sqlx::postgres::{PgConnection, PgListener};
use sqlx::{Connection as _, Executor as _};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

async fn proxy_of(local: &LocalLakebase) -> Proxy {
    lakebase(local).proxy().await.expect("a proxy")
}

async fn connect(url: &str) -> Client {
    let connected = tokio_postgres::connect(url, NoTls).await;
    let (client, connection) = connected.expect("a login");
    tokio::spawn(connection);
    client
}

async fn client(proxy: &Proxy) -> Client {
    connect(proxy.url()).await
}

async fn ask(client: &Client, sql: &str) -> String {
    let answer = client.simple_query(sql).await.expect("an answer");
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    row.expect("a row")
}

fn folder(proxy: &Proxy) -> PathBuf {
    proxy.folder().expect("a folder").to_owned()
}

async fn closed(client: &Client) {
    until(|| client.is_closed()).await;
}

fn psql(proxy: &Proxy) -> tokio::process::Command {
    let mut psql = tokio::process::Command::new("psql");
    psql.args([proxy.url(), "-XAtc", "SELECT session_user"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").expect("a path"))
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true);
    psql
}

#[tokio::test]
async fn drivers_log_in_with_the_configured_role_and_database_even_if_their_url_has_others() {
    let local = local().await;
    let proxy = proxy_of(&local).await;
    let (_, rest) = proxy.url().split_once('@').expect("a user");
    let rest = rest.replace("databricks_postgres", "elsewhere");
    let other = format!("postgres://somebody:secret@{rest}");
    let client = connect(&other).await;
    assert_eq!(ask(&client, "SELECT session_user").await, local.client_id());
    let mut with_sqlx = PgConnection::connect(&other).await.expect("a login");
    let user: (String,) = sqlx::query_as("SELECT session_user::text")
        .fetch_one(&mut with_sqlx)
        .await
        .expect("an answer");
    assert_eq!(user.0, local.client_id());
    assert_eq!(local.counters().minted, 1);
}

#[tokio::test]
async fn options_of_the_driver_reach_the_server_and_the_schema_is_first_on_the_search_path() {
    let local = local().await;
    let lakebase = lakebase_with(
        &local,
        &[("LAKEBASE_SCHEMA", "My App"), ("PGAPPNAME", "shop")],
    );
    let proxy = lakebase.proxy().await.expect("a proxy");
    let plain = client(&proxy).await;
    let path = "\"My App\",public";
    assert_eq!(ask(&plain, "SHOW search_path").await, path);
    assert_eq!(ask(&plain, "SHOW application_name").await, "shop");
    let url = format!("{}&options=-c%20work_mem%3D5MB", proxy.url());
    let url = url.replace("application_name=shop", "application_name=batch");
    let own = connect(&url).await;
    for (setting, expected) in [
        ("search_path", path),
        ("application_name", "batch"),
        ("work_mem", "5MB"),
    ] {
        assert_eq!(ask(&own, &format!("SHOW {setting}")).await, expected);
    }
}

#[tokio::test]
async fn another_process_and_another_user_cannot_log_in() {
    let local = local().await;
    let proxy = proxy_of(&local).await;
    let output = soon(psql(&proxy).output()).await.expect("psql runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && error.contains("only the process that started it"),
        "{error}"
    );
    if nix::unistd::geteuid().is_root() {
        let output = soon(psql(&proxy).uid(65534).output()).await;
        let error = output.expect("psql runs").stderr;
        let error = String::from_utf8_lossy(&error);
        assert!(error.contains("Permission denied"), "{error}");
    }
    assert_eq!(local.counters().logins + local.counters().refused, 0);

    let proxy = Builder::new(&lakebase(&local)).clients(Clients::ThisUser);
    let proxy = proxy.start().await.expect("a proxy");
    let output = soon(psql(&proxy).output()).await.expect("psql runs");
    let user = String::from_utf8_lossy(&output.stdout);
    assert_eq!(user.trim(), local.client_id());
}

#[tokio::test]
async fn on_tcp_a_driver_needs_the_random_password_of_the_url() {
    let local = local().await;
    let address = (std::net::Ipv4Addr::LOCALHOST, 0).into();
    let proxy = Builder::new(&lakebase(&local)).listen_on(address);
    let proxy = proxy.start().await.expect("a proxy");
    assert_eq!(ask(&client(&proxy).await, "SELECT 1").await, "1");
    assert!(!format!("{proxy:?}").contains(proxy.password().expect("one")));
    let password = format!(":{}@", proxy.password().expect("one"));
    for wrong in [":guess@", ":@", "@"] {
        let url = proxy.url().replace(&password, wrong);
        let error = tokio_postgres::connect(&url, NoTls).await.map(drop);
        let error = error.expect_err("not let in");
        let code = error.as_db_error().map(|error| error.code().code());
        // Without a password, the driver itself fails.
        assert!(
            code.is_none_or(|code| code == "28000"),
            "{wrong}: {error:?}"
        );
    }
    assert_eq!(local.counters().logins, 1);
    let busy = client(&proxy).await;
    cancels(&local, &busy).await;
}

#[tokio::test]
async fn a_configured_password_is_encoded_in_the_url_and_must_not_be_empty() {
    let local = local().await;
    let start = |password: &str| {
        let clients = Clients::Password(password.to_owned().into());
        let builder = Builder::new(&lakebase(&local)).clients(clients);
        builder
            .listen_on((std::net::Ipv4Addr::LOCALHOST, 0).into())
            .start()
    };
    let error = start("").await.expect_err("an empty password");
    assert!(error.is_config(), "{error}");
    let proxy = start("p%41 w:@/?#").await.expect("a proxy");
    assert_eq!(ask(&client(&proxy).await, "SELECT 1").await, "1");
}

async fn cancels(local: &LocalLakebase, client: &Client) {
    let token = client.cancel_token();
    let cancelling = async {
        statements_run(local, "SELECT pg_sleep(60)", 1).await;
        token.cancel_query(NoTls).await.expect("passed on");
    };
    let sleeping = client.batch_execute("SELECT pg_sleep(60)");
    let (outcome, ()) = tokio::join!(sleeping, cancelling);
    let error = outcome.expect_err("cancelled");
    let code = error.code().map(tokio_postgres::error::SqlState::code);
    assert_eq!(code, Some("57014"), "{error}");
    assert_eq!(ask(client, "SELECT 2").await, "2");
}

#[tokio::test]
async fn a_statement_can_be_cancelled_and_its_session_stays_open() {
    let local = local().await;
    let proxy = proxy_of(&local).await;
    let (busy, idle) = (client(&proxy).await, client(&proxy).await);
    cancels(&local, &busy).await;
    assert_eq!(ask(&idle, "SELECT 3").await, "3");
}

#[tokio::test]
async fn copies_notifications_pipelines_and_large_values_pass_through() {
    let local = local_with_schema().await;
    let proxy = proxy_of(&local).await;
    let client = client(&proxy).await;
    let create = "CREATE TABLE numbers (n int8)";
    client.batch_execute(create).await.expect("a table");
    for round in 0..3 {
        let sink = client
            .copy_in("COPY numbers FROM STDIN")
            .await
            .expect("begun");
        let mut sink = Box::pin(sink);
        for chunk in 0..20 {
            let lines: String = (0..500).map(|n| format!("{}\n", chunk * 500 + n)).collect();
            sink.send(bytes::Bytes::from(lines)).await.expect("taken");
        }
        match round {
            // The driver aborts this copy.
            1 => drop(sink),
            _ => assert_eq!(sink.as_mut().finish().await.expect("done"), 10_000),
        }
        let sum = ask(&client, "SELECT sum(n) / count(*) FROM numbers").await;
        assert!(sum.starts_with("4999"), "{sum}");
    }
    let out = client
        .copy_out("COPY numbers TO STDOUT")
        .await
        .expect("begun");
    let bytes: Vec<bytes::Bytes> = out.try_collect().await.expect("all of it");
    let lines: usize = bytes.iter().map(|chunk| chunk.len()).sum();
    assert_eq!(lines, 2 * (10 + 90 * 2 + 900 * 3 + 9_000 * 4 + 10_000));

    let pipelined = (0..500).map(|n| {
        let client = &client;
        async move {
            let row = client.query_one("SELECT $1::int4 * 2", &[&n]).await;
            assert_eq!(row.expect("a row").get::<_, i32>(0), n * 2);
        }
    });
    futures_util::future::join_all(pipelined).await;

    let large = client.query_one("SELECT repeat('x', 20000000)", &[]).await;
    let large: String = large.expect("a row").get(0);
    assert_eq!(large.len(), 20_000_000);
    let back = client.query_one("SELECT length($1::text)", &[&large]).await;
    assert_eq!(back.expect("a row").get::<_, i32>(0), 20_000_000);

    let mut listener = PgListener::connect(proxy.url()).await.expect("a login");
    listener.listen("news").await.expect("listening");
    client
        .batch_execute("NOTIFY news, 'now'")
        .await
        .expect("sent");
    let news = soon(listener.recv()).await.expect("a notification");
    assert_eq!(news.payload(), "now");
}

#[tokio::test]
async fn a_rejected_token_is_replaced_and_a_failed_login_reaches_the_driver_with_its_sqlstate() {
    let local = local().await;
    let proxy = proxy_of(&local).await;
    client(&proxy).await;
    local.revoke_tokens();
    client(&proxy).await;
    assert_eq!(local.counters().minted, 2);
    for (change, code, text) in [
        (("PGUSER", "nobody-we-know"), "28", "does not exist"),
        (("PGDATABASE", "nothing"), "3D000", "PGDATABASE"),
        (
            ("PGSSLROOTCERT", "system"),
            "08001",
            "no trusted TLS connection",
        ),
    ] {
        let proxy = lakebase_with(&local, &[change]).proxy().await;
        let proxy = proxy.expect("a proxy");
        let error = PgConnection::connect(proxy.url()).await.map(drop);
        let error = error.expect_err("no login");
        let database = error.as_database_error().expect("an ErrorResponse");
        assert!(
            database.code().is_some_and(|found| found.starts_with(code)),
            "{change:?}: {error:?}"
        );
        assert!(database.message().contains(text), "{change:?}: {error}");
        let error = sea_orm::RuntimeErr::SqlxError(error.into());
        let cause = lakebase_seaorm::cause(&sea_orm::DbErr::Conn(error)).expect("typed");
        assert!(!cause.is_transient() && cause.hint().is_some(), "{cause}");
    }
}

#[tokio::test]
async fn a_login_at_the_connection_limit_fails_with_a_code_that_sqlx_does_not_retry() {
    let local = local().await;
    local.set_connection_limit(0);
    // Longer than the last pause, which is at most 1.5 s.
    let lakebase = lakebase(&local).with_connect_timeout(Duration::from_secs(2));
    let proxy = lakebase.proxy().await.expect("a proxy");
    let began = Instant::now();
    let pool = sqlx::postgres::PgPoolOptions::new().acquire_timeout(lakebase_tests::PATIENCE);
    let error = soon(pool.connect(proxy.url())).await.map(drop);
    let error = error.expect_err("no place");
    let code = error.as_database_error().and_then(|error| error.code());
    assert_eq!(code.as_deref(), Some("08004"), "{error:?}");
    assert!(error.to_string().contains("53300"), "{error}");
    assert!(
        began.elapsed() >= Duration::from_millis(500),
        "it was retried"
    );
}

#[tokio::test]
async fn the_end_of_a_session_reaches_the_driver_with_its_message() {
    for cut in [Cut::Message, Cut::Close, Cut::Reset] {
        let local = local().await;
        let proxy = proxy_of(&local).await;
        let (client, mut connection) = tokio_postgres::connect(proxy.url(), NoTls)
            .await
            .expect("a login");
        let driven = tokio::spawn(async move {
            let mut messages = futures_util::stream::poll_fn(|cx| connection.poll_message(cx));
            messages.try_next().await
        });
        assert_eq!(ask(&client, "SELECT 1").await, "1");
        local.cut_sessions(cut).await.expect("cut");
        let last = soon(driven).await.expect("no panic");
        closed(&client).await;
        if cut == Cut::Message {
            let error = last.map(drop).expect_err("the end");
            let code = error.code().map(tokio_postgres::error::SqlState::code);
            assert_eq!(code, Some("57P01"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_driver_that_disconnects_ends_its_session_or_its_login() {
    let local = local().await;
    let lakebase = lakebase(&local);
    let proxy = lakebase.proxy().await.expect("a proxy");
    let first = client(&proxy).await;
    assert_eq!(ask(&first, "SELECT 1").await, "1");
    drop(first);
    no_session(&local).await;
    until(|| lakebase.stats().proxy.sessions == 0).await;

    local.set_connection_limit(0);
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    let waiting = tokio_postgres::connect(proxy.url(), NoTls);
    let dropped = tokio::time::timeout(Duration::from_millis(300), waiting).await;
    assert!(dropped.is_err(), "it waits");
    until(|| metrics.num_alive_tasks() <= before).await;
    local.set_connection_limit(10);
    let logins = local.counters().logins;
    client(&proxy).await;
    assert_eq!(
        local.counters().logins,
        logins + 1,
        "none for the dropped one"
    );
}

#[tokio::test]
async fn a_proxy_ends_with_its_last_handle_and_connection_and_leaves_nothing() {
    let local = local().await;
    let lakebase = lakebase(&local);
    lakebase.credential().await.expect("the refresh task runs");
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.num_alive_tasks();
    let proxy = lakebase.proxy().await.expect("a proxy");
    let (socket, ended) = (folder(&proxy), proxy.ended());
    let again = proxy.clone();
    drop(proxy);
    let (client, connection) = tokio_postgres::connect(again.url(), NoTls)
        .await
        .expect("a login");
    let driven = tokio::spawn(connection);
    drop(again);
    assert_eq!(ask(&client, "SELECT 1").await, "1");
    assert!(socket.exists());
    drop(client);
    soon(ended).await;
    let _ = driven.await;
    until(|| !socket.exists() && metrics.num_alive_tasks() <= before).await;
}

#[test]
fn a_proxy_ends_with_its_runtime() {
    let servers = tokio::runtime::Runtime::new().expect("a runtime");
    let local = servers.block_on(local());
    let lakebase = lakebase(&local);
    let first = tokio::runtime::Runtime::new().expect("a runtime");
    let (proxy, client) = first.block_on(async {
        let proxy = lakebase.proxy().await.expect("a proxy");
        let client = client(&proxy).await;
        (proxy, client)
    });
    let socket = folder(&proxy);
    assert!(socket.exists());
    drop(first);
    assert!(!socket.exists() && client.is_closed());
    servers.block_on(async {
        // The next call starts another proxy.
        let proxy = lakebase.proxy().await.expect("a proxy");
        let client = connect(proxy.url()).await;
        assert_eq!(ask(&client, "SELECT 1").await, "1");
    });
}

#[tokio::test]
async fn a_new_proxy_removes_only_the_folders_of_killed_processes() {
    let local = local().await;
    let living = proxy_of(&local).await;
    let temporary = std::env::temp_dir();
    let dead = temporary.join("lakebase-proxy-0123456789ab");
    let foreign = temporary.join("lakebase-proxy-ba9876543210");
    let unlike = temporary.join("lakebase-proxy-somebody");
    for (folder, mode) in [(&dead, 0o700), (&foreign, 0o755), (&unlike, 0o700)] {
        use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt};
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(folder)
            .expect("a folder");
        std::fs::set_permissions(folder, PermissionsExt::from_mode(mode)).expect("set");
        // From here on, proxies of other tests can remove it, too.
        let socket = folder.join(".s.PGSQL.5432");
        drop(std::os::unix::net::UnixListener::bind(socket).expect("a socket"));
    }
    let next = proxy_of(&local).await;
    let (is_swept, stays) = (!dead.exists(), foreign.exists() && unlike.exists());
    for folder in [&dead, &foreign, &unlike] {
        let _ = std::fs::remove_file(folder.join(".s.PGSQL.5432"));
        let _ = std::fs::remove_dir(folder);
    }
    assert!(is_swept && stays);
    assert_eq!(ask(&client(&living).await, "SELECT 1").await, "1");
    assert_eq!(ask(&client(&next).await, "SELECT 1").await, "1");
}

#[tokio::test]
async fn a_shutdown_waits_for_open_transactions_within_its_grace_period() {
    let local = local().await;
    let proxy = proxy_of(&local).await;
    let (idle, busy, stuck) = (
        client(&proxy).await,
        client(&proxy).await,
        client(&proxy).await,
    );
    busy.batch_execute("BEGIN").await.expect("begun");
    stuck.batch_execute("BEGIN").await.expect("begun");
    let ending = tokio::spawn({
        let proxy = proxy.clone();
        async move { proxy.shutdown(Duration::from_secs(2)).await }
    });
    closed(&idle).await;
    let error = tokio_postgres::connect(proxy.url(), NoTls).await.map(drop);
    error.expect_err("no new ones");
    assert_eq!(ask(&busy, "SELECT 1").await, "1");
    busy.batch_execute("COMMIT").await.expect("committed");
    assert!(!stuck.is_closed() && !ending.is_finished());
    soon(ending).await.expect("no panic");
    assert!(!folder(&proxy).exists());
    closed(&stuck).await;
}

#[tokio::test]
async fn a_later_shutdown_can_shorten_the_grace_period() {
    let local = local().await;
    let proxy = proxy_of(&local).await;
    let (idle, stuck) = (client(&proxy).await, client(&proxy).await);
    stuck.batch_execute("BEGIN").await.expect("begun");
    let patient = tokio::spawn({
        let proxy = proxy.clone();
        async move { proxy.shutdown(Duration::from_secs(3600)).await }
    });
    // The first shutdown has begun.
    closed(&idle).await;
    assert_eq!(ask(&stuck, "SELECT 1").await, "1");
    soon(proxy.shutdown(Duration::ZERO)).await;
    soon(patient).await.expect("no panic");
    closed(&stuck).await;
}

#[tokio::test]
async fn of_concurrent_shutdowns_the_shortest_grace_period_counts() {
    let local = local().await;
    let proxy = proxy_of(&local).await;
    let stuck = client(&proxy).await;
    stuck.batch_execute("BEGIN").await.expect("begun");
    let urgent = proxy.shutdown(Duration::ZERO);
    let patient = proxy.shutdown(Duration::from_secs(3600));
    soon(async { tokio::join!(urgent, patient) }).await;
    closed(&stuck).await;
}

#[tokio::test]
async fn a_check_needs_no_round_trip_if_the_server_sent_something_recently() {
    let local = local().await;
    let proxy = proxy_of(&local).await;
    let mut connection = PgConnection::connect(proxy.url()).await.expect("a login");
    connection.execute("SELECT 1").await.expect("an answer");
    // From now on, no packet reaches the server.
    local.cut_sessions(Cut::Vanish).await.expect("cut");
    for _ in 0..100 {
        connection.ping().await.expect("an answer of the proxy");
    }
    // With this setting, every check asks the server.
    let proxy = Builder::new(&lakebase(&local)).check_after(Duration::ZERO);
    let proxy = proxy.start().await.expect("a proxy");
    let mut connection = PgConnection::connect(proxy.url()).await.expect("a login");
    connection.ping().await.expect("an answer of the server");
    local.cut_sessions(Cut::Vanish).await.expect("cut");
    let began = Instant::now();
    soon(connection.ping()).await.expect_err("no response");
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn after_a_suspend_of_the_machine_a_check_asks_the_server() {
    let local = local().await;
    let clock = TestClock::default();
    let proxy = lakebase_on(&local, &clock).proxy().await.expect("a proxy");
    let mut connection = PgConnection::connect(proxy.url()).await.expect("a login");
    connection.execute("SELECT 1").await.expect("an answer");
    local.cut_sessions(Cut::Vanish).await.expect("cut");
    connection.ping().await.expect("an answer of the proxy");
    // The monotonic clock does not run during a suspend.
    clock.set_ahead_millis(60 * 60 * 1000);
    soon(connection.ping()).await.expect_err("no response");
}

#[tokio::test]
async fn handles_for_two_databases_share_one_token() {
    let local = local().await;
    local
        .sql("CREATE DATABASE analytics")
        .await
        .expect("a database");
    let lakebase = lakebase(&local);
    let other = lakebase.with_database("analytics").expect("a name");
    let proxy = other.proxy().await.expect("a proxy");
    let client_of_other = client(&proxy).await;
    let database = ask(&client_of_other, "SELECT current_database()").await;
    assert_eq!(database, "analytics");
    client(&lakebase.proxy().await.expect("a proxy")).await;
    assert_eq!(local.counters().minted, 1);
    let databases: Vec<_> = logins(&local.events())
        .into_iter()
        .map(|(_, login)| login.database)
        .collect();
    assert_eq!(databases, ["analytics", "databricks_postgres"]);
    for wrong in ["", "a\0b", &"x".repeat(64)] {
        assert!(
            lakebase
                .with_database(wrong)
                .is_err_and(|error| error.is_config())
        );
    }
}
