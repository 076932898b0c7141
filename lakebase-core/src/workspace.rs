//! The Databricks workspace: mints database credentials, looks up endpoints and the current user.

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
#[cfg(feature = "admin")]
pub(crate) use hosts::{endpoint_url, instance_url};
pub(crate) use mint::WorkspaceProvider;

use crate::config::endpoint::Compute;
use crate::credential::single_flight::{Found, SingleFlight};
use crate::error::Error;
use crate::error::foreign::has_harmful;
use crate::sign_in::SignIn;

/// Time limit of one look-up.
pub(crate) const LOOKUP_LIMIT: Duration = Duration::from_secs(40);

/// One compute in one workspace.
pub(crate) struct Workspace {
    pub(crate) client: Arc<Client>,
    /// Looks up hosts as the application, even if `client` is a user: a user may not have access to the endpoint.
    lookup: Arc<Client>,
    pub(crate) compute: Compute,
    endpoints: SingleFlight<Found<Endpoints>>,
}

impl Workspace {
    pub(crate) fn new(client: Arc<Client>, compute: Compute) -> Self {
        Self {
            endpoints: SingleFlight::new(
                "list of endpoints",
                client.clock(),
                LOOKUP_LIMIT,
                client.outage(),
            ),
            lookup: Arc::clone(&client),
            client,
            compute,
        }
    }

    /// The same compute with another identity.
    pub(crate) fn as_identity(&self, sign_in: &Arc<SignIn>) -> Self {
        Self {
            endpoints: self.endpoints.clone(),
            client: Arc::new(self.client.as_identity(sign_in)),
            lookup: Arc::clone(&self.lookup),
            compute: self.compute.clone(),
        }
    }

    /// Adds endpoint and identity to an error.
    pub(crate) fn name(&self, error: Error) -> Error {
        self.client.name(self.with_compute(error))
    }

    fn with_compute(&self, error: Error) -> Error {
        let endpoint = self.endpoints.inspect(|found, _| {
            found.map(|endpoints| format!("endpoint {}", endpoints.value.read_write))
        });
        let compute = endpoint.unwrap_or_else(|| self.compute.to_string());
        error.with_compute(Some(compute))
    }

    /// The user name of the identity, which is its Postgres role.
    pub(crate) async fn user_name(&self) -> Result<String, Error> {
        let lookup = async {
            let reply = self.client.get("/api/2.0/preview/scim/v2/Me").await?;
            match text_at(&reply.json()?, "/userName") {
                // Postgres keeps 63 bytes.
                Some(name) if name.len() <= 63 && !has_harmful(name) => Ok(name.to_owned()),
                Some(_) => Err(reply
                    .platform_error(
                        "the user name that the workspace returned (`userName`) cannot be a Postgres role",
                    )
                    .with_hint("Set PGUSER to the Postgres role")),
                None => Err(reply
                    .platform_error("the workspace returned no user name (`userName`)")
                    .with_hint("Set PGUSER to the Postgres role")),
            }
        };
        lookup.await.map_err(|error| self.client.name(error))
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

/// The text at a JSON pointer, unless it is empty.
pub(crate) fn text_at<'a>(answer: &'a Value, pointer: &str) -> Option<&'a str> {
    let text = answer.pointer(pointer)?.as_str()?;
    (!text.is_empty()).then_some(text)
}
