//! The task of a proxy: it accepts drivers, and ends at a shutdown or when nothing uses the proxy any more.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::session::Sessions;
use super::socket::Listener;
use crate::error::Error;
use crate::telemetry::Outage;

/// Most connections that have not logged in yet.
const MOST_LOGINS: usize = 1000;
/// How often the proxy checks that its socket still exists.
const SOCKET_CHECK: Duration = Duration::from_secs(30);
/// Pause after a failed `accept`, for example without free file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Receives the deadline of a shutdown. The sender is dropped with the last handle.
pub(super) type Deadline = watch::Receiver<Option<Instant>>;

/// Runs until the last handle is dropped and the last session has ended, or until the deadline of a shutdown. Dropping the
/// future ends all sessions.
pub(super) async fn run(listener: Listener, sessions: Sessions, mut deadline: Deadline) {
    let (drain, draining) = watch::channel(false);
    let mut running = JoinSet::new();
    let end = accept(listener, sessions, draining, &mut running, &mut deadline).await;
    if let Some(end) = end {
        drain.send_replace(true);
        finish(running, end, deadline).await;
    }
}

/// Returns the deadline of a shutdown, or `None` when no handle and no session is left. It drops the listener, so new
/// clients fail at once.
async fn accept(
    mut listener: Listener,
    sessions: Sessions,
    draining: watch::Receiver<bool>,
    running: &mut JoinSet<()>,
    deadline: &mut Deadline,
) -> Option<Instant> {
    let sessions = Arc::new(sessions);
    let logins = Arc::new(Semaphore::new(MOST_LOGINS));
    let outage = Outage::default();
    let mut has_handles = true;
    let mut socket_checks = interval(SOCKET_CHECK);
    socket_checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while has_handles || !running.is_empty() {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, peer)) => {
                    if let Some(ended) = outage.recovered() {
                        let (lasted, failures) = (ended.lasted.as_secs_f64(), ended.failures);
                        tracing::info!(name: "lakebase.proxy.accept_recovered", target: "lakebase::proxy", lasted, failures, "the proxy accepts connections again");
                    }
                    // Above the limit, the connection is closed.
                    let Ok(permit) = Arc::clone(&logins).try_acquire_owned() else {
                        continue;
                    };
                    let (sessions, draining) = (Arc::clone(&sessions), draining.clone());
                    running.spawn(async move {
                        if let Err(error) = sessions.serve(client, peer, permit, draining).await {
                            tracing::debug!(name: "lakebase.proxy.login_failed", target: "lakebase::proxy", %error, "a driver did not log in");
                        }
                    });
                }
                Err(error) => {
                    if outage.failed(&Error::network(error.to_string()), false) {
                        tracing::warn!(name: "lakebase.proxy.accept_failed", target: "lakebase::proxy", %error, "the proxy cannot accept connections");
                    } else {
                        tracing::debug!(name: "lakebase.proxy.accept_failed_again", target: "lakebase::proxy", %error, "the proxy cannot accept connections");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = running.join_next() => {}
            _ = socket_checks.tick() => {
                if let Err(error) = listener.revive().await {
                    tracing::warn!(name: "lakebase.proxy.socket_lost", target: "lakebase::proxy", %error, "the proxy's socket is gone");
                }
            }
            changed = deadline.changed(), if has_handles => {
                has_handles = changed.is_ok();
                let end = *deadline.borrow();
                if end.is_some() {
                    return end;
                }
            }
        }
    }
    None
}

/// Waits for the sessions, and ends the remaining ones at `end`.
async fn finish(mut running: JoinSet<()>, mut end: Instant, mut deadline: Deadline) {
    while !running.is_empty() {
        tokio::select! {
            Some(_) = running.join_next() => {}
            () = sleep_until(end) => running.shutdown().await,
            // Another call of `shutdown` may set an earlier deadline.
            Ok(()) = deadline.changed() => end = deadline.borrow().unwrap_or(end),
        }
    }
}
