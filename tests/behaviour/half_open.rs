//! If the network drops packets, statements fail, connection attempts time out, and pools replace idle connections.

#![cfg(target_os = "linux")]

use std::time::{Duration, Instant};

use diesel::RunQueryDsl as _;
use futures_util::SinkExt as _;
use lakebase_core::Lakebase;
use lakebase_diesel::r2d2::establish;
use lakebase_local::{Cut, LocalLakebase};
use lakebase_tests::{
    ADAPTERS, Adapter, App, PATIENCE, TestClock, all_idle, in_time, lakebase, lakebase_on,
    lakebase_with, local, no_session, soon, too_slow_unless, until,
};
use sea_orm::ConnectionTrait as _;

/// Longer than keepalive and user timeout together, which are 30 s each.
const LIMIT: Duration = Duration::from_secs(90);
/// After this time in milliseconds, an idle connection is checked before use.
const CHECKED_AFTER: i64 = 31_000;
/// The timeout of a check.
const ONE_CHECK: Duration = Duration::from_secs(2);

/// Drops all packets to the open sessions from now on.
async fn lose_packets(local: &LocalLakebase) {
    local.cut_sessions(Cut::Vanish).await.expect("cut");
    no_session(local).await;
}

async fn started(local: &LocalLakebase, adapter: Adapter, lakebase: &Lakebase) -> App {
    // With one connection, the next statement uses it.
    let app = App::start_with(adapter, lakebase, 1).await;
    let app = app.expect("started");
    app.ask().await.expect("an answer");
    // Connections that were opened only for the start are closed.
    soon(local.wait_until(|_| local.counters().open_sessions == 1)).await;
    app
}

#[tokio::test]
async fn a_statement_on_a_dead_connection_fails_as_transient_and_the_next_one_works() {
    let prove = async |adapter| {
        let local = local().await;
        let app = started(&local, adapter, &lakebase(&local)).await;
        lose_packets(&local).await;
        // It was used a moment ago, so it is not checked.
        let outcome = tokio::time::timeout(LIMIT, app.ask()).await;
        let failure = outcome.unwrap_or_else(|_| panic!("{app:?}: no end"));
        let Err(failure) = failure else {
            panic!("{app:?}: it was lost");
        };
        assert!(failure.is_transient, "{app:?}: {failure}");
        soon(app.ask())
            .await
            .unwrap_or_else(|failure| panic!("{app:?}: {failure}"));
    };
    tokio::join!(
        prove(Adapter::TokioPostgres),
        prove(Adapter::DieselBb8),
        prove(Adapter::DieselDeadpool),
        prove(Adapter::SeaOrm),
        prove(Adapter::Sqlx),
        synchronous(),
    );
}

/// Without a pool, because r2d2 checks each connection before use.
async fn synchronous() {
    let local = local().await;
    let lakebase = lakebase(&local);
    let open = || {
        let lakebase = lakebase.clone();
        tokio::task::spawn_blocking(move || establish(&lakebase).expect("a login"))
    };
    let ask = |mut connection: diesel::PgConnection| {
        tokio::task::spawn_blocking(move || {
            let answer = diesel::sql_query("SELECT 1").execute(&mut connection);
            (answer, connection)
        })
    };
    let connection = open().await.expect("no panic");
    let (answer, connection) = ask(connection).await.expect("no panic");
    answer.expect("an answer");
    lose_packets(&local).await;
    let outcome = tokio::time::timeout(LIMIT, ask(connection)).await;
    let (answer, _) = outcome.expect("an end").expect("no panic");
    let error = answer.expect_err("it was lost");
    assert!(lakebase_diesel::is_transient(&error), "{error}");
    let connection = open().await.expect("no panic");
    let (answer, _) = ask(connection).await.expect("no panic");
    answer.expect("an answer");
}

#[tokio::test]
async fn keepalive_closes_a_dead_idle_connection() {
    let local = local().await;
    let (client, connection) = lakebase(&local).connect().await.expect("a login");
    let driven = tokio::spawn(connection);
    lose_packets(&local).await;
    let ended = tokio::time::timeout(LIMIT, driven).await;
    let ended = ended.expect("found").expect("no panic");
    assert!(ended.is_err(), "the server did not end it");
    assert!(client.is_closed());
}

#[tokio::test]
async fn diesel_pools_replace_unresponsive_idle_connections() {
    let prove = async |adapter| {
        let (local, clock) = (local().await, TestClock::default());
        let app = started(&local, adapter, &lakebase_on(&local, &clock)).await;
        lose_packets(&local).await;
        clock.set_ahead_millis(CHECKED_AFTER);
        soon(app.ask()).await.expect("another connection");
    };
    tokio::join!(prove(Adapter::DieselBb8), prove(Adapter::DieselDeadpool));
}

#[tokio::test]
async fn seaorm_replaces_all_unresponsive_idle_connections_after_one_check() {
    in_time(async || {
        const IDLE: usize = 5;
        let (local, clock) = (local().await, TestClock::default());
        let db = lakebase_seaorm::connect(&lakebase_on(&local, &clock)).await;
        let db = db.expect("a connection");
        let asking = (0..IDLE).map(|_| db.execute_unprepared("SELECT pg_sleep(0.2)"));
        for answer in futures_util::future::join_all(asking).await {
            answer.expect("an answer");
        }
        all_idle(&db).await;
        lose_packets(&local).await;
        clock.set_ahead_millis(CHECKED_AFTER);
        for nth in 0..=IDLE {
            let began = Instant::now();
            soon(db.execute_unprepared("SELECT 1"))
                .await
                .expect("another connection");
            // Only the first statement waits for a check.
            let took = began.elapsed();
            too_slow_unless(nth == 0 || took < ONE_CHECK / 2, || {
                format!("{nth}: {took:?}")
            })?;
        }
        Ok(())
    })
    .await;
}

/// The server acknowledges packets but reads nothing for longer than TCP's user timeout.
#[tokio::test]
async fn an_upload_continues_after_the_server_read_nothing_for_half_a_minute() {
    const ROWS: u64 = 3_000;
    // All rows together are larger than all buffers between client and server.
    const LONG: usize = 8_000;
    let local = lakebase_tests::local_with_schema().await;
    let proxy = lakebase(&local).proxy().await.expect("a proxy");
    let connect = async || {
        let connecting = tokio_postgres::connect(proxy.url(), tokio_postgres::NoTls);
        let (client, connection) = connecting.await.expect("a login");
        tokio::spawn(connection);
        client
    };
    let (holder, uploader) = (connect().await, connect().await);
    let table = "CREATE TABLE numbers (n int8 PRIMARY KEY, text text)";
    holder.batch_execute(table).await.expect("a table");
    let hold = "BEGIN; INSERT INTO numbers VALUES (0, NULL)";
    holder.batch_execute(hold).await.expect("held");
    let sink = uploader.copy_in("COPY numbers FROM STDIN").await;
    let mut sink = Box::pin(sink.expect("begun"));
    let uploading = tokio::spawn(async move {
        for n in 0..ROWS {
            let row = format!("{n}\t{}\n", "x".repeat(LONG));
            sink.send(bytes::Bytes::from(row)).await?;
        }
        sink.as_mut().finish().await
    });
    // The user timeout of the kernel has to pass.
    tokio::time::sleep(Duration::from_secs(35)).await;
    assert!(!uploading.is_finished(), "it waits for the first row");
    holder.batch_execute("ROLLBACK").await.expect("released");
    let taken = soon(uploading).await.expect("no panic");
    assert_eq!(taken.expect("all of it"), ROWS);
}

#[tokio::test]
async fn an_address_that_drops_packets_takes_one_attempt_and_not_the_connect_timeout() {
    let local = local().await;
    local.set_unreachable(true).expect("unreachable");
    // Shorter than the limit of a whole attempt, 15 s.
    let lakebase = lakebase_with(&local, &[("PGCONNECT_TIMEOUT", "12")]);
    let connecting = {
        let lakebase = lakebase.clone();
        tokio::spawn(async move { lakebase.connect().await.map(drop) })
    };
    until(|| lakebase.last_failure().is_some()).await;
    assert!(!connecting.is_finished(), "it continues");
    local.set_unreachable(false).expect("back");
    soon(connecting).await.expect("no panic").expect("a login");
}

#[tokio::test]
async fn every_adapter_fails_on_an_unreachable_address_after_the_connect_timeout() {
    let local = local().await;
    let lakebase = lakebase_with(&local, &[("PGCONNECT_TIMEOUT", "1")]);
    lakebase.credential().await.expect("the API answers");
    local.set_unreachable(true).expect("unreachable");
    for adapter in ADAPTERS {
        let failure = soon(App::start(adapter, &lakebase)).await;
        let failure = failure.expect_err("no answer");
        assert!(failure.is_transient, "{adapter:?}: {failure}");
        assert!(
            failure.text.contains("no login within 1 s"),
            "{adapter:?}: {failure}"
        );
    }
}

#[tokio::test]
async fn the_error_of_a_closed_port_names_it_after_the_connect_timeout() {
    let local = local().await;
    let changes = [("PGPORT", "1"), ("PGCONNECT_TIMEOUT", "1")];
    let lakebase = lakebase_with(&local, &changes);
    let ready = soon(lakebase.with_connect_timeout(PATIENCE).credential()).await;
    ready.expect("the API answers");
    let error = soon(lakebase.connect())
        .await
        .map(drop)
        .expect_err("a closed port");
    let text = error.to_string();
    assert!(error.is_timeout() && error.is_transient(), "{text}");
    for part in [
        "no login within 1 s",
        "localhost:1/",
        "PGPORT",
        &local.endpoint(),
    ] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}
