//! If the server restarts under load, each statement in flight fails once with a transient error, and the next one works.

use std::sync::Arc;

use lakebase_local::{Cut, LocalLakebase};
use lakebase_tests::{Adapter, App, lakebase, local, soon, statements_run};
use tokio::sync::Barrier;

const BUSY: usize = 50;
const CUTS: [Cut; 3] = [Cut::Message, Cut::Close, Cut::Reset];

/// Longer than the test. The comment is different in each round, because Postgres notices late that a client has disconnected.
fn statement(cut: Cut) -> String {
    format!("SELECT pg_sleep(100) /* {cut:?} */")
}

/// Ends all sessions when every task runs its statement.
async fn cut_when_busy(local: &LocalLakebase, cut: Cut) {
    statements_run(local, &statement(cut), BUSY).await;
    local.cut_sessions(cut).await.expect("cut");
}

/// Fifty tasks, each with its own connection.
async fn fail_once_and_continue(adapter: Adapter) {
    let local = local().await;
    let lakebase = lakebase(&local);
    // Without a pool, each task is an application.
    let apps = match adapter {
        Adapter::TokioPostgres => BUSY,
        _ => 1,
    };
    let starting = (0..apps).map(|_| App::start_with(adapter, &lakebase, BUSY));
    let apps = futures_util::future::try_join_all(starting).await;
    let apps = apps.expect("started");
    for cut in CUTS {
        let again = Arc::new(Barrier::new(BUSY));
        let tasks: Vec<_> = (0..BUSY)
            .map(|number| {
                let app = apps[number % apps.len()].clone();
                let again = Arc::clone(&again);
                tokio::spawn(async move {
                    let failure = app.run(&statement(cut)).await;
                    let failure = failure.expect_err("a restart");
                    assert!(failure.is_transient, "{app:?} {cut:?}: {failure}");
                    again.wait().await;
                    let answer = app.run("SELECT pg_sleep(0.1)").await;
                    answer.unwrap_or_else(|failure| panic!("{app:?} {cut:?}: {failure}"));
                })
            })
            .collect();
        cut_when_busy(&local, cut).await;
        for task in tasks {
            soon(task).await.expect("it ends well");
        }
    }
}

#[tokio::test]
async fn statements_fail_once_and_then_work_with_tokio_postgres() {
    fail_once_and_continue(Adapter::TokioPostgres).await;
}

#[tokio::test]
async fn statements_fail_once_and_then_work_with_diesel_and_bb8() {
    fail_once_and_continue(Adapter::DieselBb8).await;
}

#[tokio::test]
async fn statements_fail_once_and_then_work_with_diesel_and_deadpool() {
    fail_once_and_continue(Adapter::DieselDeadpool).await;
}

#[tokio::test]
async fn statements_fail_once_and_then_work_with_diesel_and_r2d2() {
    fail_once_and_continue(Adapter::DieselR2d2).await;
}

#[tokio::test]
async fn statements_fail_once_and_then_work_with_sqlx() {
    fail_once_and_continue(Adapter::Sqlx).await;
}

#[tokio::test]
async fn statements_fail_once_and_then_work_with_seaorm() {
    fail_once_and_continue(Adapter::SeaOrm).await;
}
