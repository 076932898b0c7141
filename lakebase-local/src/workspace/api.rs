//! The calls that need a bearer token.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::reply::{Answer, Failure, rfc3339};
use super::{Shared, Workspace};
use crate::events::EventKind;
use crate::issuer::MintedToken;

/// What the platform allows for `ttl`.
const TTL_SECONDS: std::ops::RangeInclusive<f64> = 300.0..=3600.0;

impl Workspace {
    fn caller(&self, headers: &HeaderMap) -> Result<String, Failure> {
        let bearer = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "));
        bearer
            .and_then(|bearer| self.issuer.who_is(bearer))
            .ok_or_else(|| {
                Failure::new(
                    401,
                    "UNAUTHENTICATED",
                    "Credential was not sent or was of an unsupported type for this API.",
                )
            })
    }

    fn mint(&self, identity: String, ttl: Option<Duration>) -> MintedToken {
        let minted = self.issuer.mint(&identity, ttl);
        self.events.record(EventKind::Minted {
            token: minted.serial,
            identity,
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
                },
            },
        })
    }
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
    let identity = workspace.caller(&headers)?;
    let endpoint = body
        .get("endpoint")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if endpoint.is_empty() {
        return Err(required("endpoint"));
    }
    if endpoint != workspace.place.endpoint_path() {
        return Err(not_found("endpoint", endpoint));
    }
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
    let minted = workspace.mint(identity, ttl);
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
    let minted = workspace.mint(identity, None);
    let expiration_time = rfc3339(minted.expires_at);
    Ok(Json(json!({ "token": minted.token, "expiration_time": expiration_time })).into_response())
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
) -> Answer {
    workspace.caller(&headers)?;
    let path = format!("projects/{project}/branches/{branch}");
    if path != workspace.place.branch_path() {
        return Err(not_found("branch", &path));
    }
    Ok(Json(json!({ "endpoints": [workspace.describe_endpoint()] })).into_response())
}

pub(super) async fn endpoint(
    State(workspace): Shared,
    headers: HeaderMap,
    Path((project, branch, endpoint)): Path<(String, String, String)>,
) -> Answer {
    workspace.caller(&headers)?;
    let path = format!("projects/{project}/branches/{branch}/endpoints/{endpoint}");
    if path != workspace.place.endpoint_path() {
        return Err(not_found("endpoint", &path));
    }
    Ok(Json(workspace.describe_endpoint()).into_response())
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
