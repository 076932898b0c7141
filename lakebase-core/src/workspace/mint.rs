//! Mints of Autoscaling and Provisioned credentials.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use super::Workspace;
use super::retry::retrying;
use crate::config::claim::Claim;
use crate::config::endpoint::Compute;
use crate::credential::Credential;
use crate::credential::provider::CredentialProvider;
use crate::credential::refresh::Validity;
use crate::credential::single_flight::SUSPICION_FLOOR;
use crate::error::Error;
use crate::http::timestamp;
use crate::sign_in::is_header_safe;

/// Default and maximum of the platform.
const DEFAULT_TTL: Duration = Duration::from_secs(3600);
/// Lifetime of a Provisioned credential whose reply has no expiry. The platform mints it for an hour (not documented).
const ASSUMED_TTL: Duration = Duration::from_secs(55 * 60);

/// Mints credentials for one compute.
#[derive(Debug)]
pub(crate) struct WorkspaceProvider {
    pub(crate) workspace: Arc<Workspace>,
    pub(crate) ttl: Option<Duration>,
    pub(crate) claims: Vec<Claim>,
}

impl CredentialProvider for WorkspaceProvider {
    async fn credential(&self) -> Result<Credential, Error> {
        let minted = retrying(|| self.mint()).await;
        minted.map_err(|error| self.workspace.name(error))
    }
}

impl WorkspaceProvider {
    async fn mint(&self) -> Result<Credential, Error> {
        let workspace = &self.workspace;
        let (path, mut body, expiry, assumed) = match &workspace.compute {
            Compute::Instance(name) => (
                "/api/2.0/database/credentials",
                // The same id may return the same credential.
                json!({ "request_id": Uuid::new_v4().to_string(), "instance_names": [name] }),
                "expiration_time",
                Some(ASSUMED_TTL),
            ),
            Compute::Endpoint(_) | Compute::Branch(_) => (
                "/api/2.0/postgres/credentials",
                json!({ "endpoint": workspace.endpoint().await? }),
                "expire_time",
                None,
            ),
        };
        if let Some(ttl) = self.ttl {
            body["ttl"] = json!(format!("{}s", ttl.as_secs()));
        }
        if !self.claims.is_empty() {
            body["claims"] = self.claims.iter().map(Claim::to_json).collect();
        }
        let minted = workspace.client.post(path, &body).await;
        let reply = minted.inspect_err(|error| {
            if error.status() == Some(404) {
                workspace.suspect_endpoints(SUSPICION_FLOOR);
            }
        })?;
        let answer = reply.json()?;
        let unusable = |field: &str, what: &str| {
            reply.platform_error(format!("the credential reply is unusable: `{field}` {what}"))
                .with_hint("Report this to Databricks with the request id, unless a proxy has changed the reply")
        };
        let token = match answer.get("token") {
            Some(Value::String(token)) if is_header_safe(token) => Ok(token.clone()),
            Some(Value::String(token)) if token.is_empty() => Err("is empty"),
            Some(Value::String(_)) => Err("contains characters that are invalid in a token"),
            Some(_) => Err("is not a string"),
            None => Err("is missing"),
        };
        let token = token.map_err(|what| unusable("token", what))?;
        let end = match (answer.get(expiry), assumed) {
            (Some(Value::String(text)), _) => match timestamp(text) {
                Some(at) => Validity::measure(at, reply.date, reply.sent, reply.received)
                    .map(|validity| (at, validity))
                    .ok_or("has passed already"),
                None => Err("is not an RFC 3339 date"),
            },
            (Some(_), _) => Err("is not a string"),
            (None, Some(lifetime)) => Ok((
                reply.sent.wall + lifetime,
                Validity::starting(reply.sent, lifetime),
            )),
            (None, None) => Err("is missing"),
        };
        let (expires_at, validity) = end.map_err(|what| unusable(expiry, what))?;
        // Wrong clocks do not extend the lifetime that the platform mints.
        let validity = validity.at_most(self.ttl.unwrap_or(DEFAULT_TTL));
        Ok(Credential::new(token, expires_at).with_validity(validity))
    }
}
