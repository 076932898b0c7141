//! A compute that sleeps ends all connections; the next statement works, on a living one, as soon as it is
//! awake.

use std::time::Duration;

use lakebase_core::Lakebase;
use lakebase_local::{Cut, EventKind, LocalLakebase, Wake};
use lakebase_tests::{Adapter, App, lakebase, local, soon, through_every_adapter};

const CUTS: [Cut; 3] = [Cut::Message, Cut::Close, Cut::Reset];
const WAKES: [Wake; 3] = [Wake::SlowAccept, Wake::StartingUp, Wake::Close];
const BRIEF: Duration = Duration::from_millis(300);
/// As long as a real one may take.
const REAL: Duration = Duration::from_secs(3);

/// Suspends and waits until the sessions are gone on the gateway's side.
async fn suspend(
    local: &LocalLakebase,
    lakebase: &Lakebase,
    cut: Cut,
    delay: Duration,
    wake: Wake,
) {
    local.suspend(cut, delay, wake).await.expect("suspended");
    let sessions = |event: &lakebase_local::Event| match event.kind {
        EventKind::LoggedIn(_) => 1,
        EventKind::Ended { .. } => -1,
        _ => 0,
    };
    soon(local.wait_until(|events| events.iter().map(sessions).sum::<i32>() == 0)).await;
    // A round trip of our own: by then this side has heard of it, too.
    local.sql("SELECT 1").await.expect("an answer");
    soon(async {
        while lakebase.stats().proxy.sessions > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // The kernel knows by now. The drivers of direct connections share this thread: each gets its turn.
    for _ in 0..256 {
        tokio::task::yield_now().await;
    }
}

async fn started(adapter: Adapter) -> (LocalLakebase, Lakebase, App) {
    let local = local().await;
    let lakebase = lakebase(&local);
    let app = App::start(adapter, &lakebase).await;
    (local, lakebase, app.expect("started"))
}

#[tokio::test]
async fn after_a_suspend_every_adapter_gets_a_working_connection() {
    through_every_adapter(async |adapter| {
        let (local, lakebase, app) = started(adapter).await;
        for cut in CUTS {
            for wake in WAKES {
                app.ask().await.expect("awake");
                suspend(&local, &lakebase, cut, BRIEF, wake).await;
                soon(app.ask())
                    .await
                    .unwrap_or_else(|failure| panic!("{adapter:?} {cut:?} {wake:?}: {failure}"));
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_compute_that_takes_three_seconds_to_resume_fits_into_the_budget() {
    through_every_adapter(async |adapter| {
        let (local, lakebase, app) = started(adapter).await;
        for wake in WAKES {
            app.ask().await.expect("awake");
            suspend(&local, &lakebase, Cut::Message, REAL, wake).await;
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
            suspend(&local, &lakebase(&local), Cut::Message, BRIEF, wake).await;
            let app = soon(App::start(adapter, &lakebase(&local))).await;
            app.unwrap_or_else(|failure| panic!("{adapter:?} {wake:?}: {failure}"));
        }
    })
    .await;
}
