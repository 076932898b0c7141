//! HTTP without authentication: time limits, proxies and the user agent.

mod pace;
mod proxy;
mod reply;
mod user_agent;

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue};
use reqwest::{Method, Proxy, Request, RequestBuilder, redirect};
use tokio::time::{Instant, timeout_at};
use url::Url;

pub(crate) use reply::{Reply, timestamp};
pub(crate) use user_agent::UserAgent;

use self::pace::Pace;
use self::proxy::Proxies;
use crate::credential::clock::{Now, Watch};
use crate::error::{Error, Kind};
use crate::settings::attributes::Vars;
use crate::settings::host_name::is_loopback;
use crate::telemetry::Outage;
use crate::tls::{Roots, is_untrusted};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// A change is sent once, so it gets the time limit of the official clients.
const CHANGE_LIMIT: Duration = Duration::from_secs(60);
/// A request without a reply is repeated at this interval, and the first reply to any of them counts. A slow workspace
/// still answers the first request; a connection that a proxy has dropped never gets a reply.
const REPEAT_INTERVAL: Duration = Duration::from_secs(3);
/// Far more than the replies of the workspace. The error page of a proxy may be larger.
const LARGEST_BODY: usize = 256 * 1024;

pub(crate) struct Http {
    agent: String,
    proxies: Arc<Proxies>,
    client: OnceLock<reqwest::Client>,
    clock: Arc<Watch>,
    pace: Pace,
    outage: Arc<Outage>,
}

impl Http {
    /// `vars` name the proxies. Does no I/O.
    pub(crate) fn new(agent: &UserAgent, vars: &Vars, clock: Arc<Watch>) -> Result<Self, Error> {
        Ok(Self {
            agent: agent.to_string(),
            proxies: Arc::new(Proxies::from_vars(vars)?),
            client: OnceLock::new(),
            clock,
            pace: Pace::default(),
            outage: Arc::default(),
        })
    }

    async fn client(&self) -> Result<&reqwest::Client, Error> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let roots = Roots::system().await?;
        let json = HeaderValue::from_static("application/json");
        let proxies = Arc::clone(&self.proxies);
        let proxy = Proxy::custom(move |url| Some(proxies.of(url)?.url.clone()));
        let client = reqwest::Client::builder()
            // Only the proxies of `vars`.
            .no_proxy()
            .proxy(proxy)
            .tls_backend_preconfigured(roots.client_config()?)
            .default_headers(HeaderMap::from_iter([(ACCEPT, json)]))
            .user_agent(&self.agent)
            // A redirect leads to a login page.
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_LIMIT)
            .timeout(REQUEST_LIMIT)
            // Requests are three quarters of an hour apart, and the runtime of an idle connection may have ended.
            .pool_max_idle_per_host(0)
            .build()
            .map_err(|error| Error::config("cannot set up HTTP").with_source(error))?;
        Ok(self.client.get_or_init(|| client))
    }

    pub(crate) async fn request(&self, method: Method, url: Url) -> Result<RequestBuilder, Error> {
        Ok(self.client().await?.request(method, url))
    }

    pub(crate) async fn get(&self, url: Url) -> Result<RequestBuilder, Error> {
        self.request(Method::GET, url).await
    }

    pub(crate) async fn post(&self, url: Url) -> Result<RequestBuilder, Error> {
        self.request(Method::POST, url).await
    }

    pub(crate) fn now(&self) -> Now {
        self.clock.now()
    }

    pub(crate) fn clock(&self) -> Arc<Watch> {
        Arc::clone(&self.clock)
    }

    /// The current outage of the workspace.
    pub(crate) fn outage(&self) -> &Arc<Outage> {
        &self.outage
    }

    /// Sends a request and returns the reply, whatever its status. May send it more than once. No error contains
    /// `secrets`, the secrets of the request.
    pub(crate) async fn send(
        &self,
        request: RequestBuilder,
        secrets: &[&str],
    ) -> Result<Reply, Error> {
        self.deliver(request, secrets, true).await
    }

    /// Like [`send`](Self::send), but sends the request once, with a longer time limit.
    pub(crate) async fn send_once(
        &self,
        request: RequestBuilder,
        secrets: &[&str],
    ) -> Result<Reply, Error> {
        let request = request.timeout(CHANGE_LIMIT);
        self.deliver(request, secrets, false).await
    }

    async fn deliver(
        &self,
        request: RequestBuilder,
        secrets: &[&str],
        is_repeatable: bool,
    ) -> Result<Reply, Error> {
        let client = self.client().await?;
        let request = request.build().map_err(|error| {
            Error::config("cannot build a request").caused_by(&error.without_url(), &[])
        })?;
        let url = request.url().clone();
        // Errors name the origin only: paths and queries may contain keys.
        let origin = url.origin().ascii_serialization();
        self.pace.turn(&origin).await;
        let began = Instant::now();
        let attempt = || async {
            // Only a streamed body cannot be copied, and there is none.
            let copy = request.try_clone();
            let copy = copy.ok_or_else(|| Error::config("cannot repeat a request"))?;
            self.execute(client, &origin, copy).await
        };
        let outcome = match is_repeatable {
            true => first_reply(attempt, |reply| reply.is_outage() || reply.status == 429).await,
            false => attempt().await,
        };
        let outcome = outcome.map(|reply| reply.scrubbed(secrets));
        let has_failed = match &outcome {
            Ok(reply) => reply.is_outage(),
            Err(error) => error.is_transient(),
        };
        self.pace.note(&origin, began, has_failed);
        match (outcome, self.proxies.of(&url)) {
            (Err(error), Some(proxy)) => Err(proxy.explain(error, &url).await),
            (outcome, _) => outcome,
        }
    }

    async fn execute(
        &self,
        client: &reqwest::Client,
        to: &str,
        request: Request,
    ) -> Result<Reply, Error> {
        let sent = self.now();
        let failed = |error| unreachable(to, error);
        let mut response = client.execute(request).await.map_err(failed)?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > LARGEST_BODY {
                let text = format!("{to} answered with more than {LARGEST_BODY} bytes");
                return Err(Error::new(Kind::Platform, text));
            }
            body.extend_from_slice(&chunk);
        }
        let (status, headers) = (response.status().as_u16(), response.headers());
        Ok(Reply::new(to, status, headers, body, sent, self.now()))
    }
}

/// Repeats the attempt until one of them succeeds or the first one fails, which has had the full time. If a repeated attempt reports
/// an outage, no other follows, and the outage counts if the first one fails: it may succeed.
async fn first_reply<T, F>(
    attempt: impl Fn() -> F,
    is_outage: impl Fn(&T) -> bool,
) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let mut under_way = FuturesUnordered::new();
    let (mut number, mut outage) = (0, None);
    loop {
        if outage.is_none() {
            let attempt = attempt();
            under_way.push(async move { (number, attempt.await) });
            number += 1;
        }
        let next = Instant::now() + REPEAT_INTERVAL;
        while let Ok(Some(ended)) = timeout_at(next, under_way.next()).await {
            match ended {
                (0, Err(error)) => return outage.ok_or(error),
                (1.., Ok(reply)) if is_outage(&reply) => outage = Some(reply),
                (_, Ok(reply)) => return Ok(reply),
                (_, Err(_)) => {}
            }
        }
    }
}

fn unreachable(to: &str, error: reqwest::Error) -> Error {
    let error = error.without_url();
    if error.is_builder() {
        return Error::config(format!("cannot build a request for {to}")).caused_by(&error, &[]);
    }
    if is_untrusted(&error) {
        return Error::new(Kind::Network, format!("no trusted TLS connection to {to}"))
            .with_hint("The certificate is checked against the bundled and the system roots; a proxy that inspects TLS needs its root in the system store")
            .with_transient(false)
            .caused_by(&error, &[]);
    }
    if error.is_timeout() {
        return Error::new(Kind::Timeout, format!("{to} did not answer in time"))
            .caused_by(&error, &[]);
    }
    Error::new(Kind::Network, format!("cannot reach {to}"))
        .with_hint("Check the address and the network (proxy, IP access list, Private Link)")
        .caused_by(&error, &[])
}

/// Whether the URL is https, or http to this machine.
pub(crate) fn protects_secrets(url: &Url) -> bool {
    match url.scheme() {
        "https" => true,
        "http" => url.host_str().is_some_and(is_loopback),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::time::sleep;

    use super::*;

    /// Attempts and time until attempt number `answering` succeeds, `after` its start.
    async fn attempts(answering: usize, after: Duration) -> (usize, Duration) {
        let made = AtomicUsize::new(0);
        let began = Instant::now();
        let attempt = || {
            let number = made.fetch_add(1, Ordering::Relaxed);
            async move {
                if number != answering {
                    return pending().await;
                }
                sleep(after).await;
                Ok::<_, Error>(())
            }
        };
        let outcome = first_reply(attempt, |()| false);
        outcome.await.expect("a reply");
        (made.load(Ordering::Relaxed), began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_without_a_reply_is_repeated_every_three_seconds() {
        let almost = REPEAT_INTERVAL - Duration::from_millis(1);
        assert_eq!(attempts(0, almost).await, (1, almost));
        assert_eq!(attempts(2, Duration::ZERO).await, (3, 2 * REPEAT_INTERVAL));
    }

    /// Which request is answered: the first one after 4 s, or one that is repeated at once with an outage.
    async fn answered(first: Result<u16, Error>) -> Result<u16, Error> {
        let made = AtomicUsize::new(0);
        let attempt = || {
            let (number, first) = (made.fetch_add(1, Ordering::Relaxed), first.clone());
            async move {
                match number {
                    0 => sleep(Duration::from_secs(4)).await,
                    _ => return Ok(503),
                }
                first
            }
        };
        first_reply(attempt, |status| *status == 503).await
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_of_a_repeated_request_counts_only_if_the_first_one_fails() {
        let answer = answered(Ok(200)).await;
        assert_eq!(answer.expect("the first reply"), 200);
        let answer = answered(Err(Error::timeout("no reply"))).await;
        assert_eq!(answer.expect("the reply to the repeated one"), 503);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_request_to_a_slow_workspace_is_kept() {
        let slow = Duration::from_secs(8);
        assert_eq!(attempts(0, slow).await, (3, slow));
    }
}
