//! A compute that sleeps ends all connections; the next checkout works and gets a living one.

use std::time::Duration;

use diesel_async::RunQueryDsl as _;
use lakebase_local::{Cut, EventKind, LocalLakebase, Wake};
use lakebase_tests::{lakebase, local, soon};
use sea_orm::ConnectionTrait as _;

const WAKE: Duration = Duration::from_millis(300);
const CUTS: [Cut; 3] = [Cut::Message, Cut::Close, Cut::Reset];

/// Suspends and waits until the sessions are gone on the gateway's side.
async fn suspend(local: &LocalLakebase, cut: Cut, wake: Wake) {
    local.suspend(cut, WAKE, wake).await.expect("suspended");
    let sessions = |event: &lakebase_local::Event| match event.kind {
        EventKind::LoggedIn(_) => 1,
        EventKind::Ended { .. } => -1,
        _ => 0,
    };
    soon(local.wait_until(|events| events.iter().map(sessions).sum::<i32>() == 0)).await;
    // A round trip of our own: by then this side has heard of it, too.
    local.sql("SELECT 1").await.expect("an answer");
}

#[tokio::test]
async fn after_a_suspend_diesel_gets_a_living_connection() {
    let local = local().await;
    let pool = lakebase_diesel::bb8::connect(&lakebase(&local))
        .await
        .expect("a pool");
    for cut in CUTS {
        for wake in [Wake::SlowAccept, Wake::StartingUp, Wake::Close] {
            drop(pool.get().await.expect("a connection"));
            suspend(&local, cut, wake).await;
            let mut connection = soon(pool.get())
                .await
                .unwrap_or_else(|e| panic!("{cut:?} {wake:?}: {e}"));
            let answer = diesel::sql_query("SELECT 1").execute(&mut connection).await;
            answer.unwrap_or_else(|error| panic!("{cut:?} {wake:?}: {error}"));
        }
    }
}

#[tokio::test]
async fn after_a_suspend_seaorm_gets_a_living_connection() {
    let local = local().await;
    let db = lakebase_seaorm::connect(&lakebase(&local))
        .await
        .expect("a connection");
    for cut in CUTS {
        for wake in [Wake::SlowAccept, Wake::StartingUp, Wake::Close] {
            db.ping().await.expect("a connection");
            suspend(&local, cut, wake).await;
            // sqlx does not watch idle connections; ours are asked once they rested for a second.
            tokio::time::sleep(Duration::from_millis(1_050)).await;
            let answer = soon(db.execute_unprepared("SELECT 1")).await;
            answer.unwrap_or_else(|error| panic!("{cut:?} {wake:?}: {error}"));
        }
    }
}
