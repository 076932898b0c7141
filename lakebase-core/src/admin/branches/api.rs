//! Calls that change something, and their operations.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use serde_json::Value;
use tokio::runtime::Handle;
use url::form_urlencoded;

use super::rule::explained;
use super::wait::Wait;
use crate::config::endpoint::is_id;
use crate::credential::single_flight::no_runtime;
use crate::error::foreign::clean_text;
use crate::error::{Error, Kind};
use crate::http::Reply;
use crate::workspace::{Client, text_at};

/// The longest wait for a read, and for a change that has no limit of its own.
pub(super) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);
pub(super) const READ_LIMIT: Duration = Duration::from_secs(60);

/// As the official clients ask for.
const PAGE_SIZE: usize = 50;
/// Far more than a project can have; an answer that goes on is broken.
const MOST_PAGES: usize = 100;

/// Calls about one resource, which errors name.
pub(super) struct Api {
    pub(super) client: Arc<Client>,
    pub(super) resource: String,
}

/// How a change ended.
pub(super) enum Change {
    Done,
    /// The request may have arrived, or not.
    InDoubt(Error),
    /// The workspace rejected the request, or it was never sent: nothing has happened.
    Rejected(Error),
}

impl Api {
    /// One read, repeated while that can help.
    pub(super) async fn get(&self, path: &str, wait: &mut Wait) -> Result<Reply, Error> {
        Handle::try_current().map_err(|_| no_runtime())?;
        let url = url(path);
        let reply = wait.reading(|| self.client.get(&url)).await;
        reply.map_err(|error| self.name(explained(error)))
    }

    /// All pages of a list.
    pub(super) async fn list(&self, path: &str, key: &str) -> Result<Vec<Value>, Error> {
        let mut wait = Wait::new(format!("list of {key}"), READ_LIMIT);
        let mut found = Vec::new();
        let mut page = String::new();
        for _ in 0..MOST_PAGES {
            let path = format!("{path}?page_size={PAGE_SIZE}{page}");
            let reply = self.get(&path, &mut wait).await?;
            let mut answer = reply.json()?;
            let next = text_at(&answer, "/next_page_token").map(encoded);
            if let Some(Value::Array(items)) = answer.get_mut(key) {
                found.append(items);
            }
            match next {
                Some(next) => page = format!("&page_token={next}"),
                None => return Ok(found),
            }
        }
        let text = format!("the list of {key} does not end after {MOST_PAGES} pages");
        Err(self.name(Error::new(Kind::Platform, text)))
    }

    /// Sends a change, once unless it certainly did nothing, and waits for its operation. An error is one of the operation.
    pub(super) async fn change(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        wait: &mut Wait,
    ) -> Result<Change, Error> {
        Handle::try_current().map_err(|_| no_runtime())?;
        let url = url(path);
        loop {
            let sent = wait.within(self.client.change(method, &url, body)).await;
            let error = match sent.map_err(explained) {
                Ok(reply) => {
                    let operated = self.operation(reply, wait).await;
                    return operated
                        .map(|()| Change::Done)
                        .map_err(|error| self.name(error));
                }
                Err(error) => error,
            };
            match error.status() {
                // Nothing has happened: a rate limit, or another change under way.
                Some(409 | 429) if error.is_transient() => {
                    if let Err(error) = wait.pause(self.name(error)).await {
                        return Ok(Change::Rejected(error));
                    }
                }
                Some(400..500) if !error.is_transient() => {
                    return Ok(Change::Rejected(self.name(error)));
                }
                // Without a token nothing is sent.
                _ if error.is_config() || (error.is_sign_in() && !error.is_transient()) => {
                    return Ok(Change::Rejected(self.name(error)));
                }
                _ => return Ok(Change::InDoubt(self.name(error))),
            }
        }
    }

    /// A change that may be made twice: in doubt it is.
    pub(super) async fn settle(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        wait: &mut Wait,
    ) -> Result<(), Error> {
        let mut in_doubt = false;
        loop {
            match self.change(method, path, body, wait).await {
                Ok(Change::Done) => return Ok(()),
                Ok(Change::InDoubt(error)) if error.is_transient() => {
                    in_doubt = true;
                    wait.pause(error).await?;
                }
                // It did arrive.
                Ok(Change::Rejected(error)) | Err(error)
                    if in_doubt && is_done_already(method, &error) =>
                {
                    return Ok(());
                }
                Ok(Change::InDoubt(error) | Change::Rejected(error)) | Err(error) => {
                    return Err(error);
                }
            }
        }
    }

    /// Polls as the official clients do.
    async fn operation(&self, mut reply: Reply, wait: &mut Wait) -> Result<(), Error> {
        wait.next_step();
        let mut is_polled = false;
        loop {
            let answer = reply.json()?;
            if let Some(error) = answer.get("error").filter(|error| !error.is_null()) {
                return Err(explained(failed(&reply, error)));
            }
            if answer.get("done") == Some(&Value::Bool(true)) {
                return Ok(());
            }
            let name = text_at(&answer, "/name").filter(|name| is_path(name));
            let name = name.ok_or_else(|| {
                reply.platform_error("the workspace started an operation without a usable `name`")
            })?;
            if is_polled {
                let text = format!("operation {name} is not done");
                wait.pause(Error::timeout(text)).await?;
            }
            is_polled = true;
            reply = self.get(name, wait).await?;
        }
    }

    pub(super) fn name(&self, error: Error) -> Error {
        self.client
            .name(error.with_compute(Some(self.resource.clone())))
    }
}

fn is_done_already(method: &Method, error: &Error) -> bool {
    match *method {
        Method::DELETE => error.status() == Some(404),
        Method::POST => error.says("already exists"),
        _ => false,
    }
}

fn failed(reply: &Reply, error: &Value) -> Error {
    let text = |field: &str| text_at(error, field).map(clean_text);
    let message = text("/message").unwrap_or_else(|| "without a reason".to_owned());
    let error = reply.platform_error(format!("the operation failed: {message}"));
    error.with_response(reply.status, text("/error_code"), None)
}

fn url(path: &str) -> String {
    format!("/api/2.0/postgres/{path}")
}

/// For a query.
pub(super) fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// A name of the platform's that can be asked for.
pub(super) fn is_path(name: &str) -> bool {
    name.starts_with("projects/") && name.split('/').all(is_id)
}

/// An id that a person gave.
pub(super) fn checked_id<'a>(what: &str, id: &'a str) -> Result<&'a str, Error> {
    match is_id(id) {
        true => Ok(id),
        false => Err(Error::config(format!(
            "{what}: {} is not an id",
            crate::settings::setting::quoted(id)
        ))
        .with_hint(
            "An id is the last part of a name: production in projects/shop/branches/production",
        )),
    }
}
