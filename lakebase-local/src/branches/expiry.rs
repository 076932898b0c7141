//! Deletes branches that have expired, and purges branches that were deleted long ago.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::{Branch, Branches, State};

/// The longest pause between two readings of the clock.
const LONGEST: Duration = Duration::from_secs(3600);

/// When a branch must be deleted or purged, and whether it is a purge.
fn due(branch: &Branch) -> Option<(SystemTime, bool)> {
    let facts = branch.facts();
    match facts.state {
        State::Init => None,
        State::Ready => facts.expires.map(|expires| (expires, false)),
        State::Deleted => facts.deleted.map(|(_, purged)| (purged, true)),
    }
}

/// Runs until everything stops. A branch that cannot be deleted is retried later.
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
                        tracing::debug!(?failure, "cannot delete an expired branch");
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
