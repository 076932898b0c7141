//! The Databricks workspace: mints database credentials, knows endpoints and who we are.

mod auth;
mod client;
mod reply;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

pub(crate) use auth::{Auth, is_header_safe};
pub(crate) use client::Client;

use crate::error::Kind;
use crate::refresh::Validity;
use crate::{Credential, CredentialProvider, EndpointPath, Error};
use reply::Reply;

/// The platform's own default, and its maximum.
const DEFAULT_TTL: Duration = Duration::from_secs(3600);

/// Mints credentials for one Autoscaling endpoint.
pub(crate) struct WorkspaceProvider {
    pub(crate) client: Arc<Client>,
    pub(crate) endpoint: EndpointPath,
    pub(crate) ttl: Option<Duration>,
}

impl CredentialProvider for WorkspaceProvider {
    async fn credential(&self) -> Result<Credential, Error> {
        let mut body = json!({ "endpoint": self.endpoint.as_str() });
        if let Some(ttl) = self.ttl {
            body["ttl"] = json!(format!("{}s", ttl.as_secs()));
        }
        let named = |error: Error| self.client.name(error, Some(&self.endpoint));
        let reply = self
            .client
            .post("/api/2.0/postgres/credentials", &body)
            .await
            .map_err(named)?;
        read_credential(&reply, self.ttl).map_err(named)
    }
}

impl fmt::Debug for WorkspaceProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkspaceProvider")
            .field("endpoint", &self.endpoint.as_str())
            .finish_non_exhaustive()
    }
}

fn read_credential(reply: &Reply, ttl: Option<Duration>) -> Result<Credential, Error> {
    let answer = reply.json()?;
    let unusable = |field: &str, what: &str| {
        reply
            .error(Kind::Platform, format!("the credential reply is unusable: `{field}` {what}"))
            .with_hint("Report this to Databricks with the request id; a proxy in between may also have changed the reply")
    };
    let token = match answer.get("token") {
        Some(Value::String(token)) if !token.is_empty() => token.clone(),
        Some(Value::String(_)) => return Err(unusable("token", "is empty")),
        Some(_) => return Err(unusable("token", "is not a string")),
        None => return Err(unusable("token", "is missing")),
    };
    let expires_at = match answer.get("expire_time") {
        Some(Value::String(text)) => reply::timestamp(text)
            .ok_or_else(|| unusable("expire_time", "is not an RFC 3339 date"))?,
        Some(_) => return Err(unusable("expire_time", "is not a string")),
        None => return Err(unusable("expire_time", "is missing")),
    };
    let validity = Validity::measure(expires_at, reply.date, reply.sent, reply.received)
        .ok_or_else(|| unusable("expire_time", "has passed already"))?;
    // Whatever the clocks in between say, it lives no longer than the platform mints it for.
    let validity = validity.at_most(ttl.unwrap_or(DEFAULT_TTL));
    Ok(Credential::new(token, expires_at).with_validity(validity))
}

impl Client {
    /// The direct host of an endpoint, as the platform names it.
    pub(crate) async fn endpoint_host(&self, endpoint: &EndpointPath) -> Result<String, Error> {
        let named = |error: Error| self.name(error, Some(endpoint));
        let reply = self
            .get(&format!("/api/2.0/postgres/{endpoint}"))
            .await
            .map_err(named)?;
        let answer = reply.json().map_err(named)?;
        if answer.pointer("/status/disabled") == Some(&Value::Bool(true)) {
            return Err(named(
                reply
                    .error(Kind::Platform, "the endpoint is disabled")
                    .with_hint("A connection cannot wake it: enable it in the workspace"),
            ));
        }
        match answer.pointer("/status/hosts/host") {
            Some(Value::String(host)) if !host.is_empty() => Ok(host.clone()),
            // A fresh endpoint has no host yet.
            _ => Err(named(
                reply
                    .error(
                        Kind::Platform,
                        "the endpoint has no host yet (`status.hosts.host`)",
                    )
                    .with_hint("Wait until it has started, or set PGHOST")
                    .with_transient(true),
            )),
        }
    }

    /// The user name behind the sign-in, which is the Postgres user.
    pub(crate) async fn user_name(&self) -> Result<String, Error> {
        let reply = self
            .get("/api/2.0/preview/scim/v2/Me")
            .await
            .map_err(|error| self.name(error, None))?;
        match reply.json()?.get("userName") {
            Some(Value::String(name)) if !name.is_empty() => Ok(name.clone()),
            _ => Err(reply
                .error(
                    Kind::Platform,
                    "the workspace did not say who we are (`userName`)",
                )
                .with_hint("Set PGUSER to the Postgres role")),
        }
    }
}
