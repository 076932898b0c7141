//! Deletes branches that have expired, and the data of those that were deleted long ago.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::{Branch, Branches, State};

/// The clock is read again after this time at the latest.
const LONGEST: Duration = Duration::from_secs(3600);

/// When something has to be done, and whether it is to be purged.
fn due(branch: &Branch) -> Option<(SystemTime, bool)> {
    let facts = branch.facts();
    match facts.state {
        State::Init => None,
        State::Ready => facts.expires.map(|expires| (expires, false)),
        State::Deleted => facts.deleted.map(|(_, purged)| (purged, true)),
    }
}

/// Works until everything stops. A branch that may not be deleted stays until it may.
pub(crate) async fn run(branches: Arc<Branches>, mut stop: watch::Receiver<bool>) {
    let mut changes = branches.changes.subscribe();
    let mut clock = branches.clock.settings();
    loop {
        changes.mark_unchanged();
        clock.mark_unchanged();
        let now = branches.clock.now();
        let mut pause = LONGEST;
        for branch in branches.all() {
            match due(&branch) {
                Some((at, purge)) if at <= now => {
                    if let Err(failure) = branches.remove(&branch, purge).await {
                        tracing::debug!(?failure, "an expired branch stays");
                    }
                }
                Some((at, _)) => pause = pause.min(at.duration_since(now).unwrap_or_default()),
                None => {}
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = changes.changed() => {}
            _ = clock.changed() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}
