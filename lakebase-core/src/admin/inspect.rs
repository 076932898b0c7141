//! What a person looks at when something does not work. Nothing here is needed for connecting.

use std::time::SystemTime;

use serde_json::Value;

use crate::config::endpoint::Compute;
use crate::error::Error;
use crate::error::foreign::clean_text;
use crate::http::Reply;
use crate::lakebase::Lakebase;
use crate::workspace::{Workspace, endpoint_url, instance_url, text_at};

/// What the workspace reports about the compute right now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ComputeStatus {
    /// Path of the endpoint, or name of the instance.
    pub name: String,
    /// As the platform names it, for example `ACTIVE`, `IDLE` (suspended: the next login resumes it) or
    /// `AVAILABLE`.
    pub state: Option<String>,
    /// Whether it is disabled or stopped. A login cannot change that.
    pub is_disabled: bool,
    /// How far this machine's clock is ahead of the workspace's, to the second; negative if it is behind.
    /// Renewals do not depend on it.
    pub clock_ahead_seconds: Option<i64>,
}

impl Lakebase {
    /// The user name behind the sign-in, as the workspace reports it. `None` without a workspace. Each call is one
    /// request.
    ///
    /// # Errors
    ///
    /// The workspace rejected the request, or could not be reached.
    ///
    /// # Cancel safety
    ///
    /// Safe: it only reads.
    pub async fn identity(&self) -> Result<Option<String>, Error> {
        match self.workspace()? {
            Some(workspace) => workspace.user_name().await.map(Some),
            None => Ok(None),
        }
    }

    /// The state of the compute. `None` without a workspace. Each call is one request.
    ///
    /// # Errors
    ///
    /// The workspace rejected the request, or could not be reached.
    ///
    /// # Cancel safety
    ///
    /// Safe: it only reads.
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
            let answer = reply.json()?;
            Ok(ComputeStatus {
                name,
                state: text_at(&answer, state).map(clean_text),
                is_disabled: answer.pointer(disabled) == Some(&Value::Bool(true)),
                clock_ahead_seconds: clock_ahead(&reply),
            })
        };
        ask.await.map_err(|error| self.name(error))
    }
}

/// The server's date is a second wide and as old as the way back took: what falls into that is no difference.
fn clock_ahead(reply: &Reply) -> Option<i64> {
    let date = reply.date?;
    let ahead = whole_seconds(date, reply.sent.wall);
    let behind = whole_seconds(date, reply.received.wall);
    Some(if ahead > 0 { ahead } else { behind.min(0) })
}

/// From one moment to another, negative if that was before it.
fn whole_seconds(from: SystemTime, to: SystemTime) -> i64 {
    let seconds = |time: std::time::Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    match to.duration_since(from) {
        Ok(since) => seconds(since),
        Err(before) => -seconds(before.duration()),
    }
}
