//! The branch of a test.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

use super::name::{self, EndedRuns};
use super::reaper::{self, Order};
use crate::admin::{Branch, BranchId, Branches, Expiry, NewBranch};
use crate::config::HostKind;
use crate::credential::single_flight::no_runtime;
use crate::error::{Error, Kind};
use crate::lakebase::Lakebase;
use crate::settings::host_name::{direct_host, is_pooled_host};
use crate::workspace::retry::retrying;

/// Crash safety only: no test should take that long.
const EXPIRY: Duration = Duration::from_secs(3600);
/// The workspace limits the rate of requests.
const AT_A_TIME: usize = 4;

static CREATIONS: Semaphore = Semaphore::const_new(AT_A_TIME);
/// One look per process is enough.
static HAS_SWEPT: AtomicBool = AtomicBool::new(false);

/// A branch that lives as long as this value: see the [module](super).
#[derive(Debug)]
#[must_use = "the branch is deleted when this is dropped"]
pub struct TestBranch {
    branch: Branch,
    guard: Guard,
}

/// Deletes the branch when it is dropped, whether or not its creation has come to an end.
#[derive(Debug)]
struct Guard {
    branches: Branches,
    /// `None` if it is deleted already.
    id: Option<String>,
    is_created: bool,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            reaper::delete(Order {
                branches: self.branches.clone(),
                id,
                is_created: self.is_created,
            });
        }
    }
}

impl TestBranch {
    /// Copies a branch, named by its id, of the project that the environment names; see
    /// [`Config::from_env`](crate::config::Config::from_env).
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] for the environment, and as [`of`](Self::of).
    ///
    /// # Cancel safety
    ///
    /// As [`of`](Self::of).
    pub async fn from(source: &str) -> Result<Self, Error> {
        Self::of(&Lakebase::from_env()?, source).await
    }

    /// Copies a branch, named by its id, of the project that `lakebase` belongs to. The copy expires after an hour. Returns when
    /// a login to it works.
    ///
    /// # Errors
    ///
    /// As [`Branches::create`]. Nothing is left behind.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future deletes the branch in the background. A creation runs on a task of its own, so one that is not
    /// polled holds up no other.
    pub async fn of(lakebase: &Lakebase, source: &str) -> Result<Self, Error> {
        Self::expiring(lakebase, source, EXPIRY).await
    }

    /// Copies the branch that `lakebase` itself belongs to.
    ///
    /// # Errors
    ///
    /// As [`of`](Self::of), and [`Error::is_config`] if the configured host (`PGHOST`) is not the one of that branch.
    ///
    /// # Cancel safety
    ///
    /// As [`of`](Self::of).
    pub async fn of_own(lakebase: &Lakebase) -> Result<Self, Error> {
        Self::of_own_expiring(lakebase, EXPIRY).await
    }

    /// The same with another expiry.
    ///
    /// # Errors
    ///
    /// As [`of_own`](Self::of_own).
    ///
    /// # Cancel safety
    ///
    /// As [`of`](Self::of).
    pub async fn of_own_expiring(lakebase: &Lakebase, expiry: Duration) -> Result<Self, Error> {
        let branches = lakebase.branches()?;
        check_host(lakebase).await?;
        Self::expiring(lakebase, branches.own_id(), expiry).await
    }

    /// The same with another expiry.
    ///
    /// # Errors
    ///
    /// As [`of`](Self::of).
    ///
    /// # Cancel safety
    ///
    /// As [`of`](Self::of).
    pub async fn expiring(
        lakebase: &Lakebase,
        source: &str,
        expiry: Duration,
    ) -> Result<Self, Error> {
        let runtime = Handle::try_current().map_err(|_| no_runtime())?;
        let branches = lakebase.branches()?;
        let id = BranchId::new(name::next())?;
        let new = NewBranch::new(id, Expiry::After(expiry)).source(source);
        let (made, result) = oneshot::channel();
        runtime.spawn(async move {
            // If nobody waits for it any more, it is dropped, and so deleted.
            let _ = made.send(Self::create(branches, new).await);
        });
        result.await.unwrap_or_else(|_| {
            let text = "the task that creates a test branch stopped without an answer";
            Err(Error::new(Kind::Timeout, text))
        })
    }

    async fn create(branches: Branches, new: NewBranch) -> Result<Self, Error> {
        if !HAS_SWEPT.swap(true, Ordering::Relaxed) {
            sweep(&branches).await;
        }
        let _permit = CREATIONS.acquire().await;
        // From now on there may be a branch.
        let mut guard = Guard {
            id: Some(new.id().to_string()),
            branches: branches.clone(),
            is_created: false,
        };
        match branches.try_create(new).await {
            Ok(branch) => {
                guard.is_created = true;
                Ok(Self { branch, guard })
            }
            Err(failed) => {
                if !failed.may_exist {
                    guard.id = None;
                }
                Err(failed.error)
            }
        }
    }

    /// The database on this branch, with everything else as in the handle or the environment that it was made from.
    pub fn lakebase(&self) -> Lakebase {
        self.branch.lakebase()
    }

    /// The branch.
    pub fn branch(&self) -> &Branch {
        &self.branch
    }

    /// Deletes the branch for good. One that is gone already is no error.
    ///
    /// # Errors
    ///
    /// As [`Branch::purge`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future deletes the branch in the background.
    pub async fn finish(mut self) -> Result<(), Error> {
        let outcome = self.branch.purge().await;
        self.guard.id = None;
        match outcome {
            Err(error) if error.status() == Some(404) => Ok(()),
            outcome => outcome,
        }
    }
}

/// A configured host takes precedence over the branch, so that the database in use may belong to another one.
async fn check_host(lakebase: &Lakebase) -> Result<(), Error> {
    let config = lakebase.config();
    let (Some(host), Some(workspace)) = (&config.host, lakebase.workspace()?) else {
        return Ok(());
    };
    let own = retrying(|| workspace.host(HostKind::ReadWrite)).await?;
    let host = match is_pooled_host(host) {
        true => direct_host(host),
        false => host.clone(),
    };
    if host.eq_ignore_ascii_case(&own) {
        return Ok(());
    }
    let text = format!("PGHOST is {host}, but the configured branch has the host {own}");
    let hint = "The copy would be one of another database: leave PGHOST unset, or set LAKEBASE_ENDPOINT to the branch of that host";
    Err(Error::config(text).with_hint(hint))
}

/// Deletes what dead processes of this machine have left behind.
async fn sweep(branches: &Branches) {
    match branches.list().await {
        Ok(all) => {
            let Ok(ended) = tokio::task::spawn_blocking(EndedRuns::find).await else {
                return;
            };
            let left = all.iter().map(Branch::id).filter(|id| ended.made(id));
            for id in left {
                tracing::info!(
                    name: "lakebase.branch.swept",
                    target: "lakebase::branch",
                    branch = id,
                    "deletes a test branch of a process that has ended"
                );
                reaper::delete(Order {
                    branches: branches.clone(),
                    id: id.to_owned(),
                    is_created: true,
                });
            }
            ended.forget();
        }
        Err(error) => {
            tracing::debug!(name: "lakebase.branch.not_swept", target: "lakebase::branch", %error, "no look at test branches that were left behind")
        }
    }
}
