//! The Databricks workspace: mints database credentials, knows endpoints and who we are.

mod client;
mod hosts;
mod mint;
pub(crate) mod retry;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

pub(crate) use client::Client;
use hosts::Endpoints;

use crate::config::claim::Claim;
use crate::config::endpoint::Compute;
use crate::credential::Credential;
use crate::credential::provider::CredentialProvider;
use crate::credential::single_flight::{Found, SingleFlight};
use crate::error::Error;
use crate::error::Kind;
use crate::error::foreign::has_harmful;

/// Goes into a connection and into messages as it is; Postgres keeps 63 bytes.
fn is_role_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 63 && !has_harmful(name)
}

/// One look-up takes no longer.
pub(crate) const LOOKUP_LIMIT: Duration = Duration::from_secs(40);

/// One compute in one workspace.
pub(crate) struct Workspace {
    pub(crate) client: Arc<Client>,
    pub(crate) compute: Compute,
    endpoints: SingleFlight<Found<Endpoints>>,
}

/// Mints credentials for one compute.
pub(crate) struct WorkspaceProvider {
    pub(crate) workspace: Arc<Workspace>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) claims: Vec<Claim>,
}

impl CredentialProvider for WorkspaceProvider {
    async fn credential(&self) -> Result<Credential, Error> {
        let minted = self.workspace.mint(self.ttl, &self.claims).await;
        minted.map_err(|error| self.workspace.name(error))
    }
}

impl fmt::Debug for WorkspaceProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkspaceProvider")
            .field("workspace", &self.workspace)
            .finish_non_exhaustive()
    }
}

impl Workspace {
    pub(crate) fn new(client: Client, compute: Compute) -> Self {
        Self {
            endpoints: SingleFlight::new("list of endpoints", client.clock(), LOOKUP_LIMIT),
            client: Arc::new(client),
            compute,
        }
    }

    /// Adds to an error what it was about and who asked.
    pub(crate) fn name(&self, error: Error) -> Error {
        let endpoint = self.endpoints.inspect(|found, _| {
            found.map(|endpoints| format!("endpoint {}", endpoints.value.read_write))
        });
        let compute = endpoint.unwrap_or_else(|| self.compute.to_string());
        self.client.name(error.with_compute(Some(compute)))
    }

    /// The user name behind the sign-in, which is the Postgres user.
    pub(crate) async fn user_name(&self) -> Result<String, Error> {
        let ask = async || {
            let reply = self.client.get("/api/2.0/preview/scim/v2/Me").await?;
            match reply.json()?.get("userName") {
                Some(Value::String(name)) if is_role_name(name) => Ok(name.clone()),
                Some(Value::String(name)) if !name.is_empty() => Err(reply.error(
                    Kind::Platform,
                    "the workspace's name for us (`userName`) cannot be a Postgres role",
                )),
                _ => Err(reply
                    .error(
                        Kind::Platform,
                        "the workspace did not say who we are (`userName`)",
                    )
                    .with_hint("Set PGUSER to the Postgres role")),
            }
        };
        ask().await.map_err(|error| self.client.name(error))
    }
}

impl fmt::Debug for Workspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workspace")
            .field("client", &self.client)
            .field("compute", &self.compute)
            .finish_non_exhaustive()
    }
}
