//! A suspended compute ends all sessions. The next statement of an application works as soon as the compute is active again.

use std::time::Duration;

use lakebase_core::Lakebase;
use lakebase_local::{Cut, LocalLakebase, Wake};
use lakebase_tests::{
    App, every_adapter_in_time, lakebase, local, no_session, soon, through_every_adapter,
    too_slow_unless, until,
};

const WAKES: [Wake; 3] = [Wake::SlowAccept, Wake::StartingUp, Wake::Close];
const BRIEF: Duration = Duration::from_millis(300);
/// As long as a real compute may take.
const REAL: Duration = Duration::from_secs(3);

/// Suspends the compute and waits until the sessions have ended.
async fn suspend(
    local: &LocalLakebase,
    lakebase: &Lakebase,
    cut: Cut,
    delay: Duration,
    wake: Wake,
) {
    local.suspend(cut, delay, wake).await.expect("suspended");
    no_session(local).await;
    // A round trip later, the drivers can notice the end, too.
    local.sql("SELECT 1").await.expect("an answer");
    until(|| lakebase.stats().proxy.sessions == 0).await;
    // Drivers of direct connections share this thread and notice the end in their turn.
    for _ in 0..256 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn after_a_suspend_every_adapter_gets_a_working_connection() {
    every_adapter_in_time(async |adapter| {
        let local = local().await;
        let lakebase = lakebase(&local);
        let app = App::start(adapter, &lakebase).await.expect("started");
        let mut lost = Vec::new();
        for (cut, delay) in [
            (Cut::Message, REAL),
            (Cut::Close, BRIEF),
            (Cut::Reset, BRIEF),
        ] {
            for wake in WAKES {
                app.ask().await.expect("active");
                suspend(&local, &lakebase, cut, delay, wake).await;
                if let Err(failure) = soon(app.ask()).await {
                    let what = format!("{adapter:?} {cut:?} {wake:?}: {failure}");
                    assert!(failure.is_transient, "{what}");
                    lost.push(what);
                }
            }
        }
        // On a busy machine, a driver notices the end of its connection late.
        too_slow_unless(lost.is_empty(), || format!("{lost:?}"))
    })
    .await;
}

#[tokio::test]
async fn an_application_starts_while_the_compute_is_suspended() {
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
