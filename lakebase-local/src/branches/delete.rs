//! Deletes branches, softly or permanently, and undeletes them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::operations::{Due, empty};
use super::{Branch, Branches, State, busy, unknown};
use crate::events::EventKind;
use crate::reply::Failure;

/// How long a branch can be undeleted. The platform documents no time.
const RETENTION: Duration = Duration::from_secs(7 * 86_400);

impl Branches {
    /// Starts to delete a branch, permanently or so that it can be undeleted.
    pub(crate) async fn delete(
        self: &Arc<Self>,
        branch: Arc<Branch>,
        purge: bool,
    ) -> Result<Value, Failure> {
        self.check_deletable(&self.lock(), &branch, purge)?;
        let branches = Arc::clone(self);
        let path = branch.place.branch_path();
        let job = |mut due: Due| async move {
            due.wait().await;
            branches.remove(&branch, purge).await?;
            Ok(empty())
        };
        Ok(self.operations.run(&path, "Branch", job).await)
    }

    fn check_deletable(
        &self,
        all: &BTreeMap<String, Arc<Branch>>,
        branch: &Arc<Branch>,
        purge: bool,
    ) -> Result<(), Failure> {
        let facts = branch.facts();
        let path = branch.place.branch_path();
        if !self.is_known(all, branch) || (facts.state == State::Deleted && !purge) {
            return Err(unknown());
        }
        if branch.place.is_production() {
            let text = format!("Cannot delete root branch '{path}'");
            return Err(Failure::bad("BAD_REQUEST", text).with_detail(json!({
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "RESOURCE_CONFLICT",
                "domain": "postgres.databricks.com",
                "metadata": { "declarative_context": "MANAGED_BY_PARENT" },
            })));
        }
        if facts.is_protected {
            return Err(Failure::bad(
                "BAD_REQUEST",
                "cannot delete protected branch",
            ));
        }
        if facts.state == State::Init {
            return Err(busy(branch));
        }
        let is_child = |other: &&Arc<Branch>| {
            other.source.as_ref() == Some(&path) && other.facts().state != State::Deleted
        };
        match all.values().find(is_child) {
            Some(child) => {
                let child = &child.place.branch;
                let text = format!("cannot delete branch with children, such as \"{child}\"");
                Err(Failure::bad("BAD_REQUEST", text))
            }
            None => Ok(()),
        }
    }

    pub(super) async fn remove(&self, branch: &Arc<Branch>, purge: bool) -> Result<(), Failure> {
        let now = self.clock.now();
        {
            let mut all = self.lock();
            self.check_deletable(&all, branch, purge)?;
            if purge {
                all.remove(&branch.place.branch);
            }
            branch.update(now, |facts| {
                facts.state = State::Deleted;
                facts.deleted.get_or_insert((now, now + RETENTION));
            });
        }
        if let Some(serving) = branch.serving() {
            serving.close().await;
            if purge {
                // Waits for the server to end.
                let postgres = serving.take();
                let _ = tokio::task::spawn_blocking(move || drop(postgres)).await;
            }
        }
        self.record(EventKind::BranchDeleted {
            branch: branch.place.branch.clone(),
            purged: purge,
        });
        Ok(())
    }

    fn check_deleted(&self, branch: &Arc<Branch>) -> Result<(), Failure> {
        if !self.is_known(&self.lock(), branch) {
            return Err(unknown());
        }
        match branch.facts().state {
            State::Deleted => Ok(()),
            State::Init | State::Ready => Err(Failure::bad("BAD_REQUEST", "branch is not deleted")),
        }
    }

    /// Returns whether it was not purged.
    fn is_known(&self, all: &BTreeMap<String, Arc<Branch>>, branch: &Arc<Branch>) -> bool {
        let known = all.get(&branch.place.branch);
        known.is_some_and(|known| Arc::ptr_eq(known, branch))
    }

    /// Starts to undelete a branch.
    pub(crate) async fn undelete(self: &Arc<Self>, branch: Arc<Branch>) -> Result<Value, Failure> {
        self.check_deleted(&branch)?;
        let branches = Arc::clone(self);
        let path = branch.place.branch_path();
        let job = |mut due: Due| async move {
            due.wait().await;
            branches.check_deleted(&branch)?;
            let serving = branch.serving().ok_or_else(unknown)?;
            let opened = serving.open().await;
            opened.map_err(|error| Failure::internal(error.chain()))?;
            let now = branches.clock.now();
            branch.update(now, |facts| {
                facts.state = State::Ready;
                facts.deleted = None;
                // An expiry in the past would delete it again.
                facts.expires = facts.expires.filter(|expires| *expires > now);
            });
            branches.changes.send_replace(());
            Ok(empty())
        };
        Ok(self.operations.run(&path, "Branch", job).await)
    }
}
