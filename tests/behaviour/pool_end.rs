//! A pool and its handle leave no task on their runtime when they are dropped.

use std::time::Duration;

use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use lakebase_core::Lakebase;
use lakebase_local::{Cut, Wake};
use lakebase_tests::{lakebase, local, session, until};
use sea_orm::ConnectionTrait as _;
use tokio::runtime::Runtime;

fn runtime() -> Runtime {
    Runtime::new().expect("a runtime")
}

/// Runs `program` with a handle, and waits until no task is left.
fn leaves_nothing<F>(program: impl FnOnce(Lakebase) -> F)
where
    F: Future<Output = ()>,
{
    let (servers, clients) = (runtime(), runtime());
    let local = servers.block_on(local());
    let handle = lakebase(&local);
    let alive = || clients.metrics().num_alive_tasks();
    assert_eq!(alive(), 0);
    clients.block_on(async {
        program(handle).await;
        until(|| alive() == 0).await;
    });
    servers.block_on(local.stop());
}

/// A program without tasks would prove nothing.
fn assert_busy() {
    let alive = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    assert!(alive > 0);
}

async fn select_one(connection: &mut AsyncPgConnection) {
    let answer = diesel::sql_query("SELECT 1").execute(connection).await;
    answer.expect("an answer");
}

#[test]
fn a_handle_that_is_dropped_leaves_no_task() {
    leaves_nothing(async |lakebase| {
        lakebase.credential().await.expect("a credential");
        assert_busy();
    });
}

#[test]
fn a_closed_connection_of_tokio_postgres_leaves_no_task() {
    leaves_nothing(async |lakebase| {
        let client = session(&lakebase).await;
        client.batch_execute("SELECT 1").await.expect("an answer");
        assert_busy();
    });
}

#[test]
fn a_bb8_pool_that_is_dropped_leaves_no_task() {
    leaves_nothing(async |lakebase| {
        // A task of bb8 ends when it looks for idle connections and finds the pool dropped.
        let pool = lakebase_diesel::bb8::Builder::new()
            .configure(|inner| inner.reaper_rate(Duration::from_millis(100)))
            .build(&lakebase)
            .await
            .expect("a pool");
        select_one(&mut pool.get().await.expect("a connection")).await;
        assert_busy();
    });
}

#[test]
fn a_deadpool_pool_that_is_dropped_leaves_no_task() {
    leaves_nothing(async |lakebase| {
        // The task that closes idle connections ends at its next check.
        let pool = lakebase_diesel::deadpool::Builder::new()
            .idle_timeout(Duration::from_millis(100))
            .build(&lakebase)
            .await
            .expect("a pool");
        select_one(&mut pool.get().await.expect("a connection")).await;
        assert_busy();
    });
}

#[test]
fn a_seaorm_connection_that_is_dropped_or_closed_leaves_no_task() {
    for is_closed in [false, true] {
        leaves_nothing(async |lakebase| {
            let db = lakebase_seaorm::connect(&lakebase)
                .await
                .expect("a connection");
            db.execute_unprepared("SELECT 1").await.expect("an answer");
            assert_busy();
            if is_closed {
                db.close().await.expect("closed");
            }
        });
    }
}

/// bb8 counts connections that it opens, and never subtracts those whose runtime has ended.
#[test]
fn a_bb8_pool_whose_runtime_ended_while_it_opened_a_connection_says_so() {
    let (servers, first, second) = (runtime(), runtime(), runtime());
    let local = servers.block_on(local());
    let changes = [("PGCONNECT_TIMEOUT", "2")];
    let lakebase = lakebase_tests::lakebase_with(&local, &changes);
    let wake = Duration::from_secs(1000);
    let suspended = local.suspend(Cut::Message, wake, Wake::SlowAccept);
    servers.block_on(suspended).expect("suspended");
    let pool = first.block_on(async {
        let pool = lakebase_diesel::bb8::Builder::new()
            .max_size(1)
            .build_lazy(&lakebase);
        lakebase.credential().await.expect("a credential");
        let waiting = tokio::time::timeout(Duration::from_millis(200), pool.get());
        assert!(waiting.await.is_err(), "it is under way");
        pool.clone()
    });
    first.shutdown_background();
    servers.block_on(local.stop());
    let error = second
        .block_on(pool.get())
        .map(drop)
        .expect_err("no task opens it");
    let text = error.to_string();
    assert!(text.contains("runtime that has ended"), "{text}");
    assert!(!lakebase_diesel::is_transient(&error), "{text}");
}
