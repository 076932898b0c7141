//! The task of a proxy: accepts drivers, and ends on request or when it is not needed any more.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::session::Sessions;
use super::socket::Listener;

/// Connections that have not logged in yet.
const MOST_LOGINS: usize = 1000;
/// Between two checks whether the socket is still there.
const SOCKET_CHECK: Duration = Duration::from_secs(30);
/// Pause when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// When everything has to be over. The sender is gone with the last handle.
pub(super) type Orders = watch::Receiver<Option<Instant>>;

/// Runs until the last handle and the last session are gone, or until the time that is ordered. Dropping the future
/// ends all sessions.
pub(super) async fn run(listener: Listener, sessions: Sessions, mut orders: Orders) {
    let (drain, draining) = watch::channel(false);
    let mut running = JoinSet::new();
    let end = accept(listener, sessions, draining, &mut running, &mut orders).await;
    if let Some(end) = end {
        drain.send_replace(true);
        finish(running, end, orders).await;
    }
}

/// Returns the time that is ordered, or `None` when no handle and no session is left. The listener is gone then: new clients learn it at
/// once.
async fn accept(
    mut listener: Listener,
    sessions: Sessions,
    draining: watch::Receiver<bool>,
    running: &mut JoinSet<()>,
    orders: &mut Orders,
) -> Option<Instant> {
    let sessions = Arc::new(sessions);
    let logins = Arc::new(Semaphore::new(MOST_LOGINS));
    let mut has_handles = true;
    let mut socket_checks = interval(SOCKET_CHECK);
    socket_checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while has_handles || !running.is_empty() {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, peer)) => {
                    // With so many waiting, this one has to connect again.
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
                    tracing::warn!(name: "lakebase.proxy.accept_failed", target: "lakebase::proxy", %error, "the proxy cannot take a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = running.join_next() => {}
            _ = socket_checks.tick() => {
                if let Err(error) = listener.revive().await {
                    tracing::warn!(name: "lakebase.proxy.socket_lost", target: "lakebase::proxy", %error, "the proxy's socket is gone");
                }
            }
            order = orders.changed(), if has_handles => {
                has_handles = order.is_ok();
                let end = *orders.borrow();
                if end.is_some() {
                    return end;
                }
            }
        }
    }
    None
}

/// Waits for the sessions, and ends those that are left at `end`.
async fn finish(mut running: JoinSet<()>, mut end: Instant, mut orders: Orders) {
    while !running.is_empty() {
        tokio::select! {
            Some(_) = running.join_next() => {}
            () = sleep_until(end) => running.shutdown().await,
            // Another shutdown may be in more of a hurry.
            Ok(()) = orders.changed() => end = orders.borrow().unwrap_or(end),
        }
    }
}
