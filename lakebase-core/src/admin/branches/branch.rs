//! One branch.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::api::{Api, DEFAULT_TIMEOUT, READ_LIMIT};
use super::expiry::Expiry;
use super::state::BranchState;
use super::wait::Wait;
use crate::config::{Config, HostKind};
use crate::error::foreign::clean_text;
use crate::error::{Error, Kind};
use crate::http::timestamp;
use crate::lakebase::Lakebase;
use crate::workspace::text_at;

/// A fresh branch rejects good credentials for seconds, seldom for a minute.
const LONGEST_REJECTION: Duration = Duration::from_secs(120);
/// Closing a session in order is a courtesy.
const GOODBYE: Duration = Duration::from_secs(1);

/// A branch of a project, as the workspace described it last. Cheap to clone.
#[derive(Clone)]
pub struct Branch {
    lakebase: Lakebase,
    facts: Arc<Facts>,
}

/// What the workspace says of a branch.
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
    fn read(answer: &Value) -> Option<Self> {
        let text = |pointer: &str| text_at(answer, pointer).map(clean_text);
        let time = |pointer: &str| timestamp(text_at(answer, pointer)?);
        let is = |pointer: &str| answer.pointer(pointer) == Some(&Value::Bool(true));
        let name = text_at(answer, "/name").filter(|name| super::api::is_path(name))?;
        let size = answer.pointer("/status/logical_size_bytes");
        Some(Self {
            name: name.to_owned(),
            uid: text("/uid"),
            state: BranchState::read(text_at(answer, "/status/current_state").unwrap_or_default()),
            is_default: is("/status/default"),
            is_protected: is("/status/is_protected"),
            source: text("/status/source_branch"),
            created_at: time("/create_time"),
            expires_at: time("/status/expire_time"),
            deleted_at: time("/status/delete_time"),
            // Numbers of 64 bits may come as texts.
            size: size.and_then(|size| size.as_u64().or_else(|| size.as_str()?.parse().ok())),
        })
    }
}

impl Branch {
    /// Reads a branch from an answer. `beside` is any branch of the same project.
    pub(super) fn read(beside: &Lakebase, answer: &Value) -> Result<Self, Error> {
        let facts = Facts::read(answer).ok_or_else(|| {
            let text = "the workspace describes a branch without a usable `name`";
            Error::new(Kind::Platform, text)
        })?;
        Ok(Self {
            lakebase: beside.of_branch(&facts.name)?,
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

    /// The platform's own id, for example `br-quiet-river-d1abc234`. No call takes it in place of the id.
    pub fn uid(&self) -> Option<&str> {
        self.facts.uid.as_deref()
    }

    /// The state, as of the last look.
    pub fn state(&self) -> &BranchState {
        &self.facts.state
    }

    /// Whether it is the project's default branch.
    pub fn is_default(&self) -> bool {
        self.facts.is_default
    }

    /// Whether it is protected against being deleted.
    pub fn is_protected(&self) -> bool {
        self.facts.is_protected
    }

    /// The id of the branch that it was made from; `None` for a root branch.
    pub fn source(&self) -> Option<&str> {
        self.facts.source.as_deref().map(last_part)
    }

    /// When it was created, by the platform's clock.
    pub fn created_at(&self) -> Option<SystemTime> {
        self.facts.created_at
    }

    /// When the platform will delete it; `None` for never.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.facts.expires_at
    }

    /// When it was deleted, if it can still be undeleted.
    pub fn deleted_at(&self) -> Option<SystemTime> {
        self.facts.deleted_at
    }

    /// Size of its data in bytes, as far as the platform says.
    pub fn size_bytes(&self) -> Option<u64> {
        self.facts.size
    }

    /// The database on this branch: the same authentication, database, user, schema, TLS and limits as the handle that the
    /// branch was looked up with; its host is looked up. The workspace token is shared, and calls of this method share
    /// one database credential.
    pub fn lakebase(&self) -> Lakebase {
        self.lakebase.clone()
    }

    /// The configuration of [`lakebase`](Self::lakebase), for example to print its settings.
    pub fn config(&self) -> Config {
        self.lakebase.config().clone()
    }

    /// Looks at the branch again.
    ///
    /// # Errors
    ///
    /// The workspace rejected the request (404 if the branch is gone), or could not be reached within a minute.
    ///
    /// # Cancel safety
    ///
    /// Safe: it only reads.
    pub async fn refresh(&mut self) -> Result<(), Error> {
        self.look(&mut Wait::new(self.what(), READ_LIMIT)).await
    }

    /// Waits until the branch is ready, its endpoint is there, and a login works.
    ///
    /// A branch that is minutes old rejects good credentials for a while; this waits for up to two minutes of that within
    /// `limit`. It uses the credentials of this branch only.
    ///
    /// # Errors
    ///
    /// [`Error::is_timeout`] after `limit`, with the last obstacle; any error that waiting does not change.
    ///
    /// # Cancel safety
    ///
    /// Safe: it changes nothing.
    pub async fn wait_ready(&mut self, limit: Duration) -> Result<(), Error> {
        let mut wait = Wait::new(self.what(), limit);
        self.until_ready(&mut wait, true).await
    }

    /// The same without the login: for an identity that has no role in Postgres.
    ///
    /// # Errors
    ///
    /// As [`wait_ready`](Self::wait_ready).
    ///
    /// # Cancel safety
    ///
    /// It changes nothing.
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
            self.look(wait).await?;
            match self.state() {
                // A login brings an archived one back.
                BranchState::Ready | BranchState::Archived => break,
                BranchState::Deleted => {
                    let error = Error::new(Kind::Platform, format!("{} is deleted", self.what()));
                    return Err(error.with_hint("Undelete it, or create one with another id"));
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
        // Its endpoint comes by itself, a little later, and its host later still.
        while let Err(error) = wait.within(workspace.host(HostKind::ReadWrite)).await {
            if !error.is_transient() && error.status() != Some(200) {
                return Err(error);
            }
            wait.pause(error).await?;
        }
        if logs_in {
            let lakebase = lakebase.fresh(wait.left().min(LONGEST_REJECTION));
            let (client, connection) = lakebase.connect().await.map_err(|error| {
                error.with_setting(&format!(
                    "{} is there, but a login does not work",
                    self.what()
                ))
            })?;
            drop(client);
            let _ = timeout(GOODBYE, connection).await;
        }
        Ok(())
    }

    /// Changes when the platform deletes it.
    ///
    /// # Errors
    ///
    /// The workspace rejected the change: the workspace's limit, a missing permission. [`Error::is_timeout`] after 10
    /// minutes.
    ///
    /// # Cancel safety
    ///
    /// The change may have been made. Doing it again is safe.
    pub async fn set_expiry(&mut self, expiry: Expiry) -> Result<(), Error> {
        let (field, value) = expiry.field()?;
        self.update("spec.expiration", json!({ field: value }))
            .await
    }

    /// Protects it against being deleted, or takes the protection away.
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
        self.settle(&Method::PATCH, &path, Some(&body)).await?;
        self.refresh().await
    }

    /// Deletes it so that it can be undeleted for a while. Its id stays in use meanwhile.
    ///
    /// # Errors
    ///
    /// The workspace rejected the change: the branch is protected, the root or the default branch, or other branches were
    /// made from it. [`Error::is_timeout`] after 10 minutes.
    ///
    /// # Cancel safety
    ///
    /// The branch may be deleted. Doing it again is safe.
    pub async fn delete(&self) -> Result<(), Error> {
        self.settle(&Method::DELETE, self.name(), None).await
    }

    /// Deletes it for good and frees its id.
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
        self.settle(&Method::DELETE, &path, None).await
    }

    /// A change that may be made twice.
    pub(super) async fn settle(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(), Error> {
        let mut wait = Wait::new(self.what(), DEFAULT_TIMEOUT);
        self.api()?.settle(method, path, body, &mut wait).await
    }

    async fn look(&mut self, wait: &mut Wait) -> Result<(), Error> {
        let reply = self.api()?.get(self.name(), wait).await?;
        let facts = Facts::read(&reply.json()?).filter(|facts| facts.name == self.facts.name);
        let facts = facts.ok_or_else(|| {
            reply.platform_error("the workspace describes another branch than was asked for")
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

/// Calls with the sign-in of a handle.
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
    fn a_branch_is_read_as_the_platform_writes_it() {
        let answer = json!({
            "name": "projects/shop/branches/ci-pr-99", "branch_id": "ci-pr-99", "uid": "br-x",
            "create_time": "2026-09-14T10:30:00Z",
            "status": {
                "current_state": "READY", "default": false, "is_protected": true,
                "source_branch": "projects/shop/branches/production",
                "expire_time": "2026-09-14T14:30:00.123Z", "logical_size_bytes": "42",
            },
        });
        let facts = Facts::read(&answer).expect("a branch");
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
