//! Which endpoint a branch has, and which host an endpoint or instance.

use std::sync::Arc;

use serde_json::Value;

use super::{Client, Workspace};
use crate::config::endpoint::EndpointPath;
use crate::config::endpoint::{Compute, HostKind};
use crate::credential::single_flight::{Fetch, Found};
use crate::error::Error;
use crate::error::Kind;
use crate::http::Reply;
use crate::settings::host_name::is_host_name;

/// As the official clients ask for.
const PAGE_SIZE: usize = 50;
/// Far more than a branch can have; an answer that goes on is broken.
const MOST_PAGES: usize = 100;

impl Workspace {
    /// The host to log in at, as the platform names it.
    pub(crate) async fn host(&self, kind: HostKind) -> Result<String, Error> {
        let found = match &self.compute {
            Compute::Instance(name) => self.instance_host(name, kind).await,
            Compute::Branch(branch) => self.branch_host(branch, kind).await,
            Compute::Endpoint(path) => self.endpoint_host(path, kind).await,
        };
        found.map_err(|error| self.name(error))
    }

    /// The endpoint to mint for: the one that was named, or the branch's own.
    pub(crate) async fn endpoint(&self) -> Result<EndpointPath, Error> {
        match &self.compute {
            Compute::Endpoint(path) => Ok(path.clone()),
            Compute::Instance(_) => Err(Error::config("a Provisioned instance has no endpoint")),
            Compute::Branch(branch) => Ok(self.endpoints_of(branch).await?.read_write),
        }
    }

    /// The endpoints of the branch may have been replaced.
    pub(crate) fn suspect_endpoints(&self) {
        self.endpoints.suspect();
    }

    async fn endpoints_of(&self, branch: &str) -> Result<Endpoints, Error> {
        let fetch = || -> Fetch<Found<Endpoints>> {
            let (client, branch) = (Arc::clone(&self.client), branch.to_owned());
            Box::pin(async move { Endpoints::list(&client, &branch).await.map(Found::new) })
        };
        Ok(self.endpoints.get(fetch).await?.value)
    }

    async fn endpoint_host(&self, path: &EndpointPath, kind: HostKind) -> Result<String, Error> {
        let reply = self
            .client
            .get(&format!("/api/2.0/postgres/{path}"))
            .await?;
        host_of(&reply.json()?, kind, &reply)
    }

    /// A read replica of the branch serves readers before its own endpoint does. A list may be shorter
    /// in words than the endpoint itself, so that is asked.
    async fn branch_host(&self, branch: &str, kind: HostKind) -> Result<String, Error> {
        let endpoints = self.endpoints_of(branch).await?;
        let replica = endpoints.read_only.filter(|_| kind.is_read_only());
        let path = replica.unwrap_or(endpoints.read_write);
        self.endpoint_host(&path, kind).await
    }

    async fn instance_host(&self, name: &str, kind: HostKind) -> Result<String, Error> {
        let path = format!("/api/2.0/database/instances/{name}");
        let reply = self.client.get(&path).await?;
        let answer = reply.json()?;
        let text = |field: &str| {
            answer
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let state = text("state");
        if answer.get("effective_stopped") == Some(&Value::Bool(true)) || state == "STOPPED" {
            return Err(reply
                .error(Kind::Platform, "the instance is stopped")
                .with_hint("A connection cannot wake it: start it in the workspace"));
        }
        if state == "DELETING" {
            return Err(reply.error(Kind::Platform, "the instance is being deleted"));
        }
        if kind.is_pooled() {
            return Err(Error::config("a Provisioned instance has no pooled host"));
        }
        let field = match kind.is_read_only() {
            true => "read_only_dns",
            false => "read_write_dns",
        };
        match text(field) {
            "" if kind.is_read_only() => Err(no_host(&reply, field)
                .with_hint("Add a readable secondary to the instance, or use its read-write host")),
            // One that is starting has none yet.
            "" => Err(no_host(&reply, field)
                .with_hint("Wait until it has started, or set PGHOST")
                .with_transient(true)),
            host => checked(host, &reply),
        }
    }
}

/// It goes into a connection as it is.
fn checked(host: &str, reply: &Reply) -> Result<String, Error> {
    match is_host_name(host) {
        true => Ok(host.to_owned()),
        false => Err(reply.error(
            Kind::Platform,
            "the workspace names a host that is no host name",
        )),
    }
}

/// The endpoints of a branch that are of use.
#[derive(Clone)]
pub(super) struct Endpoints {
    pub(super) read_write: EndpointPath,
    read_only: Option<EndpointPath>,
}

impl Endpoints {
    /// A page may be empty and have a next one.
    async fn list(client: &Client, branch: &str) -> Result<Self, Error> {
        let mut endpoints: Vec<Value> = Vec::new();
        let mut page = String::new();
        for _ in 0..MOST_PAGES {
            let query = url::form_urlencoded::Serializer::new(String::new())
                .append_pair("page_size", &PAGE_SIZE.to_string())
                .extend_pairs((!page.is_empty()).then_some(("page_token", &page)))
                .finish();
            let path = format!("/api/2.0/postgres/{branch}/endpoints?{query}");
            let reply = client.get(&path).await?;
            let answer = reply.json()?;
            if let Some(found) = answer.get("endpoints").and_then(Value::as_array) {
                endpoints.extend(found.iter().cloned());
            }
            match answer.get("next_page_token").and_then(Value::as_str) {
                Some(next) if !next.is_empty() => page = next.to_owned(),
                _ => {
                    let find = |kind| {
                        let found = endpoints.iter().find(|endpoint| is(endpoint, kind));
                        found.map(|endpoint| path_of(endpoint, &reply)).transpose()
                    };
                    return Ok(Self {
                        read_write: find("READ_WRITE")?
                            .ok_or_else(|| no_endpoint(&reply, branch))?,
                        read_only: find("READ_ONLY")?,
                    });
                }
            }
        }
        Err(Error::new(
            Kind::Platform,
            format!("the list of endpoints does not end after {MOST_PAGES} pages"),
        ))
    }
}

/// Unknown types are none of ours.
fn is(endpoint: &Value, kind: &str) -> bool {
    let found = endpoint
        .pointer("/status/endpoint_type")
        .and_then(Value::as_str);
    found.is_some_and(|found| found.ends_with(kind))
}

fn path_of(endpoint: &Value, reply: &Reply) -> Result<EndpointPath, Error> {
    let name = endpoint.get("name").and_then(Value::as_str);
    name.and_then(|name| name.parse().ok()).ok_or_else(|| {
        reply.error(
            Kind::Platform,
            "the branch lists an endpoint without a usable `name`",
        )
    })
}

fn no_endpoint(reply: &Reply, branch: &str) -> Error {
    reply
        .error(
            Kind::Platform,
            format!("branch {branch} has no read-write endpoint"),
        )
        .with_hint("Create one, or name an endpoint of another branch in LAKEBASE_ENDPOINT")
}

fn no_host(reply: &Reply, field: &str) -> Error {
    reply.error(
        Kind::Platform,
        format!("the workspace names no such host (`{field}`)"),
    )
}

fn host_of(endpoint: &Value, kind: HostKind, reply: &Reply) -> Result<String, Error> {
    if endpoint.pointer("/status/disabled") == Some(&Value::Bool(true)) {
        return Err(reply
            .error(Kind::Platform, "the endpoint is disabled")
            .with_hint("A connection cannot wake it: enable it in the workspace"));
    }
    let host = |field: &str| {
        let host = endpoint.pointer(&format!("/status/hosts/{field}"))?;
        host.as_str().filter(|host| !host.is_empty())
    };
    let is_replica = is(endpoint, "READ_ONLY");
    let (field, found) = match kind {
        HostKind::ReadWrite => ("host", host("host")),
        HostKind::ReadOnly => (
            "read_only_host",
            host("read_only_host").or_else(|| host("host").filter(|_| is_replica)),
        ),
        HostKind::Pooled => ("read_write_pooled_host", host("read_write_pooled_host")),
        HostKind::ReadOnlyPooled => ("read_only_pooled_host", host("read_only_pooled_host")),
    };
    if let Some(found) = found {
        return checked(found, reply);
    }
    if host("host").is_none() {
        // A fresh endpoint has none yet.
        return Err(reply
            .error(
                Kind::Platform,
                "the endpoint has no host yet (`status.hosts.host`)",
            )
            .with_hint("Wait until it has started, or set PGHOST")
            .with_transient(true));
    }
    let error = no_host(reply, field);
    Err(if kind.is_read_only() {
        error.with_hint("Add readable secondaries or a read replica, or use the read-write host")
    } else {
        error
    })
}
