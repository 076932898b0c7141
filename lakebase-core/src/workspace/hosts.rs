//! The endpoints of a branch, and the hosts of an endpoint or instance.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use url::form_urlencoded;

use super::{Client, Workspace, text_at};
use crate::config::endpoint::{Compute, HostKind, endpoint_path};
use crate::credential::single_flight::{Fetch, Found};
use crate::error::{Error, Kind};
use crate::http::Reply;
use crate::settings::host_name::is_host_name;

/// Page size of the official clients.
const PAGE_SIZE: usize = 50;
/// Far more than a branch can have.
const MOST_PAGES: usize = 100;

impl Workspace {
    /// Looks up the host to log in at.
    pub(crate) async fn host(&self, kind: HostKind) -> Result<String, Error> {
        let lookup = async {
            let path = match &self.compute {
                Compute::Instance(name) => {
                    let reply = self.lookup.get(&instance_url(name)).await?;
                    return instance_host(&reply, kind);
                }
                Compute::Endpoint(path) => path.clone(),
                // For reads, a read replica of the branch comes before its read-write endpoint. The list may omit
                // hosts, so the endpoint itself is fetched.
                Compute::Branch(branch) => {
                    let endpoints = self.endpoints_of(branch).await?;
                    let replica = endpoints.read_only.filter(|_| kind.is_read_only());
                    replica.unwrap_or(endpoints.read_write)
                }
            };
            let reply = self.lookup.get(&endpoint_url(&path)).await?;
            endpoint_host(&reply, kind)
        };
        lookup
            .await
            .map_err(|error| self.lookup.name(self.with_compute(error)))
    }

    /// The endpoint to mint for: the configured one, or the branch's read-write endpoint.
    pub(crate) async fn endpoint(&self) -> Result<String, Error> {
        match &self.compute {
            Compute::Endpoint(path) => Ok(path.clone()),
            Compute::Instance(_) => Err(Error::config("a Provisioned instance has no endpoint")),
            Compute::Branch(branch) => Ok(self.endpoints_of(branch).await?.read_write),
        }
    }

    /// The next look-up lists the endpoints of the branch again: they may have been replaced.
    pub(crate) fn suspect_endpoints(&self, floor: Duration) {
        self.endpoints.suspect(floor);
    }

    async fn endpoints_of(&self, branch: &str) -> Result<Endpoints, Error> {
        let fetch = || -> Fetch<Found<Endpoints>> {
            let (client, branch) = (Arc::clone(&self.lookup), branch.to_owned());
            Box::pin(async move { Endpoints::list(&client, &branch).await.map(Found::new) })
        };
        Ok(self.endpoints.get(fetch).await?.value)
    }
}

pub(crate) fn instance_url(name: &str) -> String {
    format!("/api/2.0/database/instances/{name}")
}

pub(crate) fn endpoint_url(path: &str) -> String {
    format!("/api/2.0/postgres/{path}")
}

/// The endpoints of a branch to log in at.
#[derive(Clone)]
pub(super) struct Endpoints {
    pub(super) read_write: String,
    read_only: Option<String>,
}

impl Endpoints {
    /// An empty page may be followed by others.
    async fn list(client: &Client, branch: &str) -> Result<Self, Error> {
        let mut endpoints: Vec<Value> = Vec::new();
        let mut query = format!("page_size={PAGE_SIZE}");
        for _ in 0..MOST_PAGES {
            let path = format!("/api/2.0/postgres/{branch}/endpoints?{query}");
            let reply = client.get(&path).await?;
            let mut answer = reply.json()?;
            if let Some(Value::Array(found)) = answer.get_mut("endpoints") {
                endpoints.append(found);
            }
            if let Some(next) = text_at(&answer, "/next_page_token") {
                let next: String = form_urlencoded::byte_serialize(next.as_bytes()).collect();
                query = format!("page_size={PAGE_SIZE}&page_token={next}");
                continue;
            }
            let find = |kind| {
                let found = endpoints.iter().find(|endpoint| has_type(endpoint, kind));
                let path = |endpoint| endpoint_path(text_at(endpoint, "/name")?).ok();
                let nameless = "the branch lists an endpoint without a usable `name`";
                found
                    .map(|endpoint| path(endpoint).ok_or_else(|| reply.platform_error(nameless)))
                    .transpose()
            };
            let none = || {
                reply
                    .platform_error(format!("branch {branch} has no read-write endpoint"))
                    .with_hint(
                        "Create one, or name an endpoint of another branch in LAKEBASE_ENDPOINT",
                    )
            };
            return Ok(Self {
                read_write: find("READ_WRITE")?.ok_or_else(none)?,
                read_only: find("READ_ONLY")?,
            });
        }
        Err(Error::new(
            Kind::Platform,
            format!("the list of endpoints does not end after {MOST_PAGES} pages"),
        ))
    }
}

fn has_type(endpoint: &Value, kind: &str) -> bool {
    text_at(endpoint, "/status/endpoint_type").is_some_and(|found| found.ends_with(kind))
}

fn instance_host(reply: &Reply, kind: HostKind) -> Result<String, Error> {
    let answer = reply.json()?;
    let state = text_at(&answer, "/state");
    if answer.get("effective_stopped") == Some(&Value::Bool(true)) || state == Some("STOPPED") {
        return Err(reply
            .platform_error("the instance is stopped")
            .with_hint("Start it in the workspace: a login does not start it"));
    }
    if state == Some("DELETING") {
        return Err(reply.platform_error("the instance is being deleted"));
    }
    let (field, hint) = match kind {
        HostKind::Pooled | HostKind::ReadOnlyPooled => {
            return Err(Error::config("a Provisioned instance has no pooled host"));
        }
        HostKind::ReadOnly => (
            "read_only_dns",
            "Add a readable secondary to the instance, or use its read-write host",
        ),
        HostKind::ReadWrite => ("read_write_dns", "Wait until it has started, or set PGHOST"),
    };
    match text_at(&answer, &format!("/{field}")) {
        Some(host) => checked(host, reply),
        // An instance that starts has no read-write host yet.
        None => Err(no_host(reply, field)
            .with_hint(hint)
            .with_transient(kind == HostKind::ReadWrite)),
    }
}

fn endpoint_host(reply: &Reply, kind: HostKind) -> Result<String, Error> {
    let answer = reply.json()?;
    if answer.pointer("/status/disabled") == Some(&Value::Bool(true)) {
        return Err(reply
            .platform_error("the endpoint is disabled")
            .with_hint("Enable it in the workspace: a login does not start it"));
    }
    let host = |field: &str| text_at(&answer, &format!("/status/hosts/{field}"));
    let field = match kind {
        HostKind::ReadWrite => "host",
        HostKind::ReadOnly => "read_only_host",
        HostKind::Pooled => "read_write_pooled_host",
        HostKind::ReadOnlyPooled => "read_only_pooled_host",
    };
    let own = host("host");
    // The host of a read replica serves reads.
    let replicas = own.filter(|_| kind == HostKind::ReadOnly && has_type(&answer, "READ_ONLY"));
    match host(field).or(replicas) {
        Some(host) => checked(host, reply),
        // A new endpoint has no host yet.
        None if own.is_none() => Err(reply
            .platform_error("the endpoint has no host yet (`status.hosts.host`)")
            .with_hint("Wait until it has started, or set PGHOST")
            .with_transient(true)),
        None if kind.is_read_only() => Err(no_host(reply, field)
            .with_hint("Add readable secondaries or a read replica, or use the read-write host")),
        None => Err(no_host(reply, field)),
    }
}

fn checked(host: &str, reply: &Reply) -> Result<String, Error> {
    match is_host_name(host) {
        true => Ok(host.to_owned()),
        false => Err(reply.platform_error("the workspace returned an invalid host name")),
    }
}

fn no_host(reply: &Reply, field: &str) -> Error {
    reply.platform_error(format!(
        "the workspace returned no host of this kind (`{field}`)"
    ))
}
