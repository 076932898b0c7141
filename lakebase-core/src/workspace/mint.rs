//! The credential calls, of Autoscaling and of Provisioned.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use uuid::Uuid;

use super::Workspace;
use crate::config::claim::Claim;
use crate::config::endpoint::Compute;
use crate::credential::Credential;
use crate::credential::refresh::Validity;
use crate::error::Error;
use crate::error::Kind;
use crate::http::{Reply, timestamp};
use crate::sign_in::is_header_safe;

/// The platform's own default, and its maximum.
const DEFAULT_TTL: Duration = Duration::from_secs(3600);
/// What a Provisioned credential is trusted for if its reply does not say: the hour that they live, less
/// what may be lost on the way. (Not documented.)
const ASSUMED_TTL: Duration = Duration::from_secs(55 * 60);

impl Workspace {
    pub(super) async fn mint(
        &self,
        ttl: Option<Duration>,
        claims: &[Claim],
    ) -> Result<Credential, Error> {
        let (path, mut body, expiry) = match &self.compute {
            Compute::Instance(name) => (
                "/api/2.0/database/credentials",
                // A name of its own for each call: with the same one, the platform may answer the same.
                json!({ "request_id": Uuid::new_v4().to_string(), "instance_names": [name] }),
                "expiration_time",
            ),
            Compute::Endpoint(_) | Compute::Branch(_) => (
                "/api/2.0/postgres/credentials",
                json!({ "endpoint": self.endpoint().await?.as_str() }),
                "expire_time",
            ),
        };
        if let Some(ttl) = ttl {
            body["ttl"] = json!(format!("{}s", ttl.as_secs()));
        }
        if !claims.is_empty() {
            body["claims"] = claims.iter().map(Claim::to_json).collect();
        }
        let reply = self.client.post(path, &body).await.inspect_err(|error| {
            if error.status() == Some(404) {
                self.suspect_endpoints();
            }
        })?;
        let assumed = matches!(self.compute, Compute::Instance(_)).then_some(ASSUMED_TTL);
        read(&reply, expiry, ttl, assumed)
    }
}

fn read(
    reply: &Reply,
    expiry: &str,
    ttl: Option<Duration>,
    assumed: Option<Duration>,
) -> Result<Credential, Error> {
    let answer = reply.json()?;
    let unusable = |field: &str, what: &str| {
        reply
            .error(Kind::Platform, format!("the credential reply is unusable: `{field}` {what}"))
            .with_hint("Report this to Databricks with the request id; a proxy in between may also have changed the reply")
    };
    let token = match answer.get("token") {
        Some(Value::String(token)) if is_header_safe(token) => token.clone(),
        Some(Value::String(token)) if token.is_empty() => {
            return Err(unusable("token", "is empty"));
        }
        Some(Value::String(_)) => {
            return Err(unusable("token", "holds characters that no token has"));
        }
        Some(_) => return Err(unusable("token", "is not a string")),
        None => return Err(unusable("token", "is missing")),
    };
    let (expires_at, validity) = match (answer.get(expiry), assumed) {
        (Some(Value::String(text)), _) => {
            let at = timestamp(text).ok_or_else(|| unusable(expiry, "is not an RFC 3339 date"))?;
            let validity = Validity::measure(at, reply.date, reply.sent, reply.received)
                .ok_or_else(|| unusable(expiry, "has passed already"))?;
            (at, validity)
        }
        (Some(_), _) => return Err(unusable(expiry, "is not a string")),
        (None, Some(lifetime)) => {
            let at: SystemTime = reply.sent.wall + lifetime;
            (at, Validity::starting(reply.sent, lifetime))
        }
        (None, None) => return Err(unusable(expiry, "is missing")),
    };
    // Whatever the clocks in between say, it lives no longer than the platform mints it for.
    let validity = validity.at_most(ttl.unwrap_or(DEFAULT_TTL));
    Ok(Credential::new(token, expires_at).with_validity(validity))
}
