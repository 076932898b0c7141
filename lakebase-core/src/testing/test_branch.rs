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

/// Deletes the branch after a crash. It is longer than any test.
const EXPIRY: Duration = Duration::from_secs(3600);
/// The workspace limits the rate of requests.
const AT_A_TIME: usize = 4;

static CREATIONS: Semaphore = Semaphore::const_new(AT_A_TIME);
/// Whether this process has searched for abandoned branches.
static HAS_SWEPT: AtomicBool = AtomicBool::new(false);

/// A branch that exists as long as this value: see the [module](super).
///
/// ```no_run
/// # async fn test() -> Result<(), lakebase_core::Error> {
/// let branch = lakebase_core::testing::TestBranch::from("production").await?;
/// let lakebase = branch.lakebase();
/// # drop(lakebase);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "the branch is deleted when this is dropped"]
pub struct TestBranch {
    branch: Branch,
    guard: Guard,
}

/// Deletes the branch when it is dropped, whether or not its creation has ended.
#[derive(Debug)]
struct Guard {
    branches: Branches,
    /// `None` if there is nothing to delete.
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
    /// Copies the branch with this id, of the project that the environment names: see
    /// [`Config::from_env`](crate::config::Config::from_env).
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] for an invalid environment; otherwise as [`of`](Self::of).
    ///
    /// # Cancel safety
    ///
    /// As [`of`](Self::of).
    pub async fn from(source: &str) -> Result<Self, Error> {
        Self::of(&Lakebase::from_env()?, source).await
    }

    /// Copies the branch with this id, of the project of `lakebase`, and waits until the copy accepts a login. It expires after an hour.
    ///
    /// # Errors
    ///
    /// As [`Branches::create`]. A branch that may exist is deleted in the background.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future deletes the branch in the background. The creation runs on a separate task, so a future that is not polled
    /// does not delay others.
    pub async fn of(lakebase: &Lakebase, source: &str) -> Result<Self, Error> {
        Self::expiring(lakebase, source, EXPIRY).await
    }

    /// Copies the branch of `lakebase`. The copy expires after an hour.
    ///
    /// # Errors
    ///
    /// As [`of`](Self::of), and [`Error::is_config`] if the configured host (`PGHOST`) belongs to another branch.
    ///
    /// # Cancel safety
    ///
    /// As [`of`](Self::of).
    pub async fn of_own(lakebase: &Lakebase) -> Result<Self, Error> {
        Self::of_own_expiring(lakebase, EXPIRY).await
    }

    /// Like [`of_own`](Self::of_own), with another expiry.
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

    async fn expiring(lakebase: &Lakebase, source: &str, expiry: Duration) -> Result<Self, Error> {
        let runtime = Handle::try_current().map_err(|_| no_runtime())?;
        let branches = lakebase.branches()?;
        let id = BranchId::new(name::next())?;
        let new = NewBranch::new(id, Expiry::After(expiry)).source(source);
        let (sender, result) = oneshot::channel();
        runtime.spawn(async move {
            // Without a receiver, the branch is dropped, and so deleted.
            let _ = sender.send(Self::create(branches, new).await);
        });
        result.await.unwrap_or_else(|_| {
            let text = "the task that creates a test branch stopped without a result";
            Err(Error::new(Kind::Timeout, text))
        })
    }

    async fn create(branches: Branches, new: NewBranch) -> Result<Self, Error> {
        if !HAS_SWEPT.swap(true, Ordering::Relaxed) {
            sweep(&branches).await;
        }
        let _permit = CREATIONS.acquire().await;
        // From here on, the branch may exist.
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

    /// Returns a handle of the database on this branch: see [`Branch::lakebase`].
    pub fn lakebase(&self) -> Lakebase {
        self.branch.lakebase()
    }

    /// The branch.
    pub fn branch(&self) -> &Branch {
        &self.branch
    }

    /// Deletes the branch permanently. It returns no error if the branch no longer exists.
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

/// Checks that a configured host belongs to the branch: the application uses that host, and a copy of another branch has other data.
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
    let hint = "The test would use a copy of another database: unset PGHOST, or set LAKEBASE_ENDPOINT to the branch of that host";
    Err(Error::config(text).with_hint(hint))
}

/// Deletes the branches of dead processes of this machine.
async fn sweep(branches: &Branches) {
    match branches.list().await {
        Ok(all) => {
            let Ok(ended) = tokio::task::spawn_blocking(EndedRuns::find).await else {
                return;
            };
            let abandoned = all.iter().map(Branch::id).filter(|id| ended.created(id));
            for id in abandoned {
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
            tracing::debug!(name: "lakebase.branch.not_swept", target: "lakebase::branch", %error, "cannot search for abandoned test branches")
        }
    }
}
