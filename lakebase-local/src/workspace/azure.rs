//! Stand-ins of Azure: Entra ID's login, the instance metadata service, Resource Manager.

use std::collections::HashMap;

use axum::Json;
use axum::extract::{Form, Path, Query, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::oidc::{self, refusal};
use super::{Shared, unknown};
use crate::reply::status;

/// The Entra application of Azure Databricks.
pub(crate) const APPLICATION: &str = "2ff814a6-3304-4ab8-85cb-cd0e6f879c1d";
/// Azure's id of the workspace.
pub(crate) const RESOURCE_ID: &str =
    "/subscriptions/local/resourceGroups/local/providers/Microsoft.Databricks/workspaces/local";
/// Path of the instance metadata service.
pub(super) const INSTANCE_METADATA: &str = "/metadata/identity/oauth2/token";
/// The only tenant.
pub(crate) const TENANT: &str = "local-tenant";

/// Redirects to the login page of the tenant.
pub(super) async fn tenant(State(workspace): Shared) -> Response {
    let base = &workspace.base_url;
    let page = format!("{base}/entra/{TENANT}/oauth2/authorize?response_type=code");
    (StatusCode::FOUND, [(LOCATION, page)]).into_response()
}

pub(super) async fn login(
    State(workspace): Shared,
    Path(tenant): Path<String>,
    Form(form): Form<HashMap<String, String>>,
) -> Response {
    let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
    if tenant != TENANT {
        let text = "AADSTS90002: Tenant not found. Trace ID: 1";
        return refusal(400, "invalid_request", text);
    }
    let (id, secret) = (field("client_id"), field("client_secret"));
    if !workspace.issuer.knows_secret(id, secret) {
        let text = "AADSTS7000215: Invalid client secret provided. Trace ID: 1";
        return refusal(401, "invalid_client", text);
    }
    if field("grant_type") != "client_credentials" || field("resource").is_empty() {
        return refusal(
            400,
            "invalid_request",
            "AADSTS900144: the request is malformed",
        );
    }
    workspace.log_sign_in(id);
    let (token, lifetime) = workspace.issuer.entra_token(id, field("resource"));
    // Entra ID sends its numbers as strings.
    let seconds = lifetime.as_secs().max(1).to_string();
    Json(json!({ "token_type": "Bearer", "expires_in": seconds, "access_token": token }))
        .into_response()
}

pub(super) async fn managed_identity(
    State(workspace): Shared,
    uri: Uri,
    headers: HeaderMap,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    if oidc::basic(&headers).is_none_or(|(user, _)| user != workspace.key) {
        return unknown(uri).await.into_response();
    }
    let resource = query
        .get("resource")
        .map(String::as_str)
        .unwrap_or_default();
    if !headers.contains_key("metadata") || resource.is_empty() {
        return refusal(
            400,
            "invalid_request",
            "Required metadata header not specified",
        );
    }
    let own = &workspace.people.client_id;
    if query.get("client_id").is_some_and(|id| id != own) {
        return refusal(400, "invalid_request", "Identity not found");
    }
    workspace.log_sign_in(own);
    let (token, lifetime) = workspace.issuer.entra_token(own, resource);
    Json(json!({
        "access_token": token,
        "token_type": "Bearer",
        "resource": resource,
        "expires_on": epoch(workspace.clock.now() + lifetime),
    }))
    .into_response()
}

/// Resource Manager's description of the workspace. The real one has the host without a scheme.
pub(super) async fn resource(
    State(workspace): Shared,
    Path(resource): Path<String>,
    headers: HeaderMap,
) -> Response {
    let manager = format!("{}/arm/", workspace.base_url);
    let known = |bearer| workspace.issuer.entra_identity(bearer, &manager);
    if oidc::bearer(&headers).and_then(known).is_none() {
        return arm_refusal(
            401,
            "InvalidAuthenticationToken",
            "The access token is invalid.",
        );
    }
    if format!("/{resource}") != RESOURCE_ID {
        return arm_refusal(404, "ResourceNotFound", "The Resource was not found.");
    }
    Json(json!({ "id": RESOURCE_ID, "properties": { "workspaceUrl": workspace.base_url } }))
        .into_response()
}

fn arm_refusal(code: u16, error: &str, message: &str) -> Response {
    let body = json!({ "error": { "code": error, "message": message } });
    (status(code), Json(body)).into_response()
}

/// Seconds since 1970, as a string.
pub(super) fn epoch(at: std::time::SystemTime) -> String {
    let since = at.duration_since(std::time::SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs().to_string()
}
