//! Access to branches for tests. Programs create branches over REST.

use std::net::SocketAddr;
use std::time::Duration;

use super::LocalLakebase;
use super::control::run_sql;
use crate::Error;
use crate::branches::State;
use crate::postgres::DATABASE;

/// Branches. A branch is named by its id or its path.
impl LocalLakebase {
    /// Paths of the branches, including production, without deleted ones.
    pub fn branches(&self) -> Vec<String> {
        let mut all = self.branches.all();
        all.retain(|branch| branch.facts().state != State::Deleted);
        let paths = all.iter().map(|branch| branch.place.branch_path());
        paths.collect()
    }

    /// Address at which a branch listens for Postgres clients; `None` if it does not exist or is not ready. Its
    /// certificate is for this address.
    pub fn branch_address(&self, branch: &str) -> Option<SocketAddr> {
        let branch = self.branches.get(branch).ok()?;
        branch.serving().map(|serving| serving.address)
    }

    /// Runs SQL as superuser on a branch, as [`sql`](Self::sql) does on production.
    ///
    /// # Errors
    ///
    /// The branch does not exist or is not ready, or the error of Postgres.
    ///
    /// # Cancel safety
    ///
    /// A cancelled statement may still run to its end.
    pub async fn branch_sql(&self, branch: &str, sql: &str) -> Result<(), Error> {
        let found = self.branches.find(branch);
        let gateway = found.as_deref().and_then(|branch| branch.gateway());
        let gateway =
            gateway.ok_or_else(|| Error::new(format!("no branch \"{branch}\" is ready")))?;
        run_sql(gateway, DATABASE, sql).await
    }

    /// Operations that start from now on take at least this long. A new branch stays in the state `INIT` until
    /// then. No delay by default.
    pub fn set_operation_delay(&self, delay: Duration) {
        self.branches.operations.set_delay(delay);
    }

    /// Branches created from now on reject valid tokens for this long after they are ready, with "External
    /// authorization failed" (28000). `None` by default.
    pub fn set_fresh_branch_refusal(&self, duration: Option<Duration>) {
        self.branches.set_fresh_refusal(duration);
    }

    /// Sets the limit of branches, production included: 500 by default, as on the platform.
    pub fn set_branch_limit(&self, limit: usize) {
        self.branches.set_limit(limit);
    }

    /// Grants or revokes CAN MANAGE on the project, which changes of branches need. Every identity has it by
    /// default.
    pub fn set_can_manage(&self, identity: &str, can: bool) {
        self.branches.set_may_manage(identity, can);
    }
}
