//! Plain HTTP: limits, proxies, who we say we are. Knows no sign-in.

mod hedge;
mod proxy;
mod reply;
mod user_agent;

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT, HeaderMap, HeaderValue};
use reqwest::{Request, RequestBuilder, redirect};
use url::Url;

pub(crate) use hedge::Waiters;
pub(crate) use reply::{Reply, timestamp};
pub(crate) use user_agent::UserAgent;

use self::hedge::Hedge;
use crate::Error;
use crate::clock::{Now, Watch};
use crate::config::attributes::Vars;
use crate::endpoint::is_loopback;
use crate::error::Kind;
use crate::tls::{self, Roots};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// No answer of these calls comes near it; a proxy's error page might.
const LARGEST_BODY: usize = 256 * 1024;

#[derive(Clone)]
pub(crate) struct Http {
    client: reqwest::Client,
    clock: Arc<Watch>,
    hedge: Hedge,
}

impl Http {
    /// `vars` is the environment, which names the proxies.
    pub(crate) fn new(
        agent: &UserAgent,
        vars: &Vars,
        clock: Arc<Watch>,
        waiters: &Waiters,
    ) -> Result<Self, Error> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        // No proxy but those of `vars`.
        let mut builder = reqwest::Client::builder().no_proxy();
        for proxy in proxy::from_vars(vars)? {
            builder = builder.proxy(proxy);
        }
        let client = builder
            .tls_backend_preconfigured(Roots::system().client_config()?)
            .default_headers(headers)
            .user_agent(agent.to_string())
            // A redirect leads to a login page; following it would only hide that.
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_LIMIT)
            .timeout(REQUEST_LIMIT)
            // Calls are three quarters of an hour apart, and a kept connection would belong to
            // a runtime that may be gone by then.
            .pool_max_idle_per_host(0)
            .build()
            .map_err(|error| Error::config("cannot set up HTTP").with_source(error))?;
        let hedge = Hedge::new(waiters.clone());
        Ok(Self {
            client,
            clock,
            hedge,
        })
    }

    pub(crate) fn get(&self, url: Url) -> RequestBuilder {
        self.client.get(url)
    }

    pub(crate) fn post(&self, url: Url) -> RequestBuilder {
        self.client.post(url)
    }

    pub(crate) fn now(&self) -> Now {
        self.clock.now()
    }

    /// One request, one reply, whatever its status. Made anew while no answer comes and somebody waits;
    /// all calls here may be made twice.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Reply, Error> {
        let request = request.build().map_err(|error| {
            Error::config("cannot build a request").with_source(error.without_url())
        })?;
        // Never more than the origin: paths and queries may hold keys.
        let to = request.url().origin().ascii_serialization();
        // There is no body that cannot be copied: none is a stream.
        let copy = || request.try_clone();
        let ask = || async {
            match copy() {
                Some(request) => self.ask(&to, request).await,
                None => Err(Error::config("cannot repeat a request")),
            }
        };
        self.hedge.first(ask).await
    }

    async fn ask(&self, to: &str, request: Request) -> Result<Reply, Error> {
        let sent = self.now();
        let failed = |error| unreachable(to, error);
        let mut response = self.client.execute(request).await.map_err(failed)?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > LARGEST_BODY {
                return Err(Error::new(
                    Kind::Platform,
                    format!("{to} answered with more than {LARGEST_BODY} bytes"),
                ));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Reply::new(
            to,
            response.status().as_u16(),
            response.headers(),
            body,
            sent,
            self.now(),
        ))
    }
}

fn unreachable(to: &str, error: reqwest::Error) -> Error {
    let error = error.without_url();
    if error.is_builder() {
        return Error::config(format!("cannot build a request for {to}")).with_source(error);
    }
    if tls::find_failure(&error).is_some() {
        return Error::new(Kind::Network, format!("no trusted TLS connection to {to}"))
            .with_hint("The certificate is checked against the bundled and the system roots; a proxy that inspects TLS needs its root in the system store")
            .with_transient(false)
            .with_source(error);
    }
    if error.is_timeout() {
        return Error::new(Kind::Timeout, format!("{to} did not answer in time"))
            .with_source(error);
    }
    Error::new(Kind::Network, format!("cannot reach {to}"))
        .with_hint("Check the address and the network (proxy, IP access list, Private Link)")
        .with_source(error)
}

/// https, or plain http that does not leave this machine.
pub(crate) fn protects_secrets(url: &Url) -> bool {
    match url.scheme() {
        "https" => true,
        "http" => url.host_str().is_some_and(is_loopback),
        _ => false,
    }
}
