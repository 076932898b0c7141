//! The calls that need a bearer token.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::oidc::{self, bearer, header};
use super::{APPLICATION, INSTANCE, RESOURCE_ID, Shared, Workspace};
use crate::events::EventKind;
use crate::issuer::MintedToken;
use crate::reply::{Answer, Failure, rfc3339};

/// The platform's limits of `ttl`.
const TTL_SECONDS: std::ops::RangeInclusive<f64> = 300.0..=3600.0;

impl Workspace {
    pub(super) fn caller(&self, headers: &HeaderMap) -> Result<String, Failure> {
        let known = match bearer(headers) {
            Some(bearer) => self
                .issuer
                .identity_of(bearer)
                .or_else(|| self.entra_caller(bearer, headers)),
            None => oidc::basic(headers)
                .filter(|(user, password)| self.issuer.knows_password(user, password))
                .map(|(user, _)| user),
        };
        known.ok_or_else(|| {
            Failure::new(
                401,
                "UNAUTHENTICATED",
                "Credential was not sent or was of an unsupported type for this API.",
            )
        })
    }

    /// The caller of an API that forwarded tokens need a scope for.
    fn caller_with_scope(&self, headers: &HeaderMap, scope: &str) -> Result<String, Failure> {
        let caller = self.caller(headers)?;
        match bearer(headers).is_none_or(|bearer| self.issuer.has_scope(bearer, scope)) {
            true => Ok(caller),
            false => Err(Failure::new(
                403,
                "PERMISSION_DENIED",
                format!("Provided OAuth token does not have required scopes: {scope}"),
            )),
        }
    }

    /// Returns the identity of a token of Entra ID. A service principal also sends a token for Azure's own API.
    fn entra_caller(&self, bearer: &str, headers: &HeaderMap) -> Option<String> {
        let identity = self.issuer.entra_identity(bearer, APPLICATION)?;
        if !self.issuer.is_service_principal(&identity) {
            return Some(identity);
        }
        let resource = format!("{}/service-management/", self.base_url);
        let management = header(headers, "x-databricks-azure-sp-management-token")?;
        let is_same = self.issuer.entra_identity(management, &resource)? == identity;
        let workspace = header(headers, "x-databricks-azure-workspace-resource-id")?;
        (is_same && workspace == RESOURCE_ID).then_some(identity)
    }

    fn mint(&self, identity: String, ttl: Option<Duration>, claims: Vec<String>) -> MintedToken {
        let minted = self.issuer.mint(&identity, ttl);
        self.events.record(EventKind::Minted {
            token: minted.serial,
            identity,
            claims,
            issued_at: minted.issued_at,
            expires_at: minted.expires_at,
        });
        minted
    }
}

/// Parses `claims` of a credential call and returns the tables.
fn claimed(body: &Value) -> Result<Vec<String>, Failure> {
    let wrong = || Failure::invalid("claims are malformed");
    let Some(claims) = body.get("claims") else {
        return Ok(Vec::new());
    };
    let mut tables = Vec::new();
    for claim in claims.as_array().ok_or_else(wrong)? {
        let resources = claim.get("resources").and_then(Value::as_array);
        if claim.get("permission_set") != Some(&json!("READ_ONLY")) {
            return Err(wrong());
        }
        for resource in resources.ok_or_else(wrong)? {
            let table = resource.get("table_name").and_then(Value::as_str);
            tables.push(table.ok_or_else(wrong)?.to_owned());
        }
    }
    Ok(tables)
}

pub(super) fn not_found(what: &str, name: &str) -> Failure {
    Failure::new(404, "NOT_FOUND", format!("{what} {name} not found"))
}

pub(super) async fn credentials(
    State(workspace): Shared,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Answer {
    let identity = workspace.caller_with_scope(&headers, "postgres")?;
    let endpoint = body
        .get("endpoint")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if endpoint.is_empty() {
        return Err(Failure::required("endpoint"));
    }
    workspace.endpoint(endpoint)?;
    let claims = claimed(&body)?;
    let ttl = match body.get("ttl") {
        None => None,
        Some(ttl) => {
            let seconds = ttl
                .as_str()
                .and_then(|ttl| ttl.strip_suffix('s')?.parse::<f64>().ok());
            let seconds = seconds
                .filter(|seconds| TTL_SECONDS.contains(seconds))
                .ok_or_else(|| Failure::invalid("ttl must be from 300s to 3600s"))?;
            Some(Duration::from_secs_f64(seconds))
        }
    };
    let minted = workspace.mint(identity, ttl, claims);
    let expire_time = rfc3339(minted.expires_at);
    Ok(Json(json!({ "token": minted.token, "expire_time": expire_time })).into_response())
}

pub(super) async fn instance_credentials(
    State(workspace): Shared,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Answer {
    let identity = workspace.caller(&headers)?;
    let names = body
        .get("instance_names")
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    if names.is_empty() && body.get("claims").is_none() {
        return Err(Failure::required("instance_names"));
    }
    if let Some(unknown) = names.iter().find(|name| name.as_str() != Some(INSTANCE)) {
        return Err(not_found(
            "Database instance",
            unknown.as_str().unwrap_or_default(),
        ));
    }
    if body.get("ttl").is_some() {
        return Err(Failure::invalid("unknown field 'ttl'"));
    }
    let claims = claimed(&body)?;
    // A repeated request id gets the same token.
    let request_id = body
        .get("request_id")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let (token, expires_at) = match workspace.issuer.answered(request_id) {
        Some(answer) => answer,
        None => {
            let minted = workspace.mint(identity, None, claims);
            if !request_id.is_empty() {
                workspace
                    .issuer
                    .remember(request_id, &minted.token, minted.expires_at);
            }
            (minted.token, minted.expires_at)
        }
    };
    let expiration_time = rfc3339(expires_at);
    Ok(Json(json!({ "token": token, "expiration_time": expiration_time })).into_response())
}

pub(super) async fn instance(
    State(workspace): Shared,
    headers: HeaderMap,
    Path(name): Path<String>,
) -> Answer {
    workspace.caller(&headers)?;
    if name != INSTANCE {
        return Err(not_found("Database instance", &name));
    }
    let place = &workspace.branches.production().place;
    Ok(Json(json!({
        "name": name,
        "uid": "0f3e2d1c-1111-2222-3333-444455556666",
        "state": "AVAILABLE",
        "capacity": "CU_1",
        "pg_version": "PG_VERSION_16",
        "read_write_dns": place.host,
        "read_only_dns": place.read_only_host,
        "effective_stopped": false,
        "effective_node_count": 1,
        "effective_enable_pg_native_login": false,
    }))
    .into_response())
}

pub(super) async fn me(State(workspace): Shared, headers: HeaderMap) -> Answer {
    let identity = workspace.caller(&headers)?;
    Ok(Json(json!({
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"],
        "id": "1",
        "userName": identity,
        "displayName": identity,
        "active": true,
    }))
    .into_response())
}
