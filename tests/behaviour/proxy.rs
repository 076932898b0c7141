//! The auth proxy: any driver logs in with a current token, and nobody else does.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, TryStreamExt as _};
use lakebase_core::Lakebase;
use lakebase_core::proxy::{Builder, Clients, Proxy};
use lakebase_local::{Cut, LocalLakebase};
use lakebase_tests::{
    TestClock, lakebase, lakebase_on, lakebase_with, local, local_with_schema, logins, soon,
    statements_run,
};
use sqlx::postgres::{PgConnection, PgListener};
use sqlx::{Connection as _, Executor as _};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

async fn proxy_of(local: &LocalLakebase) -> Proxy {
    lakebase(local).proxy().await.expect("a proxy")
}

async fn client(proxy: &Proxy) -> Client {
    let (client, connection) = tokio_postgres::connect(proxy.url(), NoTls)
        .await
        .expect("a login");
    tokio::spawn(connection);
    client
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

async fn gone(path: &Path) {
    soon(async {
        while path.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn closed(client: &Client) {
    soon(async {
        while !client.is_closed() {
            tokio::task::yield_now().await;
        }
    })
    .await;
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
async fn drivers_log_in_as_the_role_of_the_lakebase_whatever_the_url_says() {
    let local = local().await;
    let proxy = proxy_of(&local).await;
    let (_, rest) = proxy.url().split_once('@').expect("a user");
    let rest = rest.replace("databricks_postgres", "elsewhere");
    let other = format!("postgres://somebody:secret@{rest}");
    let (client, connection) = tokio_postgres::connect(&other, NoTls)
        .await
        .expect("a login");
    tokio::spawn(connection);
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
async fn what_a_driver_asks_for_is_passed_on_and_the_schema_comes_first() {
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
    let (own, connection) = tokio_postgres::connect(&url, NoTls).await.expect("a login");
    tokio::spawn(connection);
    for (setting, expected) in [
        ("search_path", path),
        ("application_name", "batch"),
        ("work_mem", "5MB"),
    ] {
        assert_eq!(ask(&own, &format!("SHOW {setting}")).await, expected);
    }
}

#[tokio::test]
async fn another_process_and_another_user_are_turned_away() {
    let local = local().await;
    let proxy = proxy_of(&local).await;
    let output = soon(psql(&proxy).output()).await.expect("psql runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && error.contains("the process that started it alone"),
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
async fn on_tcp_the_url_has_a_password_that_strangers_do_not_know() {
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
        // Without any, the driver gives up by itself.
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
async fn a_password_of_ones_own_is_encoded_in_the_url_and_never_empty() {
    let local = local().await;
    let start = |password: &str| {
        let clients = Clients::Password(password.to_owned().into());
        let builder = Builder::new(&lakebase(&local)).clients(clients);
        builder
            .listen_on((std::net::Ipv4Addr::LOCALHOST, 0).into())
            .start()
    };
    let error = start("").await.expect_err("everybody would know it");
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
async fn a_statement_is_cancelled_and_its_session_goes_on() {
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
        for chunk in 0..200 {
            let lines: String = (0..500).map(|n| format!("{}\n", chunk * 500 + n)).collect();
            sink.send(bytes::Bytes::from(lines)).await.expect("taken");
        }
        match round {
            // Given up in the middle.
            1 => drop(sink),
            _ => assert_eq!(sink.as_mut().finish().await.expect("done"), 100_000),
        }
        let sum = ask(&client, "SELECT sum(n) / count(*) FROM numbers").await;
        assert!(sum.starts_with("49999"), "{sum}");
    }
    let out = client
        .copy_out("COPY numbers TO STDOUT")
        .await
        .expect("begun");
    let bytes: Vec<bytes::Bytes> = out.try_collect().await.expect("all of it");
    let lines: usize = bytes.iter().map(|chunk| chunk.len()).sum();
    assert_eq!(
        lines,
        2 * (10 + 90 * 2 + 900 * 3 + 9_000 * 4 + 90_000 * 5 + 100_000)
    );

    let pipelined = (0..500).map(|n| {
        let client = &client;
        async move {
            let row = client.query_one("SELECT $1::int4 * 2", &[&n]).await;
            assert_eq!(row.expect("a row").get::<_, i32>(0), n * 2);
        }
    });
    futures_util::future::join_all(pipelined).await;

    let large = client.query_one("SELECT repeat('x', 100000000)", &[]).await;
    let large: String = large.expect("a row").get(0);
    assert_eq!(large.len(), 100_000_000);
    let back = client.query_one("SELECT length($1::text)", &[&large]).await;
    assert_eq!(back.expect("a row").get::<_, i32>(0), 100_000_000);

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
async fn a_rejected_token_is_renewed_and_a_failed_login_reaches_the_driver_with_its_code() {
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
async fn a_connection_limit_is_waited_out_and_then_told_in_a_code_that_is_not_repeated() {
    let local = local().await;
    local.set_connection_limit(0);
    // The last pause, which is 1.5 s at most, must not leave too little.
    let lakebase = lakebase(&local).with_connect_timeout(Duration::from_secs(2));
    let proxy = lakebase.proxy().await.expect("a proxy");
    let began = Instant::now();
    let pool = sqlx::postgres::PgPoolOptions::new().acquire_timeout(lakebase_tests::PATIENCE);
    let error = soon(pool.connect(proxy.url())).await.map(drop);
    let error = error.expect_err("no place");
    let code = error.as_database_error().and_then(|error| error.code());
    assert_eq!(code.as_deref(), Some("08004"), "{error:?}");
    assert!(error.to_string().contains("53300"), "{error}");
    assert!(began.elapsed() >= Duration::from_millis(500), "waited out");
}

#[tokio::test]
async fn a_server_that_goes_closes_the_drivers_side_with_its_last_words() {
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
async fn a_driver_that_goes_ends_its_session_and_gives_up_its_login() {
    let local = local().await;
    let proxy = proxy_of(&local).await;
    let first = client(&proxy).await;
    assert_eq!(ask(&first, "SELECT 1").await, "1");
    drop(first);
    soon(local.wait_until(|_| local.counters().open_sessions == 0)).await;

    local.set_connection_limit(0);
    let waiting = tokio_postgres::connect(proxy.url(), NoTls);
    let given_up = tokio::time::timeout(Duration::from_millis(300), waiting).await;
    assert!(given_up.is_err(), "it waits");
    local.set_connection_limit(10);
    let logins = local.counters().logins;
    client(&proxy).await;
    assert_eq!(
        local.counters().logins,
        logins + 1,
        "nobody logs in for the other"
    );
}

#[tokio::test]
async fn it_ends_with_its_last_handle_and_connection_and_leaves_nothing() {
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
    gone(&socket).await;
    soon(async {
        while metrics.num_alive_tasks() > before {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[test]
fn it_ends_with_its_runtime() {
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
    assert!(!socket.exists(), "no driver waits for it");
    servers.block_on(async {
        assert!(client.is_closed());
        // The next caller starts another one.
        assert_eq!(
            ask(
                &super::proxy::client(&lakebase.proxy().await.expect("a proxy")).await,
                "SELECT 1"
            )
            .await,
            "1"
        );
    });
}

#[tokio::test]
async fn the_folder_of_a_killed_process_is_removed_at_the_next_start_and_no_other() {
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
        // From here on, the proxies of other tests remove a dead one, too.
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
async fn a_shutdown_lets_transactions_finish_within_its_grace() {
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
async fn a_more_urgent_shutdown_cuts_a_patient_one_short() {
    let local = local().await;
    let proxy = proxy_of(&local).await;
    let (idle, stuck) = (client(&proxy).await, client(&proxy).await);
    stuck.batch_execute("BEGIN").await.expect("begun");
    let patient = tokio::spawn({
        let proxy = proxy.clone();
        async move { proxy.shutdown(Duration::from_secs(3600)).await }
    });
    // By then it is under way.
    closed(&idle).await;
    assert_eq!(ask(&stuck, "SELECT 1").await, "1");
    soon(proxy.shutdown(Duration::ZERO)).await;
    soon(patient).await.expect("no panic");
    closed(&stuck).await;
}

#[tokio::test]
async fn of_shutdowns_at_once_the_most_urgent_counts() {
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
async fn a_check_costs_no_round_trip_while_the_server_was_heard_lately() {
    let local = local().await;
    let proxy = proxy_of(&local).await;
    let mut connection = PgConnection::connect(proxy.url()).await.expect("a login");
    connection.execute("SELECT 1").await.expect("an answer");
    // Whatever is sent to the server now is lost.
    local.cut_sessions(Cut::Vanish).await.expect("cut");
    for _ in 0..100 {
        connection.ping().await.expect("an answer of the proxy");
    }
    // In a transaction, the server is the one to ask.
    let proxy = Builder::new(&lakebase(&local)).check_after(Duration::ZERO);
    let proxy = proxy.start().await.expect("a proxy");
    let mut connection = PgConnection::connect(proxy.url()).await.expect("a login");
    connection.ping().await.expect("an answer of the server");
    local.cut_sessions(Cut::Vanish).await.expect("cut");
    let began = Instant::now();
    soon(connection.ping()).await.expect_err("nobody answers");
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn after_the_machine_was_suspended_a_check_goes_to_the_server() {
    let local = local().await;
    let clock = TestClock::default();
    let proxy = lakebase_on(&local, &clock).proxy().await.expect("a proxy");
    let mut connection = PgConnection::connect(proxy.url()).await.expect("a login");
    connection.execute("SELECT 1").await.expect("an answer");
    local.cut_sessions(Cut::Vanish).await.expect("cut");
    connection.ping().await.expect("an answer of the proxy");
    // The monotonic clock stands still meanwhile.
    clock.set_ahead_millis(60 * 60 * 1000);
    soon(connection.ping()).await.expect_err("nobody answers");
}

#[tokio::test]
async fn another_database_of_the_same_lakebase_shares_its_tokens() {
    let local = local().await;
    local
        .sql("CREATE DATABASE analytics")
        .await
        .expect("a database");
    let lakebase: Lakebase = lakebase(&local);
    let other = lakebase.with_database("analytics").expect("a name");
    let proxy = other.proxy().await.expect("a proxy");
    let sql = "SELECT current_database()";
    let outcome = tokio_postgres::connect(proxy.url(), NoTls).await;
    match outcome {
        Ok((client, connection)) => {
            tokio::spawn(connection);
            assert_eq!(ask(&client, sql).await, "analytics");
        }
        Err(error) => panic!("{error:?}"),
    }
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
