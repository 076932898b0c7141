//! A compute that sleeps ends all connections; the next statement works, on a living one, as soon as it is
//! awake.

use std::time::Duration;

use lakebase_local::{Cut, EventKind, LocalLakebase, Wake};
use lakebase_tests::{
    Adapter, App, every_adapter_in_time, lakebase, local, soon, through_every_adapter,
    too_slow_unless,
};

const CUTS: [Cut; 3] = [Cut::Message, Cut::Close, Cut::Reset];
const WAKES: [Wake; 3] = [Wake::SlowAccept, Wake::StartingUp, Wake::Close];
const BRIEF: Duration = Duration::from_millis(300);
/// As long as a real one may take.
const REAL: Duration = Duration::from_secs(3);

/// Suspends and waits until the sessions are gone on the gateway's side.
async fn suspend(local: &LocalLakebase, cut: Cut, delay: Duration, wake: Wake) {
    local.suspend(cut, delay, wake).await.expect("suspended");
    let sessions = |event: &lakebase_local::Event| match event.kind {
        EventKind::LoggedIn(_) => 1,
        EventKind::Ended { .. } => -1,
        _ => 0,
    };
    soon(local.wait_until(|events| events.iter().map(sessions).sum::<i32>() == 0)).await;
    // A round trip of our own: by then this side has heard of it, too.
    local.sql("SELECT 1").await.expect("an answer");
}

async fn started(adapter: Adapter) -> (LocalLakebase, App) {
    let local = local().await;
    let app = App::start(adapter, &lakebase(&local)).await;
    (local, app.expect("started"))
}

#[tokio::test]
async fn after_a_suspend_every_adapter_gets_a_working_connection() {
    every_adapter_in_time(async |adapter| {
        let (local, app) = started(adapter).await;
        for cut in CUTS {
            for wake in WAKES {
                app.ask().await.expect("awake");
                suspend(&local, cut, BRIEF, wake).await;
                let Err(failure) = soon(app.ask()).await else {
                    continue;
                };
                let what = format!("{adapter:?} {cut:?} {wake:?}: {failure}");
                // A busy machine may use the connection before it has noticed the cut.
                too_slow_unless(!failure.is_transient, || what.clone())?;
                panic!("{what}");
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_compute_that_takes_three_seconds_to_resume_fits_into_the_budget() {
    through_every_adapter(async |adapter| {
        let (local, app) = started(adapter).await;
        for wake in WAKES {
            app.ask().await.expect("awake");
            suspend(&local, Cut::Message, REAL, wake).await;
            soon(app.ask())
                .await
                .unwrap_or_else(|failure| panic!("{adapter:?} {wake:?}: {failure}"));
        }
    })
    .await;
}

#[tokio::test]
async fn an_application_may_start_while_the_compute_is_suspended() {
    through_every_adapter(async |adapter| {
        let local = local().await;
        for wake in WAKES {
            suspend(&local, Cut::Message, BRIEF, wake).await;
            let app = soon(App::start(adapter, &lakebase(&local))).await;
            app.unwrap_or_else(|failure| panic!("{adapter:?} {wake:?}: {failure}"));
        }
    })
    .await;
}
