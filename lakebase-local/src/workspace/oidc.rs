//! OAuth documents and the token endpoint.

use std::collections::HashMap;

use axum::Json;
use axum::extract::{Form, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::Shared;
use super::reply::status;
use crate::events::EventKind;

pub(super) async fn host_metadata(State(workspace): Shared) -> Response {
    let base = &workspace.base_url;
    Json(json!({
        "oidc_endpoint": format!("{base}/oidc"),
        "workspace_id": "1234567890123456",
        "cloud": "AWS",
        "host_type": "workspace",
    }))
    .into_response()
}

pub(super) async fn server_metadata(State(workspace): Shared) -> Response {
    let base = &workspace.base_url;
    Json(json!({
        "issuer": format!("{base}/oidc"),
        "authorization_endpoint": format!("{base}/oidc/v1/authorize"),
        "token_endpoint": format!("{base}/oidc/v1/token"),
        "grant_types_supported": ["client_credentials"],
    }))
    .into_response()
}

/// Client credentials, in the header or in the form: the platform takes both.
pub(super) async fn token(
    State(workspace): Shared,
    headers: HeaderMap,
    Form(form): Form<HashMap<String, String>>,
) -> Response {
    if form.get("grant_type").map(String::as_str) != Some("client_credentials") {
        return refusal(400, "unsupported_grant_type", "grant type is not supported");
    }
    let field = |name: &str| form.get(name).cloned();
    let credentials = basic(&headers).or_else(|| field("client_id").zip(field("client_secret")));
    let Some((client_id, secret)) = credentials else {
        return refusal(401, "invalid_client", "Client authentication failed");
    };
    match workspace.issuer.sign_in(&client_id, &secret) {
        Some((token, lifetime)) => {
            workspace.events.record(EventKind::WorkspaceToken {
                identity: client_id,
            });
            Json(json!({
                "access_token": token,
                "token_type": "Bearer",
                "expires_in": lifetime.as_secs().max(1),
                "scope": "all-apis",
            }))
            .into_response()
        }
        None => refusal(401, "invalid_client", "Client authentication failed"),
    }
}

fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let decoded = STANDARD.decode(value.strip_prefix("Basic ")?).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (id, secret) = text.split_once(':')?;
    Some((id.to_owned(), secret.to_owned()))
}

fn refusal(code: u16, error: &str, description: &str) -> Response {
    let body = json!({ "error": error, "error_description": description });
    (status(code), Json(body)).into_response()
}
