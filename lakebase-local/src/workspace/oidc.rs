//! OAuth documents and the token endpoint.

use std::collections::HashMap;

use axum::Json;
use axum::extract::{Form, Query, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::Shared;
use crate::reply::status;

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
        "grant_types_supported": ["client_credentials", GRANT],
    }))
    .into_response()
}

const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// The token endpoint: client credentials, in the header or in the form, or the exchange of another issuer's
/// identity token.
pub(super) async fn token(
    State(workspace): Shared,
    headers: HeaderMap,
    Form(form): Form<HashMap<String, String>>,
) -> Response {
    let field = |name: &str| form.get(name).cloned();
    let (identity, token, lifetime) = match form.get("grant_type").map(String::as_str) {
        Some("client_credentials") => {
            let credentials =
                basic(&headers).or_else(|| field("client_id").zip(field("client_secret")));
            let signed_in = credentials.and_then(|(client_id, secret)| {
                let (token, lifetime) = workspace.issuer.sign_in(&client_id, &secret)?;
                Some((client_id, token, lifetime))
            });
            match signed_in {
                Some(signed_in) => signed_in,
                None => return refusal(401, "invalid_client", "Client authentication failed"),
            }
        }
        Some(GRANT) => {
            let is_jwt = field("subject_token_type").as_deref()
                == Some("urn:ietf:params:oauth:token-type:jwt");
            if headers.contains_key(AUTHORIZATION) || !is_jwt || form.contains_key("client_secret")
            {
                return refusal(400, "invalid_request", "the request is malformed");
            }
            let subject = field("subject_token").unwrap_or_default();
            let client_id = field("client_id");
            let audience = format!("{}/oidc/v1/token", workspace.base_url);
            let exchanged = workspace
                .issuer
                .exchange(&subject, client_id.as_deref(), &audience);
            match exchanged {
                Some(exchanged) => exchanged,
                None => {
                    let text = "no federation policy matches the token";
                    return refusal(400, "invalid_grant", text);
                }
            }
        }
        _ => return refusal(400, "unsupported_grant_type", "grant type is not supported"),
    };
    workspace.log_sign_in(&identity);
    Json(json!({
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": lifetime.as_secs().max(1),
        "scope": form.get("scope").map_or("all-apis", String::as_str),
    }))
    .into_response()
}

/// GitHub Actions' service for identity tokens. Issues one for the service principal and the requested audience.
pub(super) async fn github(
    State(workspace): Shared,
    headers: HeaderMap,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let people = &workspace.people;
    let is_known = bearer(&headers) == Some(&people.request_token);
    let Some(audience) = query.get("audience").filter(|_| is_known) else {
        return refusal(401, "unauthorized", "the request token is not valid");
    };
    let token = workspace.issuer.id_token(&people.client_id, Some(audience));
    Json(json!({ "value": token, "count": token.len() })).into_response()
}

pub(super) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    header(headers, AUTHORIZATION.as_str())?.strip_prefix("Bearer ")
}

pub(super) fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let value = header(headers, AUTHORIZATION.as_str())?;
    let decoded = STANDARD.decode(value.strip_prefix("Basic ")?).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (id, secret) = text.split_once(':')?;
    Some((id.to_owned(), secret.to_owned()))
}

pub(super) fn refusal(code: u16, error: &str, description: &str) -> Response {
    let body = json!({ "error": error, "error_description": description });
    (status(code), Json(body)).into_response()
}
