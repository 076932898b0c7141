//! Information for troubleshooting. Logins do not need it.

use std::time::SystemTime;

use serde_json::Value;

use crate::config::endpoint::Compute;
use crate::error::Error;
use crate::error::foreign::clean_text;
use crate::http::Reply;
use crate::lakebase::Lakebase;
use crate::workspace::{Workspace, endpoint_url, instance_url, text_at};

/// The workspace's report on the compute: see [`Lakebase::compute_status`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ComputeStatus {
    /// The path of the endpoint, or the name of the instance.
    pub name: String,
    /// The platform's name of the state, for example `ACTIVE`, `IDLE` (suspended; the next login resumes it) or
    /// `AVAILABLE`.
    pub state: Option<String>,
    /// Whether the compute is disabled or stopped, so that a login does not resume it.
    pub is_disabled: bool,
    /// How many seconds this machine's clock is ahead of the workspace's; negative if it is behind. Renewals do not depend on it.
    pub clock_ahead_seconds: Option<i64>,
}

impl Lakebase {
    /// Requests the user name of the authenticated identity from the workspace. `None` without a workspace.
    ///
    /// # Errors
    ///
    /// The workspace rejected the request, or was not reachable.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect: it only reads.
    pub async fn identity(&self) -> Result<Option<String>, Error> {
        match self.workspace()? {
            Some(workspace) => workspace.user_name().await.map(Some),
            None => Ok(None),
        }
    }

    /// Requests the state of the compute from the workspace. `None` without a workspace.
    ///
    /// # Errors
    ///
    /// The workspace rejected the request, or was not reachable.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect: it only reads.
    pub async fn compute_status(&self) -> Result<Option<ComputeStatus>, Error> {
        match self.workspace()? {
            Some(workspace) => workspace.status().await.map(Some),
            None => Ok(None),
        }
    }
}

impl Workspace {
    async fn status(&self) -> Result<ComputeStatus, Error> {
        let request = async {
            let (name, url, state, disabled) = match &self.compute {
                Compute::Instance(name) => (
                    name.clone(),
                    instance_url(name),
                    "/state",
                    "/effective_stopped",
                ),
                Compute::Endpoint(_) | Compute::Branch(_) => {
                    let path = self.endpoint().await?;
                    (
                        path.to_string(),
                        endpoint_url(&path),
                        "/status/current_state",
                        "/status/disabled",
                    )
                }
            };
            let reply = self.client.get(&url).await?;
            let body = reply.json()?;
            Ok(ComputeStatus {
                name,
                state: text_at(&body, state).map(clean_text),
                is_disabled: body.pointer(disabled) == Some(&Value::Bool(true)),
                clock_ahead_seconds: clock_ahead(&reply),
            })
        };
        request.await.map_err(|error| self.name(error))
    }
}

/// The server's date has a resolution of one second, and is as old as the reply took. Differences within that count as zero.
fn clock_ahead(reply: &Reply) -> Option<i64> {
    let date = reply.date?;
    let ahead = whole_seconds(date, reply.sent.wall);
    let behind = whole_seconds(date, reply.received.wall);
    Some(if ahead > 0 { ahead } else { behind.min(0) })
}

/// The time between two moments, negative if `to` is earlier.
fn whole_seconds(from: SystemTime, to: SystemTime) -> i64 {
    let seconds = |time: std::time::Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    match to.duration_since(from) {
        Ok(since) => seconds(since),
        Err(before) => -seconds(before.duration()),
    }
}
