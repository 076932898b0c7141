//! The workspace API: authentication, credentials, endpoints, current user.

mod api;
mod azure;
mod branch_spec;
mod branches;
mod databases;
mod endpoints;
mod listener;
mod oidc;
mod page;
mod role;
mod roles;
mod tools;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::HOST;
use axum::http::{Method, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
pub(crate) use azure::{APPLICATION, RESOURCE_ID};
use tokio::sync::watch;
pub(crate) use tools::scripts;

use crate::branches::Branches;
use crate::clock::PlatformClock;
use crate::events::{Call, EventKind, EventLog};
use crate::faults::{Fault, Faults};
use crate::issuer::Issuer;
use crate::reply::{self, Failure};
pub use listener::Outage;
pub(crate) use listener::Switch;

pub(crate) struct Workspace {
    pub(crate) base_url: String,
    /// Required value of the header `Host`.
    pub(crate) host: String,
    /// Secret first part of the path of stand-ins without authentication.
    pub(crate) key: String,
    pub(crate) issuer: Arc<Issuer>,
    pub(crate) clock: Arc<PlatformClock>,
    pub(crate) events: Arc<EventLog>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) switch: Arc<Switch>,
    pub(crate) branches: Arc<Branches>,
    pub(crate) people: People,
}

/// The identities of the stand-ins.
#[derive(Clone)]
pub(crate) struct People {
    pub(crate) client_id: String,
    pub(crate) user: String,
    /// GitHub's token of a job, with which it requests identity tokens.
    pub(crate) request_token: String,
}

/// Name of the production branch's compute as a Provisioned instance.
pub(crate) const INSTANCE: &str = "local-instance";

const POSTGRES: &str = "/api/2.0/postgres";

type Shared = State<Arc<Workspace>>;

impl Workspace {
    /// Issues a token for the workspace API and records the event.
    fn signed_in(&self, identity: &str) -> (String, std::time::Duration) {
        self.log_sign_in(identity);
        self.issuer.workspace_token(identity)
    }

    fn log_sign_in(&self, identity: &str) {
        self.events.record(EventKind::WorkspaceToken {
            identity: identity.to_owned(),
        });
    }
}

pub(crate) async fn serve(
    workspace: Arc<Workspace>,
    listener: tokio::net::TcpListener,
    mut stop: watch::Receiver<bool>,
) {
    let switch = Arc::clone(&workspace.switch);
    // Without authentication, as the real services.
    let stand_ins = Router::new()
        .route("/metadata-service", get(tools::metadata_service))
        .route("/cli/databricks", get(tools::databricks))
        .route("/cli/az", get(tools::az));
    let router = Router::new()
        .route("/.well-known/databricks-config", get(oidc::host_metadata))
        .route(
            "/oidc/.well-known/oauth-authorization-server",
            get(oidc::server_metadata),
        )
        .route("/oidc/v1/token", post(oidc::token))
        .route("/api/2.0/postgres/credentials", post(api::credentials))
        .route(
            "/api/2.0/database/credentials",
            post(api::instance_credentials),
        )
        .route("/api/2.0/database/instances/{name}", get(api::instance))
        .nest(POSTGRES, resources())
        .route("/api/2.0/preview/scim/v2/Me", get(api::me))
        .route("/github/id-token", get(oidc::github))
        .route("/aad/auth", get(azure::tenant))
        .route("/entra/{tenant}/oauth2/token", post(azure::login))
        .route("/arm/{*resource}", get(azure::resource))
        // Clients have a fixed path for this one, so the key is the user name of its URL.
        .route(azure::INSTANCE_METADATA, get(azure::managed_identity))
        .nest(&format!("/{}", workspace.key), stand_ins)
        .fallback(unknown)
        .layer(middleware::from_fn_with_state(
            Arc::clone(&workspace),
            apply_faults,
        ))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&workspace),
            check_host,
        ))
        .with_state(workspace);
    let listener = listener::Gated::new(listener, switch);
    let end = async move {
        let _ = stop.wait_for(|stop| *stop).await;
    };
    // Not gracefully: a fault can keep a request open.
    tokio::select! {
        _ = axum::serve(listener, router).into_future() => {}
        () = end => {}
    }
}

/// Projects, branches, endpoints, roles and databases.
fn resources() -> Router<Arc<Workspace>> {
    const BRANCH: &str = "/projects/{project}/branches/{branch}";
    let mut router = Router::new()
        .route("/projects", get(branches::projects))
        .route("/projects/{project}", get(branches::project))
        .route(
            "/projects/{project}/branches",
            get(branches::list).post(branches::create),
        )
        .route(
            BRANCH,
            get(branches::get)
                .patch(branches::update)
                .delete(branches::delete),
        )
        .route(&format!("{BRANCH}/undelete"), post(branches::undelete))
        .route(&format!("{BRANCH}/endpoints"), get(endpoints::list))
        .route(
            &format!("{BRANCH}/endpoints/{{endpoint}}"),
            get(endpoints::get),
        )
        .route(
            &format!("{BRANCH}/roles"),
            get(roles::list).post(roles::create),
        )
        .route(
            &format!("{BRANCH}/roles/{{role}}"),
            get(roles::get).patch(roles::update).delete(roles::delete),
        )
        .route(
            &format!("{BRANCH}/databases"),
            get(databases::list).post(databases::create),
        )
        .route(
            &format!("{BRANCH}/databases/{{database}}"),
            get(databases::get).delete(databases::delete),
        );
    router = router.route(
        &format!("{BRANCH}/roles/{{role}}/password"),
        post(roles::password),
    );
    for below in [
        "",
        "/endpoints/{resource}",
        "/roles/{resource}",
        "/databases/{resource}",
    ] {
        let path = format!("{BRANCH}{below}/operations/{{operation}}");
        router = router.route(&path, get(branches::operation));
    }
    router
}

async fn unknown(uri: Uri) -> Failure {
    Failure::new(
        404,
        "ENDPOINT_NOT_FOUND",
        format!("No API found for '{}'", uri.path()),
    )
}

/// Rejects requests of web pages that reach this server under another name (DNS rebinding).
async fn check_host(State(workspace): Shared, request: Request, next: Next) -> Response {
    let mut hosts = request.headers().get_all(HOST).iter();
    let is_ours = |authority: &str| authority.eq_ignore_ascii_case(&workspace.host);
    let named = hosts.next().and_then(|host| host.to_str().ok());
    let named_again = request
        .uri()
        .authority()
        .map(|authority| authority.as_str());
    if hosts.next().is_none() && named.is_some_and(is_ours) && named_again.is_none_or(is_ours) {
        return next.run(request).await;
    }
    let text = format!("this server accepts only requests for {}", workspace.host);
    Failure::new(421, "MISDIRECTED_REQUEST", text).into_response()
}

fn call_of(method: &Method, path: &str) -> Call {
    let branch = path.strip_prefix(POSTGRES).unwrap_or_default();
    let kind = branch.split('/').nth(5);
    match path {
        "/oidc/v1/token" => Call::Token,
        "/api/2.0/preview/scim/v2/Me" => Call::Me,
        "/github/id-token" => Call::IdToken,
        azure::INSTANCE_METADATA => Call::Entra,
        _ if path.starts_with("/entra/") || path.starts_with("/arm/") => Call::Entra,
        _ if path.starts_with("/cli/") => Call::Cli,
        "/metadata-service" => Call::MetadataService,
        _ if path.contains("/.well-known/") => Call::Discovery,
        _ if path.ends_with("/credentials") && method == Method::POST => Call::Credential,
        _ if path.contains("/operations/") => Call::Operation,
        _ if kind == Some("roles") => Call::Role,
        _ if kind == Some("databases") => Call::Database,
        _ if path.contains("/endpoints") || path.contains("/instances") => Call::Endpoint,
        _ if path.starts_with("/api/2.0/postgres/projects") => Call::Branch,
        _ => Call::Other,
    }
}

/// Applies faults, adds the platform's headers, and records the event.
async fn apply_faults(State(workspace): Shared, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let stand_in = path
        .strip_prefix('/')
        .and_then(|path| path.strip_prefix(&*workspace.key));
    let call = call_of(request.method(), stand_in.unwrap_or(path));
    let fault = match workspace.switch.outage() {
        // The connection is older than the outage.
        Some(Outage::Down) => return reply::broken(None),
        Some(Outage::Unavailable) => Some(Fault::status(
            503,
            "TEMPORARILY_UNAVAILABLE",
            "the service is unavailable",
        )),
        Some(Outage::Silent) => Some(Fault::Silence),
        None => workspace.faults.take(call),
    };
    let mut status = None;
    let response = match fault {
        None => next.run(request).await,
        Some(Fault::Slow(delay)) => {
            tokio::time::sleep(delay).await;
            next.run(request).await
        }
        Some(Fault::Silence) => {
            workspace.events.record(EventKind::Api { call, status: 0 });
            std::future::pending().await
        }
        Some(Fault::HalfReply) => {
            status = Some(0);
            reply::broken(Some("{\"token\":\"eyJra"))
        }
        Some(Fault::Reset) => {
            status = Some(0);
            reply::broken(None)
        }
        Some(other) => reply::faulty(other),
    };
    let status = status.unwrap_or(response.status().as_u16());
    workspace.events.record(EventKind::Api { call, status });
    reply::stamped(response, workspace.clock.now())
}
