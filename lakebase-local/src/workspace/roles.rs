//! Roles of branches. They are read from Postgres, so roles created in SQL are listed, too.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State as Extract};
use axum::http::HeaderMap;
use axum::response::IntoResponse as _;
use serde_json::{Value, json};

use super::Shared;
use super::page::{Params, is_set, page};
use super::role::{Spec, admin, all, failed, find, made};
use crate::branches::empty;
use crate::ids::{Kind, is_id};
use crate::postgres::{DATABASE, quote_ident, quote_literal};
use crate::reply::{Answer, Failure};
use crate::roles::RoleKind;

const PAGE: usize = 100;

pub(super) async fn list(
    Extract(workspace): Shared,
    headers: HeaderMap,
    Path((project, branch)): Path<(String, String)>,
    Query(params): Query<Params>,
) -> Answer {
    let (gateway, admin) = workspace
        .session(&headers, (&project, &branch), DATABASE)
        .await?;
    let roles = all(&gateway, &admin).await?;
    let roles = roles.iter().map(|role| role.describe(&workspace, &gateway));
    page("roles", roles.collect(), &params, PAGE)
}

pub(super) async fn get(
    Extract(workspace): Shared,
    headers: HeaderMap,
    Path((project, branch, role)): Path<(String, String, String)>,
) -> Answer {
    let (gateway, admin) = workspace
        .session(&headers, (&project, &branch), DATABASE)
        .await?;
    let role = find(&gateway, &admin, &role).await?;
    Ok(Json(role.describe(&workspace, &gateway)).into_response())
}

pub(super) async fn create(
    Extract(workspace): Shared,
    headers: HeaderMap,
    Path((project, branch)): Path<(String, String)>,
    Query(params): Query<Params>,
    Json(body): Json<Value>,
) -> Answer {
    let (gateway, session) = workspace
        .changing_session(&headers, (&project, &branch), DATABASE)
        .await?;
    let id = params.get("role_id").filter(|id| !id.is_empty()).cloned();
    if let Some(id) = id.as_ref().filter(|id| !is_id(id) || id.len() < 4) {
        let text = format!(
            "role_id \"{id}\" is not valid: 4 to 63 lower-case letters, digits and hyphens"
        );
        return Err(Failure::invalid(text));
    }
    let replaces = is_set(&params, "replace_existing");
    if replaces && id.is_none() {
        return Err(Failure::required("role_id"));
    }
    let spec = Spec(&body);
    let name = spec.text("postgres_role").or(id.as_deref());
    let name = name.ok_or_else(|| Failure::required("role.spec.postgres_role"))?;
    let name = name.to_owned();
    let id = id.unwrap_or_else(|| gateway.ids.of(Kind::Role, &name));
    let known = all(&gateway, &session).await?;
    let is_known = known
        .iter()
        .any(|role| role.name == name || gateway.ids.of(Kind::Role, &role.name) == id);
    if is_known && !replaces {
        let text = "role with that name already exists";
        return Err(Failure::bad("BAD_REQUEST", text));
    }
    let (create, kind) = match is_known {
        true => (String::new(), None),
        false => made(&workspace, &gateway, &spec, &name)?,
    };
    let sql = format!("{create}; {}", spec.changes(&name, |_| true)?);
    let path = format!("{}/roles/{id}", gateway.place.branch_path());
    let (shared, gateway) = (Arc::clone(&workspace), Arc::clone(&gateway));
    let job = |_| async move {
        session.batch_execute(&sql).await.map_err(failed)?;
        gateway.ids.set(Kind::Role, &name, &id);
        if let Some(kind) = kind {
            gateway.roles.set(&name, kind);
        }
        Ok(find(&gateway, &session, &id)
            .await?
            .describe(&shared, &gateway))
    };
    let operation = workspace.branches.operations.run(&path, "Role", job);
    Ok(Json(operation.await).into_response())
}

pub(super) async fn update(
    Extract(workspace): Shared,
    headers: HeaderMap,
    Path((project, branch, role)): Path<(String, String, String)>,
    Query(params): Query<Params>,
    Json(body): Json<Value>,
) -> Answer {
    let (gateway, session) = workspace
        .changing_session(&headers, (&project, &branch), DATABASE)
        .await?;
    let mask = params.get("update_mask").filter(|mask| !mask.is_empty());
    let mask = mask.ok_or_else(|| Failure::required("update_mask"))?;
    let role = find(&gateway, &session, &role).await?;
    let paths: Vec<&str> = mask.split(',').map(str::trim).collect();
    let named = |path: &str| {
        let is_within = |mask: &&str| {
            *mask == "*"
                || path == *mask
                || path
                    .strip_prefix(*mask)
                    .is_some_and(|rest| rest.starts_with('.'))
        };
        paths.iter().any(is_within)
    };
    let sql = Spec(&body).changes(&role.name, named)?;
    if sql.is_empty() {
        let text = format!("update_mask \"{mask}\" names no field that can be updated");
        return Err(Failure::invalid(text));
    }
    let id = gateway.ids.of(Kind::Role, &role.name);
    let path = format!("{}/roles/{id}", gateway.place.branch_path());
    let shared = Arc::clone(&workspace);
    let job = |_| async move {
        session.batch_execute(&sql).await.map_err(failed)?;
        Ok(find(&gateway, &session, &id)
            .await?
            .describe(&shared, &gateway))
    };
    let operation = workspace.branches.operations.run(&path, "Role", job);
    Ok(Json(operation.await).into_response())
}

/// The password of a native role.
pub(super) async fn password(
    Extract(workspace): Shared,
    headers: HeaderMap,
    Path((project, branch, role)): Path<(String, String, String)>,
) -> Answer {
    let (gateway, session) = workspace
        .session(&headers, (&project, &branch), DATABASE)
        .await?;
    let role = find(&gateway, &session, &role).await?;
    match gateway.roles.password(&role.name) {
        Some(password) => Ok(Json(json!({ "password": password })).into_response()),
        None => {
            let text = "the role has no password";
            Err(Failure::bad("BAD_REQUEST", text))
        }
    }
}

pub(super) async fn delete(
    Extract(workspace): Shared,
    headers: HeaderMap,
    Path((project, branch, role)): Path<(String, String, String)>,
    Query(params): Query<Params>,
) -> Answer {
    let (gateway, session) = workspace
        .changing_session(&headers, (&project, &branch), DATABASE)
        .await?;
    let role = find(&gateway, &session, &role).await?.name;
    let heir = match params.get("reassign_owned_to").filter(|id| !id.is_empty()) {
        Some(id) => Some(find(&gateway, &session, id).await?.name),
        None => None,
    };
    let id = gateway.ids.of(Kind::Role, &role);
    let path = format!("{}/roles/{id}", gateway.place.branch_path());
    let job = |_| async move {
        let ident = quote_ident(&role);
        if let Some(heir) = heir {
            let sql = "SELECT datname::text FROM pg_database WHERE datallowconn AND datname <> 'template0'";
            for row in session.query(sql, &[]).await.map_err(failed)? {
                let session = admin(&gateway, row.get(0)).await?;
                let heir = quote_ident(&heir);
                let sql = format!("REASSIGN OWNED BY {ident} TO {heir}; DROP OWNED BY {ident}");
                session.batch_execute(&sql).await.map_err(failed)?;
            }
        }
        let sql = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = {}; DROP ROLE {ident}",
            quote_literal(&role)
        );
        session.batch_execute(&sql).await.map_err(failed)?;
        gateway.ids.forget(Kind::Role, &role);
        gateway.roles.set(&role, RoleKind::Unknown);
        Ok(empty())
    };
    let operation = workspace.branches.operations.run(&path, "Role", job);
    Ok(Json(operation.await).into_response())
}
