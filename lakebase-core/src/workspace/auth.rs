//! How we sign in to the workspace.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Mutex, OnceCell};
use url::Url;

use super::client::Client;
use crate::Error;
use crate::endpoint::is_loopback;
use crate::error::Kind;
use crate::refresh::Validity;

/// A workspace sign-in.
pub(crate) enum Auth {
    /// Personal access token (or any bearer the user brings): sent as it is.
    Pat(SecretString),
    /// OAuth client credentials of a service principal.
    M2m(Box<ServicePrincipal>),
}

/// OAuth M2M with its own token cache, apart from the database credential's.
pub(crate) struct ServicePrincipal {
    client_id: String,
    client_secret: SecretString,
    token_endpoint: OnceCell<Url>,
    token: Mutex<Option<WorkspaceToken>>,
}

struct WorkspaceToken {
    secret: SecretString,
    validity: Validity,
}

impl Auth {
    pub(crate) fn m2m(client_id: String, client_secret: SecretString) -> Self {
        Self::M2m(Box::new(ServicePrincipal {
            client_id,
            client_secret,
            token_endpoint: OnceCell::new(),
            token: Mutex::default(),
        }))
    }

    /// The name Databricks documents for this kind of sign-in.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Pat(_) => "pat",
            Self::M2m(_) => "oauth-m2m",
        }
    }

    pub(crate) fn client_id(&self) -> Option<&str> {
        match self {
            Self::Pat(_) => None,
            Self::M2m(principal) => Some(&principal.client_id),
        }
    }

    /// A bearer token. `refused` is one the workspace has just turned down.
    pub(crate) async fn bearer(
        &self,
        client: &Client,
        refused: Option<&SecretString>,
    ) -> Result<SecretString, Error> {
        match self {
            Self::Pat(token) => Ok(token.clone()),
            Self::M2m(principal) => principal.bearer(client, refused).await,
        }
    }

    /// Whether asking [`bearer`](Self::bearer) again can give another token.
    pub(crate) fn can_renew(&self) -> bool {
        matches!(self, Self::M2m(_))
    }
}

impl ServicePrincipal {
    async fn bearer(
        &self,
        client: &Client,
        refused: Option<&SecretString>,
    ) -> Result<SecretString, Error> {
        let mut held = self.token.lock().await;
        if let Some(token) = &*held {
            let refused =
                refused.is_some_and(|r| r.expose_secret() == token.secret.expose_secret());
            if !refused && token.validity.is_usable_for_minting(client.now()) {
                return Ok(token.secret.clone());
            }
        }
        let token = self.exchange(client).await?;
        let secret = token.secret.clone();
        *held = Some(token);
        Ok(secret)
    }

    async fn exchange(&self, client: &Client) -> Result<WorkspaceToken, Error> {
        let endpoint = self
            .token_endpoint
            .get_or_try_init(|| discover(client))
            .await?
            .clone();
        let form = [("grant_type", "client_credentials"), ("scope", "all-apis")];
        let request = client
            .http()
            .post(endpoint)
            .basic_auth(&self.client_id, Some(self.client_secret.expose_secret()))
            .form(&form);
        let reply = client.send(request).await?;
        let secret = self.client_secret.expose_secret();
        // A debug page may repeat the header as it was sent.
        let header = STANDARD.encode(format!("{}:{secret}", self.client_id));
        let reply = reply.scrubbed(&[secret, &header]);
        if !reply.is_success() {
            let error = reply.failure("the workspace refused to sign the service principal in");
            return Err(match reply.status {
                400 | 401 => error.with_hint(
                    "Check DATABRICKS_CLIENT_ID and DATABRICKS_CLIENT_SECRET: the secret may be wrong, expired or of another workspace",
                ),
                _ => error,
            });
        }
        let answer = reply.json()?;
        let unusable = |field: &str, what: &str| {
            reply.error(
                Kind::Platform,
                format!("the sign-in reply is unusable: `{field}` {what}"),
            )
        };
        let secret = match answer.get("access_token").and_then(|token| token.as_str()) {
            Some(token) if is_header_safe(token) => SecretString::from(token),
            Some(_) => return Err(unusable("access_token", "is not a token")),
            None => return Err(unusable("access_token", "is missing")),
        };
        // AAD and others send the number as a string.
        let seconds = answer.get("expires_in").and_then(|value| {
            value
                .as_f64()
                .or_else(|| value.as_str().and_then(|text| text.parse().ok()))
        });
        let lifetime = seconds
            .filter(|seconds| *seconds > 0.0)
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .ok_or_else(|| unusable("expires_in", "is not a positive number of seconds"))?;
        Ok(WorkspaceToken {
            secret,
            validity: Validity::starting(reply.sent, lifetime),
        })
    }
}

/// Visible ASCII: goes into a header as it is.
pub(crate) fn is_header_safe(secret: &str) -> bool {
    !secret.is_empty() && secret.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The token endpoint from the host's OAuth document, or the usual one where there is none.
async fn discover(client: &Client) -> Result<Url, Error> {
    let usual = client.url("/oidc/v1/token")?;
    let document = client.url("/oidc/.well-known/oauth-authorization-server")?;
    let reply = client.send(client.http().get(document)).await?;
    if reply.status == 404 {
        return Ok(usual);
    }
    if !reply.is_success() {
        return Err(reply.failure("the workspace's OAuth document cannot be read"));
    }
    let answer = reply.json()?;
    let Some(endpoint) = answer
        .get("token_endpoint")
        .and_then(|value| value.as_str())
    else {
        return Ok(usual);
    };
    let parsed = Url::parse(endpoint).ok().filter(|url| {
        let loopback = url.host_str().is_some_and(is_loopback);
        url.scheme() == "https" || (client.is_plaintext() && url.scheme() == "http" && loopback)
    });
    parsed.ok_or_else(|| {
        reply.error(
            Kind::Platform,
            "the workspace's OAuth document names a `token_endpoint` that is not an https URL",
        )
    })
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
