//! Plain HTTP to one workspace: bearer, headers, limits.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT, HeaderMap, HeaderValue};
use reqwest::{RequestBuilder, redirect};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;

use super::auth::Auth;
use super::reply::Reply;
use crate::clock::{Clock, Now};
use crate::error::Kind;
use crate::tls::{self, Roots};
use crate::{EndpointPath, Error};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// No answer of these calls comes near it; a proxy's error page might.
const LARGEST_BODY: usize = 256 * 1024;

/// Speaks to one workspace as one identity.
pub(crate) struct Client {
    base: Url,
    http: reqwest::Client,
    auth: Auth,
    clock: Arc<dyn Clock>,
}

impl Client {
    pub(crate) fn new(
        base: Url,
        auth: Auth,
        workspace_id: Option<&str>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(id) = workspace_id {
            let id = HeaderValue::from_str(id).map_err(|_| {
                Error::config("DATABRICKS_WORKSPACE_ID holds characters that no id has")
            })?;
            headers.insert("X-Databricks-Workspace-Id", id);
        }
        let agent = format!(
            "lakebase-core/{version} rust/{rust} os/{os} auth/{auth}",
            version = env!("CARGO_PKG_VERSION"),
            rust = env!("CARGO_PKG_RUST_VERSION"),
            os = std::env::consts::OS,
            auth = auth.name(),
        );
        let builder = reqwest::Client::builder();
        // Plain http is for loopback, where no proxy has any business with our secrets.
        let builder = match base.scheme() {
            "http" => builder.no_proxy(),
            _ => builder,
        };
        let http = builder
            .tls_backend_preconfigured(Roots::system().client_config()?)
            .default_headers(headers)
            .user_agent(agent)
            // A redirect leads to a login page; following it would only hide that.
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_LIMIT)
            .timeout(REQUEST_LIMIT)
            // Calls are three quarters of an hour apart, and a kept connection would belong to
            // a runtime that may be gone by then.
            .pool_max_idle_per_host(0)
            .build()
            .map_err(|error| Error::config("cannot set up HTTP").with_source(error))?;
        Ok(Self {
            base,
            http,
            auth,
            clock,
        })
    }

    pub(super) fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// Plain http to a loopback host.
    pub(super) fn is_plaintext(&self) -> bool {
        self.base.scheme() == "http"
    }

    pub(super) fn now(&self) -> Now {
        Now::read(&*self.clock)
    }

    pub(super) fn url(&self, path: &str) -> Result<Url, Error> {
        self.base.join(path).map_err(|error| {
            Error::config(format!("cannot build a URL below {}", self.base)).with_source(error)
        })
    }

    /// Adds to an error what it was about.
    pub(super) fn name(&self, error: Error, endpoint: Option<&EndpointPath>) -> Error {
        let identity = self.auth.client_id().unwrap_or("personal access token");
        error.with_context(endpoint.map(EndpointPath::as_str), Some(identity))
    }

    pub(super) async fn get(&self, path: &str) -> Result<Reply, Error> {
        let url = self.url(path)?;
        self.call(|| self.http.get(url.clone())).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Reply, Error> {
        let url = self.url(path)?;
        self.call(|| self.http.post(url.clone()).json(body)).await
    }

    /// One authenticated call; a stale workspace token is renewed once.
    async fn call(&self, request: impl Fn() -> RequestBuilder) -> Result<Reply, Error> {
        let mut refused: Option<SecretString> = None;
        loop {
            let bearer = self.auth.bearer(self, refused.as_ref()).await?;
            let reply = self
                .send(request().bearer_auth(bearer.expose_secret()))
                .await?;
            let reply = reply.scrubbed(&[bearer.expose_secret()]);
            if reply.status == 401 && refused.is_none() && self.auth.can_renew() {
                refused = Some(bearer);
                continue;
            }
            if reply.is_success() {
                return Ok(reply);
            }
            return Err(reply.failure("the workspace refused the request"));
        }
    }

    /// One request, one reply, whatever its status.
    pub(super) async fn send(&self, request: RequestBuilder) -> Result<Reply, Error> {
        let sent = self.now();
        let mut response = request
            .send()
            .await
            .map_err(|error| self.unreachable(error))?;
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.unreachable(error))?
        {
            if body.len() + chunk.len() > LARGEST_BODY {
                return Err(Error::new(
                    Kind::Platform,
                    format!("{} answered with more than {LARGEST_BODY} bytes", self.base),
                ));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Reply::new(
            self.base.as_str(),
            response.status().as_u16(),
            response.headers(),
            body,
            sent,
            self.now(),
        ))
    }

    fn unreachable(&self, error: reqwest::Error) -> Error {
        let error = error.without_url();
        let base = &self.base;
        if error.is_builder() {
            return Error::config(format!("cannot build a request for {base}")).with_source(error);
        }
        if tls::find_failure(&error).is_some() {
            return Error::new(Kind::Network, format!("no trusted TLS connection to {base}"))
                .with_hint("The certificate is checked against the bundled and the system roots; a proxy that inspects TLS needs its root in the system store")
                .with_transient(false)
                .with_source(error);
        }
        if error.is_timeout() {
            return Error::new(
                Kind::Timeout,
                format!("{base} did not answer within {} s", REQUEST_LIMIT.as_secs()),
            )
            .with_source(error);
        }
        Error::new(Kind::Network, format!("cannot reach {base}"))
            .with_hint(
                "Check DATABRICKS_HOST and the network (proxy, IP access list, Private Link)",
            )
            .with_source(error)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("base", &self.base.as_str())
            .field("auth", &self.auth)
            .finish_non_exhaustive()
    }
}
