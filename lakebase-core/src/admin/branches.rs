//! Branches: copies of a database that the platform creates in seconds, for a test, a pull request, or to read old data.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use lakebase_core::Lakebase;
//! use lakebase_core::admin::{BranchId, Expiry, NewBranch};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let branches = Lakebase::from_env()?.branches()?;
//! let id = BranchId::from_git("feature/Foo").with_prefix("ci")?;
//! let expiry = Expiry::After(Duration::from_secs(4 * 3600));
//! let branch = branches.create(NewBranch::new(id, expiry).source("production")).await?;
//! let (client, connection) = branch.lakebase().connect().await?;
//! # drop((client, connection));
//! branch.purge().await?;
//! # Ok(())
//! # }
//! ```

mod api;
mod branch;
mod create;
mod database;
mod expiry;
mod id;
mod new_branch;
mod role;
mod rule;
mod state;
mod wait;

pub use branch::Branch;
pub use create::NotCreated;
pub use database::BranchDatabase;
pub use expiry::Expiry;
pub use id::BranchId;
pub use new_branch::NewBranch;
pub use role::{BranchRole, NewRole};
pub use state::BranchState;

use reqwest::Method;
use serde_json::{Value, json};

use api::{Api, READ_LIMIT, checked_id};
use branch::{api_of, no_project};
use wait::Wait;

use crate::config::endpoint::Compute;
use crate::error::Error;
use crate::lakebase::Lakebase;

/// The branches of a project: see [`Lakebase::branches`]. Cheap to clone.
///
/// Creating, changing and deleting branches needs CAN MANAGE on the project; CAN USE is enough for listing them.
#[derive(Clone, Debug)]
pub struct Branches {
    lakebase: Lakebase,
    /// `projects/{project}`.
    project: String,
    /// The id of the configured branch.
    own: String,
}

impl Lakebase {
    /// Returns the branches of the configured project, which `LAKEBASE_ENDPOINT` names by one of its endpoints or branches. It does no
    /// I/O.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] without a project: for a Provisioned instance or a plain Postgres.
    pub fn branches(&self) -> Result<Branches, Error> {
        let config = self.config();
        let path = match &config.compute {
            Some(Compute::Endpoint(path)) => path.as_str(),
            Some(Compute::Branch(path)) => path,
            Some(Compute::Instance(_)) | None => return Err(no_project()),
        };
        if config.workspace.is_none() {
            return Err(no_project());
        }
        let parts: Vec<&str> = path.split('/').collect();
        let [projects, project, _, own, ..] = parts.as_slice() else {
            return Err(no_project());
        };
        Ok(Branches {
            lakebase: self.clone(),
            project: format!("{projects}/{project}"),
            own: (*own).to_owned(),
        })
    }
}

impl Branches {
    /// The id of the branch that the configuration names.
    pub fn own_id(&self) -> &str {
        &self.own
    }

    /// The resource name of the project, for example `projects/shop`.
    pub fn project(&self) -> &str {
        &self.project
    }

    /// Returns all branches except deleted ones.
    ///
    /// # Errors
    ///
    /// The workspace rejected the request, or was not reachable within a minute.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect: it only reads.
    pub async fn list(&self) -> Result<Vec<Branch>, Error> {
        let path = format!("{}/branches", self.project);
        let found = self.api()?.list(&path, "branches").await?;
        let read = found
            .iter()
            .map(|answer| Branch::read(&self.lakebase, answer));
        read.collect()
    }

    /// Returns the branch with this id.
    ///
    /// # Errors
    ///
    /// The workspace rejected the request ([`Error::status`] is 404 if no such branch exists), or was not reachable within a minute.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect: it only reads.
    pub async fn get(&self, id: impl AsRef<str>) -> Result<Branch, Error> {
        let id = checked_id("branch", id.as_ref())?;
        let path = format!("{}/branches/{id}", self.project);
        let mut wait = Wait::new(format!("branch {path}"), READ_LIMIT);
        self.look_up(&path, &mut wait).await
    }

    /// Deletes the branch with this id. It can be undeleted for some time, during which its id stays in use.
    ///
    /// # Errors
    ///
    /// As [`Branch::delete`].
    ///
    /// # Cancel safety
    ///
    /// As [`Branch::delete`].
    pub async fn delete(&self, id: impl AsRef<str>) -> Result<(), Error> {
        self.change(&Method::DELETE, id.as_ref(), "", None).await
    }

    /// Deletes the branch with this id permanently, even if it is deleted already, and frees its id.
    ///
    /// # Errors
    ///
    /// As [`Branch::delete`].
    ///
    /// # Cancel safety
    ///
    /// As [`Branch::delete`].
    pub async fn purge(&self, id: impl AsRef<str>) -> Result<(), Error> {
        let purge = "?purge=true";
        self.change(&Method::DELETE, id.as_ref(), purge, None).await
    }

    /// Restores the deleted branch with this id.
    ///
    /// # Errors
    ///
    /// The workspace rejected the change, because the branch is purged or not deleted. [`Error::is_timeout`] after 10
    /// minutes.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the branch may be restored.
    pub async fn undelete(&self, id: impl AsRef<str>) -> Result<Branch, Error> {
        let id = id.as_ref();
        let body = json!({});
        self.change(&Method::POST, id, "/undelete", Some(&body))
            .await?;
        self.get(id).await
    }

    async fn change(
        &self,
        method: &Method,
        id: &str,
        suffix: &str,
        body: Option<&Value>,
    ) -> Result<(), Error> {
        let path = format!("{}/branches/{}", self.project, checked_id("branch", id)?);
        let api = api_of(&self.lakebase, format!("branch {path}"))?;
        api.settle(method, &format!("{path}{suffix}"), body).await
    }

    async fn look_up(&self, path: &str, wait: &mut Wait) -> Result<Branch, Error> {
        let api = api_of(&self.lakebase, format!("branch {path}"))?;
        let reply = api.get(path, wait).await?;
        Branch::read(&self.lakebase, &reply.json()?)
    }

    fn path(&self, id: &BranchId) -> String {
        format!("{}/branches/{id}", self.project)
    }

    fn api(&self) -> Result<Api, Error> {
        api_of(&self.lakebase, self.project.clone())
    }
}
