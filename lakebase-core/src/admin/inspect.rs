//! What a person looks at when something does not work. Nothing here is needed for connecting.

use std::time::SystemTime;

use crate::config::endpoint::Compute;
use crate::error::Error;
use crate::error::foreign::clean_text;
use crate::http::Reply;
use crate::lakebase::Lakebase;
use crate::workspace::Workspace;
use serde_json::Value;

/// What the workspace says about the compute right now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComputeStatus {
    name: String,
    state: Option<String>,
    is_disabled: bool,
    host: Option<String>,
    clock_ahead_seconds: Option<i64>,
}

impl ComputeStatus {
    /// Path of the endpoint, or name of the instance.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// In the platform's words, for example `ACTIVE`, `IDLE` (asleep: the next login wakes it) or
    /// `AVAILABLE`.
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// A login cannot wake it.
    pub fn is_disabled(&self) -> bool {
        self.is_disabled
    }

    /// Its direct host for reading and writing.
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// How far this machine's clock is ahead of the workspace's, to the second; negative if it is behind.
    /// Renewals do not depend on it.
    pub fn clock_ahead_seconds(&self) -> Option<i64> {
        self.clock_ahead_seconds
    }
}

impl Lakebase {
    /// Who we are in the workspace, by its own words. `None` without a workspace. Asks each time, once.
    ///
    /// # Errors
    ///
    /// The workspace's refusal, or the network's.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn identity(&self) -> Result<Option<String>, Error> {
        match self.workspace()? {
            Some(workspace) => workspace.user_name().await.map(Some),
            None => Ok(None),
        }
    }

    /// What state the compute is in. `None` without a workspace. Asks each time, once.
    ///
    /// # Errors
    ///
    /// The workspace's refusal, or the network's.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn compute_status(&self) -> Result<Option<ComputeStatus>, Error> {
        match self.workspace()? {
            Some(workspace) => workspace.status().await.map(Some),
            None => Ok(None),
        }
    }
}

impl Workspace {
    async fn status(&self) -> Result<ComputeStatus, Error> {
        let ask = async {
            let (name, path, [state, off, host]) = match &self.compute {
                Compute::Instance(name) => (
                    name.clone(),
                    format!("/api/2.0/database/instances/{name}"),
                    ["/state", "/effective_stopped", "/read_write_dns"],
                ),
                Compute::Endpoint(_) | Compute::Branch(_) => {
                    let endpoint = self.endpoint().await?;
                    (
                        endpoint.to_string(),
                        format!("/api/2.0/postgres/{endpoint}"),
                        [
                            "/status/current_state",
                            "/status/disabled",
                            "/status/hosts/host",
                        ],
                    )
                }
            };
            let reply = self.client.get(&path).await?;
            let answer = reply.json()?;
            let text = |pointer: &str| answer.pointer(pointer)?.as_str().map(clean_text);
            Ok(ComputeStatus {
                state: text(state),
                is_disabled: answer.pointer(off) == Some(&Value::Bool(true)),
                host: text(host),
                clock_ahead_seconds: clock_ahead(&reply),
                name,
            })
        };
        ask.await.map_err(|error| self.name(error))
    }
}

/// The server's date is a second wide and as old as the way back took: what falls into that is no difference.
fn clock_ahead(reply: &Reply) -> Option<i64> {
    let since = |later: SystemTime, earlier: SystemTime| {
        later
            .duration_since(earlier)
            .ok()
            .map(|time| i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
    };
    let date = reply.date?;
    let end = date + std::time::Duration::from_secs(1);
    let ahead = since(reply.sent.wall, end).map(|seconds| seconds + 1);
    let behind = since(date, reply.received.wall).map(|seconds| -seconds);
    Some(ahead.or(behind).unwrap_or(0))
}
