//! Authenticated requests to one workspace as one identity.

use std::fmt;
use std::sync::Arc;

use reqwest::header::{HeaderValue, USER_AGENT};
use reqwest::{Method, RequestBuilder};
use secrecy::ExposeSecret;
use serde_json::Value;

use crate::credential::clock::Watch;
use crate::error::Error;
use crate::http::{Http, Reply, UserAgent};
use crate::settings::attributes::Attribute;
use crate::settings::resolved::Settings;
use crate::sign_in::token_cache::{Held, TokenCache};
use crate::sign_in::{SignIn, Site};
use crate::telemetry::Outage;

pub(crate) struct Client {
    site: Arc<Site>,
    sign_in: Arc<SignIn>,
    tokens: TokenCache,
    agent: UserAgent,
}

impl Client {
    pub(crate) fn new(
        settings: &Settings,
        sign_in: &Arc<SignIn>,
        agent: &UserAgent,
        clock: Arc<Watch>,
    ) -> Result<Self, Error> {
        let http = Http::new(agent, &settings.vars, clock)?;
        let ahead = !settings.is_true(Attribute::DisableAsyncTokenRefresh)?;
        let site = Arc::new(Site::new(http, settings.clone()));
        Ok(Self {
            tokens: TokenCache::new(
                Arc::clone(&site),
                Arc::clone(sign_in),
                Arc::clone(sign_in),
                ahead,
            ),
            site,
            sign_in: Arc::clone(sign_in),
            agent: agent.clone(),
        })
    }

    /// The same workspace with another identity.
    pub(super) fn as_identity(&self, sign_in: &Arc<SignIn>) -> Self {
        let (site, sign_in) = (Arc::clone(&self.site), Arc::clone(sign_in));
        Self {
            tokens: TokenCache::new(
                Arc::clone(&site),
                Arc::clone(&sign_in),
                Arc::clone(&self.sign_in),
                false,
            ),
            site,
            sign_in,
            agent: self.agent.clone(),
        }
    }

    /// Drops the held token: the identity has another one.
    pub(crate) fn forget_token(&self) {
        self.tokens.forget();
    }

    /// Adds the identity and its strategy to an error.
    pub(crate) fn name(&self, error: Error) -> Error {
        let strategy = self.sign_in.name();
        let sources = self.site.settings().sources(self.sign_in.attributes());
        let strategy_text = match sources.as_str() {
            "" => format!("authentication {strategy}"),
            _ => format!("authentication {strategy} with {sources}"),
        };
        let identity = self.sign_in.postgres_role().unwrap_or(match strategy {
            "pat" => "personal access token",
            other => other,
        });
        error.with_identity(identity, strategy_text)
    }

    pub(super) fn clock(&self) -> Arc<Watch> {
        self.site.http.clock()
    }

    pub(crate) fn outage(&self) -> &Arc<Outage> {
        self.site.http.outage()
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Reply, Error> {
        self.call(&Method::GET, path, None, true).await
    }

    /// A request that may be sent twice.
    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Reply, Error> {
        self.call(&Method::POST, path, Some(body), true).await
    }

    /// A request that is never sent twice. After a transient error, it may have arrived.
    #[cfg(feature = "admin")]
    pub(crate) async fn change(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Reply, Error> {
        self.call(method, path, body, false).await
    }

    /// Sends an authenticated request. Replaces the token once if the workspace rejected it, or may have.
    async fn call(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        is_repeatable: bool,
    ) -> Result<Reply, Error> {
        // Looks up the host as well if it is not configured.
        let mut held = self.tokens.get(None).await?;
        let mut may_renew = true;
        loop {
            let (request, secrets) = self.signed(method, path, body, &held).await?;
            let http = &self.site.http;
            let reply = match is_repeatable {
                true => http.send(request, &secrets).await?,
                false => http.send_once(request, &secrets).await?,
            };
            if may_renew && self.sign_in.can_renew(&held.token) {
                may_renew = false;
                let newer = match reply.status {
                    401 => Some(self.tokens.get(Some(&held)).await?),
                    _ if reply.doubts_token() && held.is_old(http.now()) => {
                        self.tokens.newer_than(&held).await
                    }
                    _ => None,
                };
                if let Some(newer) = newer {
                    held = newer;
                    continue;
                }
            }
            return match reply.status {
                200..=299 => Ok(reply),
                401 => Err(reply
                    .failure("the workspace rejected the authentication")
                    .with_hint(self.sign_in.advice())),
                404 => Err(reply.failure("the workspace rejected the request").with_hint(
                    "Does it exist in this workspace? Check LAKEBASE_ENDPOINT (or LAKEBASE_INSTANCE_NAME) and the workspace",
                )),
                _ => Err(reply.failure("the workspace rejected the request")),
            };
        }
    }

    /// The request with the headers of the authentication, and the secrets that errors must not contain.
    async fn signed<'h>(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        held: &'h Held,
    ) -> Result<(RequestBuilder, Vec<&'h str>), Error> {
        let (http, url) = (&self.site.http, self.site.url(path)?);
        let agent = self.agent.with_auth(self.sign_in.name());
        let request = http.request(method.clone(), url).await?;
        let mut request = match body {
            Some(body) => request.json(body),
            None => request,
        }
        .header(USER_AGENT, agent);
        if let Some(id) = self.site.workspace_id() {
            let id = HeaderValue::from_str(&id).map_err(|_| {
                Error::config(
                    "DATABRICKS_WORKSPACE_ID contains characters that are invalid in an id",
                )
            })?;
            request = request.header("x-databricks-workspace-id", id);
        }
        let mut secrets = Vec::new();
        for (name, value) in &held.token.headers {
            let text = value.expose_secret();
            let mut header = HeaderValue::from_str(text)
                .map_err(|_| Error::config("the authentication produced an invalid HTTP header"))?;
            header.set_sensitive(true);
            request = request.header(*name, header);
            // The secret without its scheme.
            let secret = text.split_once(' ').map_or(text, |(_, secret)| secret);
            if *name != "x-databricks-azure-workspace-resource-id" {
                secrets.push(secret);
            }
        }
        Ok((request, secrets))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("host", &self.site.known_host().map(url::Url::as_str))
            .field("sign_in", &self.sign_in)
            .finish_non_exhaustive()
    }
}
