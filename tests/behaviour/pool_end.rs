//! When a pool and its handle are gone, so are their tasks: the one that renews, the one that feeds, those
//! that drive connections. Counted on a runtime of their own.

use std::time::Duration;

use diesel_async::RunQueryDsl as _;
use lakebase_core::Lakebase;
use lakebase_local::{Cut, Wake};
use lakebase_tests::{PATIENCE, lakebase, local};
use sea_orm::ConnectionTrait as _;
use tokio::runtime::Runtime;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Runs `program` with a handle, and waits until nothing of it is left.
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
        let gone = async {
            while alive() > 0 {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, gone).await;
        assert!(waited.is_ok(), "{} tasks are left", alive());
    });
    servers.block_on(local.stop());
}

/// Something of it runs, or there would be nothing to prove.
fn assert_busy() {
    let alive = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    assert!(alive > 0);
}

#[test]
fn a_handle_that_is_dropped_leaves_no_task() {
    leaves_nothing(async |lakebase| {
        lakebase.credential().await.expect("a credential");
        assert_busy();
    });
}

#[test]
fn a_connection_of_tokio_postgres_leaves_no_task() {
    leaves_nothing(async |lakebase| {
        let (client, connection) = lakebase.connect().await.expect("a login");
        tokio::spawn(connection);
        client.batch_execute("SELECT 1").await.expect("an answer");
        assert_busy();
    });
}

#[test]
fn a_diesel_pool_that_is_dropped_leaves_no_task() {
    leaves_nothing(async |lakebase| {
        // bb8's own task looks for the end of its pool when it looks for idle connections.
        let pool = lakebase_diesel::bb8::Builder::new()
            .configure(|inner| inner.reaper_rate(Duration::from_millis(100)))
            .build(&lakebase)
            .await
            .expect("a pool");
        {
            let mut connection = pool.get().await.expect("a connection");
            let answer = diesel::sql_query("SELECT 1").execute(&mut connection).await;
            answer.expect("an answer");
        }
        assert_busy();
    });
}

#[test]
fn a_diesel_pool_of_deadpool_that_is_dropped_leaves_no_task() {
    leaves_nothing(async |lakebase| {
        // The task that closes idle connections ends at its next check.
        let pool = lakebase_diesel::deadpool::Builder::new()
            .idle_timeout(Duration::from_millis(100))
            .build(&lakebase)
            .await
            .expect("a pool");
        {
            let mut connection = pool.get().await.expect("a connection");
            let answer = diesel::sql_query("SELECT 1").execute(&mut connection).await;
            answer.expect("an answer");
        }
        assert_busy();
    });
}

#[test]
fn a_seaorm_connection_leaves_no_task_dropped_or_closed() {
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

/// bb8 counts the connections that it was opening, and never subtracts those whose runtime has ended.
#[test]
fn a_bb8_pool_reports_that_its_runtime_ended_while_it_opened_a_connection() {
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
