//! The calls that need a bearer token.

use std::collections::HashMap;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::reply::{Answer, Failure, rfc3339};
use super::{APPLICATION, RESOURCE_ID, Shared, Workspace, oidc};
use crate::events::EventKind;
use crate::issuer::MintedToken;

/// The platform's limits of `ttl`.
const TTL_SECONDS: std::ops::RangeInclusive<f64> = 300.0..=3600.0;

impl Workspace {
    fn caller(&self, headers: &HeaderMap) -> Result<String, Failure> {
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
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let resource = format!("{}/service-management/", self.base_url);
        let management = text("x-databricks-azure-sp-management-token")?;
        let is_same = self.issuer.entra_identity(management, &resource)? == identity;
        let workspace = text("x-databricks-azure-workspace-resource-id")?;
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

    fn describe_endpoint(&self) -> Value {
        let place = &self.place;
        let state = if self.compute.is_awake() {
            "ACTIVE"
        } else {
            "IDLE"
        };
        json!({
            "name": place.endpoint_path(),
            "uid": "ep-local",
            "parent": place.branch_path(),
            "endpoint_id": place.endpoint,
            "create_time": rfc3339(self.clock.now()),
            "status": {
                "endpoint_id": place.endpoint,
                "endpoint_type": "ENDPOINT_TYPE_READ_WRITE",
                "current_state": state,
                "autoscaling_limit_min_cu": 0.5,
                "autoscaling_limit_max_cu": 4.0,
                "suspend_timeout_duration": "86400s",
                "disabled": false,
                "group": { "min": 1, "max": 1, "enable_readable_secondaries": false },
                "settings": { "pg_settings": {} },
                "hosts": {
                    "host": place.host,
                    "read_write_pooled_host": place.pooled_host,
                    "read_only_host": place.read_only_host,
                    "read_only_pooled_host": place.read_only_pooled_host,
                },
            },
        })
    }

    /// Describes a read replica of the same branch.
    fn describe_replica(&self) -> Value {
        let place = &self.place;
        json!({
            "name": place.replica_path(),
            "uid": "ep-replica",
            "parent": place.branch_path(),
            "endpoint_id": "replica",
            "status": {
                "endpoint_id": "replica",
                "endpoint_type": "ENDPOINT_TYPE_READ_ONLY",
                "current_state": "ACTIVE",
                "hosts": {
                    "host": place.read_only_host,
                    "read_only_host": place.read_only_host,
                    "read_only_pooled_host": place.read_only_pooled_host,
                },
            },
        })
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    value.strip_prefix("Bearer ")
}

/// Parses `claims` of a credential call and returns the tables.
fn claimed(body: &Value) -> Result<Vec<String>, Failure> {
    let wrong = || Failure::new(400, "INVALID_PARAMETER_VALUE", "claims are malformed");
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

fn required(name: &str) -> Failure {
    let text = format!("Field '{name}' is required, expected non-default value (not \"\")!");
    Failure::new(400, "INVALID_PARAMETER_VALUE", text)
}

fn not_found(what: &str, name: &str) -> Failure {
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
        return Err(required("endpoint"));
    }
    let place = &workspace.place;
    if endpoint != place.endpoint_path() && endpoint != place.replica_path() {
        return Err(not_found("endpoint", endpoint));
    }
    let claims = claimed(&body)?;
    let ttl = match body.get("ttl") {
        None => None,
        Some(ttl) => {
            let seconds = ttl
                .as_str()
                .and_then(|ttl| ttl.strip_suffix('s')?.parse::<f64>().ok());
            let seconds = seconds
                .filter(|seconds| TTL_SECONDS.contains(seconds))
                .ok_or_else(|| {
                    Failure::new(
                        400,
                        "INVALID_PARAMETER_VALUE",
                        "ttl must be from 300s to 3600s",
                    )
                })?;
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
        return Err(required("instance_names"));
    }
    if let Some(unknown) = names
        .iter()
        .find(|name| name.as_str() != Some(&workspace.place.instance))
    {
        return Err(not_found(
            "Database instance",
            unknown.as_str().unwrap_or_default(),
        ));
    }
    if body.get("ttl").is_some() {
        return Err(Failure::new(
            400,
            "INVALID_PARAMETER_VALUE",
            "unknown field 'ttl'",
        ));
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
    if name != workspace.place.instance {
        return Err(not_found("Database instance", &name));
    }
    Ok(Json(json!({
        "name": name,
        "uid": "0f3e2d1c-1111-2222-3333-444455556666",
        "state": "AVAILABLE",
        "capacity": "CU_1",
        "pg_version": "PG_VERSION_16",
        "read_write_dns": workspace.place.host,
        "read_only_dns": workspace.place.read_only_host,
        "effective_stopped": false,
        "effective_node_count": 1,
        "effective_enable_pg_native_login": false,
    }))
    .into_response())
}

pub(super) async fn endpoints(
    State(workspace): Shared,
    headers: HeaderMap,
    Path((project, branch)): Path<(String, String)>,
    Query(query): Query<HashMap<String, String>>,
) -> Answer {
    workspace.caller(&headers)?;
    let path = format!("projects/{project}/branches/{branch}");
    if path != workspace.place.branch_path() {
        return Err(not_found("branch", &path));
    }
    // One entry a page, so that clients must read several pages.
    let page = match query.get("page_token").map(String::as_str) {
        None | Some("") => json!({
            "endpoints": [workspace.describe_replica()],
            "next_page_token": "2",
        }),
        Some("2") => json!({ "endpoints": [workspace.describe_endpoint()] }),
        Some(_) => {
            let text = "page_token is not valid";
            return Err(Failure::new(400, "INVALID_PARAMETER_VALUE", text));
        }
    };
    Ok(Json(page).into_response())
}

pub(super) async fn endpoint(
    State(workspace): Shared,
    headers: HeaderMap,
    Path((project, branch, endpoint)): Path<(String, String, String)>,
) -> Answer {
    workspace.caller(&headers)?;
    let path = format!("projects/{project}/branches/{branch}/endpoints/{endpoint}");
    match path {
        _ if path == workspace.place.endpoint_path() => {
            Ok(Json(workspace.describe_endpoint()).into_response())
        }
        _ if path == workspace.place.replica_path() => {
            Ok(Json(workspace.describe_replica()).into_response())
        }
        _ => Err(not_found("endpoint", &path)),
    }
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
