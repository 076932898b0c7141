//! Calls of the workspace API for branches, roles and databases, and the operations that they start.

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

/// Limit of a change, unless its caller sets another one.
pub(super) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);
/// Limit of a read.
pub(super) const READ_LIMIT: Duration = Duration::from_secs(60);

/// The official clients use the same.
const PAGE_SIZE: usize = 50;
/// More pages than any project has: a longer list is a broken reply.
const MOST_PAGES: usize = 100;

/// Calls for one resource, which errors name.
pub(super) struct Api {
    pub(super) client: Arc<Client>,
    pub(super) resource: String,
}

/// How a change ended.
pub(super) enum Change {
    Done,
    /// The workspace may have received the request.
    InDoubt(Error),
    /// The workspace rejected the request, or it was not sent: nothing has changed.
    Rejected(Error),
}

impl Api {
    /// Reads, and retries while that can help.
    pub(super) async fn get(&self, path: &str, wait: &mut Wait) -> Result<Reply, Error> {
        Handle::try_current().map_err(|_| no_runtime())?;
        let url = url(path);
        let reply = wait.reading(|| self.client.get(&url)).await;
        reply.map_err(|error| self.name(explained(error)))
    }

    /// Reads all pages of a list.
    pub(super) async fn list(&self, path: &str, key: &str) -> Result<Vec<Value>, Error> {
        let mut wait = Wait::new(format!("list of {key}"), READ_LIMIT);
        let mut found = Vec::new();
        let mut page = String::new();
        for _ in 0..MOST_PAGES {
            let path = format!("{path}?page_size={PAGE_SIZE}{page}");
            let reply = self.get(&path, &mut wait).await?;
            let mut body = reply.json()?;
            let next = text_at(&body, "/next_page_token").map(encoded);
            if let Some(Value::Array(items)) = body.get_mut(key) {
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

    /// Sends a change and waits for its operation. It sends the change again only if the workspace has rejected the request for now.
    ///
    /// # Errors
    ///
    /// The operation failed.
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
                // Nothing has changed: a rate limit, or another change runs.
                Some(409 | 429) if error.is_transient() => {
                    if let Err(error) = wait.pause(self.name(error)).await {
                        return Ok(Change::Rejected(error));
                    }
                }
                Some(400..500) if !error.is_transient() => {
                    return Ok(Change::Rejected(self.name(error)));
                }
                // Without a token, the request is not sent.
                _ if error.is_config() || (error.is_sign_in() && !error.is_transient()) => {
                    return Ok(Change::Rejected(self.name(error)));
                }
                _ => return Ok(Change::InDoubt(self.name(error))),
            }
        }
    }

    /// Makes a change that has the same result when it is sent twice, and waits for its operation for 10 minutes at most.
    pub(super) async fn settle(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(), Error> {
        let mut wait = Wait::new(&self.resource, DEFAULT_TIMEOUT);
        let mut in_doubt = false;
        loop {
            match self.change(method, path, body, &mut wait).await {
                Ok(Change::Done) => return Ok(()),
                Ok(Change::InDoubt(error)) if error.is_transient() => {
                    in_doubt = true;
                    wait.pause(error).await?;
                }
                // An earlier request has succeeded.
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

    /// Polls an operation until it is done, with the pauses of the official clients.
    async fn operation(&self, mut reply: Reply, wait: &mut Wait) -> Result<(), Error> {
        wait.next_step();
        let mut is_polled = false;
        loop {
            let body = reply.json()?;
            if let Some(error) = body.get("error").filter(|error| !error.is_null()) {
                return Err(explained(failed(&reply, error)));
            }
            if body.get("done") == Some(&Value::Bool(true)) {
                return Ok(());
            }
            let name = text_at(&body, "/name").filter(|name| is_path(name));
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
        Method::POST => error.mentions("already exists"),
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

/// Encodes a value of a URL's query.
pub(super) fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// Whether this is a resource name of the platform, which is safe in the path of a URL.
pub(super) fn is_path(name: &str) -> bool {
    name.starts_with("projects/") && name.split('/').all(is_id)
}

/// Checks an id that the caller supplied.
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
