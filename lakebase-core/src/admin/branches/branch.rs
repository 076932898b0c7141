//! One branch.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::api::{Api, READ_LIMIT};
use super::expiry::Expiry;
use super::state::BranchState;
use super::wait::Wait;
use crate::config::{Config, HostKind};
use crate::error::foreign::clean_text;
use crate::error::{Error, Kind};
use crate::http::timestamp;
use crate::lakebase::Lakebase;
use crate::workspace::text_at;

/// A new branch rejects valid credentials for seconds, rarely for a minute.
const LONGEST_REJECTION: Duration = Duration::from_secs(120);
/// Limit for closing a session in an orderly way.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// A branch of a project: see [`Branches`](super::Branches). Cheap to clone.
///
/// Its facts are those of the last reply of the workspace; [`refresh`](Self::refresh) reads them again.
#[derive(Clone)]
pub struct Branch {
    lakebase: Lakebase,
    facts: Arc<Facts>,
}

/// The workspace's description of a branch.
#[derive(Debug)]
struct Facts {
    name: String,
    uid: Option<String>,
    state: BranchState,
    is_default: bool,
    is_protected: bool,
    source: Option<String>,
    created_at: Option<SystemTime>,
    expires_at: Option<SystemTime>,
    deleted_at: Option<SystemTime>,
    size: Option<u64>,
}

impl Facts {
    fn read(body: &Value) -> Option<Self> {
        let text = |pointer: &str| text_at(body, pointer).map(clean_text);
        let time = |pointer: &str| timestamp(text_at(body, pointer)?);
        let is = |pointer: &str| body.pointer(pointer) == Some(&Value::Bool(true));
        let name = text_at(body, "/name").filter(|name| super::api::is_path(name))?;
        let size = body.pointer("/status/logical_size_bytes");
        Some(Self {
            name: name.to_owned(),
            uid: text("/uid"),
            state: BranchState::read(text_at(body, "/status/current_state").unwrap_or_default()),
            is_default: is("/status/default"),
            is_protected: is("/status/is_protected"),
            source: text("/status/source_branch"),
            created_at: time("/create_time"),
            expires_at: time("/status/expire_time"),
            deleted_at: time("/status/delete_time"),
            // JSON APIs may send 64-bit numbers as strings.
            size: size.and_then(|size| size.as_u64().or_else(|| size.as_str()?.parse().ok())),
        })
    }
}

impl Branch {
    /// Parses a reply. `lakebase` is a handle of any branch of the same project.
    pub(super) fn read(lakebase: &Lakebase, body: &Value) -> Result<Self, Error> {
        let facts = Facts::read(body).ok_or_else(|| {
            let text = "the workspace describes a branch without a usable `name`";
            Error::new(Kind::Platform, text)
        })?;
        Ok(Self {
            lakebase: lakebase.of_branch(&facts.name)?,
            facts: Arc::new(facts),
        })
    }

    /// The id, for example `production`.
    pub fn id(&self) -> &str {
        last_part(&self.facts.name)
    }

    /// The resource name, for example `projects/shop/branches/production`.
    pub fn name(&self) -> &str {
        &self.facts.name
    }

    /// The platform's internal id, for example `br-quiet-river-d1abc234`. Calls need the [`id`](Self::id).
    pub fn uid(&self) -> Option<&str> {
        self.facts.uid.as_deref()
    }

    /// The state, as of the last reply.
    pub fn state(&self) -> &BranchState {
        &self.facts.state
    }

    /// Returns whether it is the project's default branch.
    pub fn is_default(&self) -> bool {
        self.facts.is_default
    }

    /// Returns whether it is protected against deletion.
    pub fn is_protected(&self) -> bool {
        self.facts.is_protected
    }

    /// The id of the branch that it was copied from; `None` for a root branch.
    pub fn source(&self) -> Option<&str> {
        self.facts.source.as_deref().map(last_part)
    }

    /// The time of its creation, by the platform's clock.
    pub fn created_at(&self) -> Option<SystemTime> {
        self.facts.created_at
    }

    /// The time when the platform will delete it; `None` for never.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.facts.expires_at
    }

    /// The time of its deletion, if it can still be undeleted.
    pub fn deleted_at(&self) -> Option<SystemTime> {
        self.facts.deleted_at
    }

    /// The size of its data in bytes, if the platform reports it.
    pub fn size_bytes(&self) -> Option<u64> {
        self.facts.size
    }

    /// Returns a handle of the database on this branch, with the authentication, database, user, schema, TLS and limits of the handle
    /// that this branch comes from. The workspace knows its host. All handles share the workspace token; the ones that this method
    /// returns share one database credential.
    pub fn lakebase(&self) -> Lakebase {
        self.lakebase.clone()
    }

    /// The configuration of [`lakebase`](Self::lakebase), for example to print its settings.
    pub fn config(&self) -> Config {
        self.lakebase.config().clone()
    }

    /// Reads the facts of the branch again.
    ///
    /// # Errors
    ///
    /// The workspace rejected the request (404 if the branch no longer exists), or was not reachable within a minute.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect: it only reads.
    pub async fn refresh(&mut self) -> Result<(), Error> {
        self.read_again(&mut Wait::new(self.what(), READ_LIMIT))
            .await
    }

    /// Waits until the branch is ready, has an endpoint, and accepts a login.
    ///
    /// A new branch rejects valid credentials for some time; within `limit`, this method retries for two minutes.
    ///
    /// # Errors
    ///
    /// [`Error::is_timeout`] after `limit`, with the last cause; any other error that a retry cannot fix.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing on the branch.
    pub async fn wait_ready(&mut self, limit: Duration) -> Result<(), Error> {
        let mut wait = Wait::new(self.what(), limit);
        self.until_ready(&mut wait, true).await
    }

    /// Like [`wait_ready`](Self::wait_ready) without the login, for an identity that has no role in Postgres.
    ///
    /// # Errors
    ///
    /// As [`wait_ready`](Self::wait_ready).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect: it only reads.
    pub async fn wait_ready_without_login(&mut self, limit: Duration) -> Result<(), Error> {
        let mut wait = Wait::new(self.what(), limit);
        self.until_ready(&mut wait, false).await
    }

    pub(super) async fn until_ready(
        &mut self,
        wait: &mut Wait,
        logs_in: bool,
    ) -> Result<(), Error> {
        wait.next_step();
        loop {
            self.read_again(wait).await?;
            match self.state() {
                // A login restores an archived branch.
                BranchState::Ready | BranchState::Archived => break,
                BranchState::Deleted => {
                    let error = Error::new(Kind::Platform, format!("{} is deleted", self.what()));
                    return Err(error.with_hint("Undelete it, or create a branch with another id"));
                }
                state => {
                    let text = format!("{} is in state {state}", self.what());
                    wait.pause(Error::timeout(text)).await?;
                }
            }
        }
        wait.next_step();
        let lakebase = self.lakebase.clone();
        let workspace = lakebase.workspace()?.ok_or_else(no_project)?;
        // The platform creates the endpoint a little later, and its host after that.
        while let Err(error) = wait.within(workspace.host(HostKind::ReadWrite)).await {
            if !error.is_transient() && error.status() != Some(200) {
                return Err(error);
            }
            wait.pause(error).await?;
        }
        if logs_in {
            let lakebase = lakebase.fresh(wait.left().min(LONGEST_REJECTION));
            let (client, connection) = lakebase.connect().await.map_err(|error| {
                error.with_setting(&format!("{} is ready, but a login fails", self.what()))
            })?;
            drop(client);
            let _ = timeout(CLOSE_LIMIT, connection).await;
        }
        Ok(())
    }

    /// Sets when the platform deletes the branch.
    ///
    /// # Errors
    ///
    /// The workspace rejected the change, for example because of its limit or a missing permission. [`Error::is_timeout`] after 10
    /// minutes.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the change may have happened. Calling it again is safe.
    pub async fn set_expiry(&mut self, expiry: Expiry) -> Result<(), Error> {
        let (field, value) = expiry.field()?;
        self.update("spec.expiration", json!({ field: value }))
            .await
    }

    /// Protects the branch against deletion, or removes the protection.
    ///
    /// # Errors
    ///
    /// As [`set_expiry`](Self::set_expiry).
    ///
    /// # Cancel safety
    ///
    /// As [`set_expiry`](Self::set_expiry).
    pub async fn set_protected(&mut self, is_protected: bool) -> Result<(), Error> {
        let spec = json!({ "is_protected": is_protected });
        self.update("spec.is_protected", spec).await
    }

    async fn update(&mut self, mask: &str, spec: Value) -> Result<(), Error> {
        let path = format!("{}?update_mask={mask}", self.name());
        let body = json!({ "name": self.name(), "spec": spec });
        let api = self.api()?;
        api.settle(&Method::PATCH, &path, Some(&body)).await?;
        self.refresh().await
    }

    /// Deletes the branch. It can be undeleted for some time, during which its id stays in use.
    ///
    /// # Errors
    ///
    /// The workspace rejected the change: the branch is protected, the root or the default branch, or the source of other branches.
    /// [`Error::is_timeout`] after 10 minutes.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the branch may be deleted. Calling it again is safe.
    pub async fn delete(&self) -> Result<(), Error> {
        let api = self.api()?;
        api.settle(&Method::DELETE, self.name(), None).await
    }

    /// Deletes the branch permanently and frees its id.
    ///
    /// # Errors
    ///
    /// As [`delete`](Self::delete).
    ///
    /// # Cancel safety
    ///
    /// As [`delete`](Self::delete).
    pub async fn purge(&self) -> Result<(), Error> {
        let path = format!("{}?purge=true", self.name());
        self.api()?.settle(&Method::DELETE, &path, None).await
    }

    async fn read_again(&mut self, wait: &mut Wait) -> Result<(), Error> {
        let reply = self.api()?.get(self.name(), wait).await?;
        let facts = Facts::read(&reply.json()?).filter(|facts| facts.name == self.facts.name);
        let facts = facts.ok_or_else(|| {
            reply.platform_error("the workspace describes another branch than the requested one")
        })?;
        self.facts = Arc::new(facts);
        Ok(())
    }

    pub(super) fn api(&self) -> Result<Api, Error> {
        api_of(&self.lakebase, self.what())
    }

    fn what(&self) -> String {
        format!("branch {}", self.name())
    }
}

/// Calls with the workspace authentication of a handle.
pub(super) fn api_of(lakebase: &Lakebase, resource: String) -> Result<Api, Error> {
    let workspace = lakebase.workspace()?.ok_or_else(no_project)?;
    Ok(Api {
        client: Arc::clone(&workspace.client),
        resource,
    })
}

pub(super) fn no_project() -> Error {
    Error::config("branches: the configuration names no project").with_hint(
        "Branches belong to a project: set LAKEBASE_ENDPOINT to one of its endpoints or branches",
    )
}

pub(super) fn last_part(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

impl fmt::Debug for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.facts.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_of_the_platform_is_parsed_as_a_branch() {
        let body = json!({
            "name": "projects/shop/branches/ci-pr-99", "branch_id": "ci-pr-99", "uid": "br-x",
            "create_time": "2026-09-14T10:30:00Z",
            "status": {
                "current_state": "READY", "default": false, "is_protected": true,
                "source_branch": "projects/shop/branches/production",
                "expire_time": "2026-09-14T14:30:00.123Z", "logical_size_bytes": "42",
            },
        });
        let facts = Facts::read(&body).expect("a branch");
        assert_eq!((facts.state, facts.size), (BranchState::Ready, Some(42)));
        assert!(facts.is_protected && !facts.is_default);
        assert!(facts.created_at.is_some() && facts.expires_at > facts.created_at);
        assert_eq!(facts.source.as_deref().map(last_part), Some("production"));
        for nameless in [
            json!({}),
            json!({"name": "../x"}),
            json!({"name": "projects/a b"}),
        ] {
            assert!(Facts::read(&nameless).is_none(), "{nameless}");
        }
    }
}
