//! A network that swallows packets is noticed: idle connections are replaced, statements end, attempts to
//! connect are cut off, and places in the pool come back.

#![cfg(target_os = "linux")]

use std::time::{Duration, Instant};

use diesel::RunQueryDsl as _;
use futures_util::SinkExt as _;
use lakebase_core::Lakebase;
use lakebase_diesel::r2d2::establish;
use lakebase_local::{Cut, EventKind, LocalLakebase};
use lakebase_tests::{
    Adapter, App, PATIENCE, TestClock, all_idle, in_time, lakebase, lakebase_on, lakebase_with,
    local, soon, too_slow_unless,
};
use sea_orm::ConnectionTrait as _;

/// Keepalive and user timeout: 30 s each, one after the other at worst.
const AT_LAST: Duration = Duration::from_secs(90);
/// An idle connection that was not heard from for so many milliseconds is checked before use.
const CHECKED_AFTER: i64 = 31_000;
/// How long a check waits for an answer.
const ONE_CHECK: Duration = Duration::from_secs(2);

/// Everything that was sent to the open sessions is lost from now on.
async fn lose_packets(local: &LocalLakebase, sessions: usize) {
    let ended = |events: &[lakebase_local::Event]| {
        let ends = |event: &&lakebase_local::Event| matches!(event.kind, EventKind::Ended { .. });
        events.iter().filter(ends).count()
    };
    let before = ended(&local.events());
    local.cut_sessions(Cut::Vanish).await.expect("cut");
    soon(local.wait_until(|events| ended(events) >= before + sessions)).await;
}

async fn started(local: &LocalLakebase, adapter: Adapter, lakebase: &Lakebase) -> App {
    // One connection: the next statement is sent on it, and on no other.
    let app = App::start_with(adapter, lakebase, 1).await;
    let app = app.expect("started");
    app.ask().await.expect("an answer");
    // What was opened for the start alone is closed by then.
    soon(local.wait_until(|_| local.counters().open_sessions == 1)).await;
    app
}

#[tokio::test]
async fn a_statement_on_a_lost_connection_fails_as_transient_and_the_next_one_works() {
    let prove = async |adapter| {
        let local = local().await;
        let app = started(&local, adapter, &lakebase(&local)).await;
        lose_packets(&local, 1).await;
        // Used a moment ago, so it is trusted.
        let outcome = tokio::time::timeout(AT_LAST, app.ask()).await;
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

/// r2d2 asks each connection before use, so this is without a pool.
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
    lose_packets(&local, 1).await;
    let outcome = tokio::time::timeout(AT_LAST, ask(connection)).await;
    let (answer, _) = outcome.expect("an end").expect("no panic");
    let error = answer.expect_err("it was lost");
    assert!(lakebase_diesel::is_transient(&error), "{error}");
    let connection = open().await.expect("no panic");
    let (answer, _) = ask(connection).await.expect("no panic");
    answer.expect("an answer");
}

#[tokio::test]
async fn keepalive_closes_an_idle_connection_that_was_lost() {
    let local = local().await;
    let (client, connection) = lakebase(&local).connect().await.expect("a login");
    let driven = tokio::spawn(connection);
    lose_packets(&local, 1).await;
    let ended = tokio::time::timeout(AT_LAST, driven).await;
    let ended = ended.expect("found").expect("no panic");
    assert!(ended.is_err(), "the server did not end it");
    assert!(client.is_closed());
}

#[tokio::test]
async fn diesel_replaces_idle_connections_that_do_not_answer() {
    let prove = async |adapter| {
        let (local, clock) = (local().await, TestClock::default());
        let app = started(&local, adapter, &lakebase_on(&local, &clock)).await;
        lose_packets(&local, 1).await;
        clock.set_ahead_millis(CHECKED_AFTER);
        soon(app.ask()).await.expect("another connection");
    };
    tokio::join!(prove(Adapter::DieselBb8), prove(Adapter::DieselDeadpool));
}

#[tokio::test]
async fn seaorm_replaces_idle_connections_that_do_not_answer() {
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
        lose_packets(&local, IDLE).await;
        clock.set_ahead_millis(CHECKED_AFTER);
        for nth in 0..=IDLE {
            let began = Instant::now();
            soon(db.execute_unprepared("SELECT 1"))
                .await
                .expect("another connection");
            // The first waits for an answer; the others are as dead as that one.
            let took = began.elapsed();
            too_slow_unless(nth == 0 || took < ONE_CHECK / 2, || {
                format!("{nth}: {took:?}")
            })?;
        }
        Ok(())
    })
    .await;
}

/// The opposite: the server is there, acknowledges, and takes nothing for longer than TCP's user timeout.
#[tokio::test]
async fn an_upload_goes_on_after_the_server_did_not_read_for_half_a_minute() {
    const ROWS: u64 = 3_000;
    // Together more than all buffers on the way.
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
    // TCP's user timeout has to pass, and the kernel has no other clock.
    tokio::time::sleep(Duration::from_secs(35)).await;
    assert!(!uploading.is_finished(), "it waits for the first row");
    holder.batch_execute("ROLLBACK").await.expect("released");
    let taken = soon(uploading).await.expect("no panic");
    assert_eq!(taken.expect("all of it"), ROWS);
}

#[tokio::test]
async fn an_address_that_drops_packets_costs_one_attempt_and_not_the_budget() {
    let local = local().await;
    local.set_unreachable(true).expect("unreachable");
    // With the limit of an attempt, 15 s, the budget would be over.
    let lakebase = lakebase_with(&local, &[("PGCONNECT_TIMEOUT", "12")]);
    let connecting = {
        let lakebase = lakebase.clone();
        tokio::spawn(async move { lakebase.connect().await.map(drop) })
    };
    // No event tells of an attempt that fails where no packet arrives.
    soon(async {
        while lakebase.last_failure().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(!connecting.is_finished(), "it goes on");
    local.set_unreachable(false).expect("back");
    soon(connecting).await.expect("no panic").expect("a login");
}

#[tokio::test]
async fn every_adapter_gives_up_on_an_unreachable_address_when_the_budget_is_over() {
    let local = local().await;
    let lakebase = lakebase_with(&local, &[("PGCONNECT_TIMEOUT", "1")]);
    lakebase.credential().await.expect("the API answers");
    local.set_unreachable(true).expect("unreachable");
    for adapter in lakebase_tests::ADAPTERS {
        let failure = soon(App::start(adapter, &lakebase))
            .await
            .expect_err("no answer");
        assert!(failure.is_transient, "{adapter:?}: {failure}");
        assert!(
            failure.text.contains("no login within 1 s"),
            "{adapter:?}: {failure}"
        );
    }
}

#[tokio::test]
async fn a_closed_port_is_named_with_a_hint_when_the_budget_is_over() {
    let local = lakebase_tests::local().await;
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
