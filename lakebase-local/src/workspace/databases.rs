//! Databases of branches.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State as Extract};
use axum::http::HeaderMap;
use axum::response::IntoResponse as _;
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::Shared;
use super::page::{Params, is_set, page};
use super::role::{failed, find as find_role};
use crate::branches::empty;
use crate::gateway::Gateway;
use crate::ids::{Kind, is_id};
use crate::postgres::{DATABASE, quote_ident};
use crate::reply::{Answer, Failure};

const PAGE: usize = 100;
/// A session in this database does not prevent that another one is dropped.
const MAINTENANCE: &str = "postgres";

/// Databases and their owners, by the names that clients use.
async fn all(gateway: &Gateway, admin: &Client) -> Result<Vec<(String, String)>, Failure> {
    if !gateway.postgres.is_own() {
        let sql = "SELECT pg_get_userbyid(datdba)::text FROM pg_database WHERE datname = $1";
        let name = gateway.postgres.database(DATABASE);
        let row = admin.query_one(sql, &[&name]).await.map_err(failed)?;
        return Ok(vec![(DATABASE.to_owned(), row.get(0))]);
    }
    let sql = "SELECT datname::text, pg_get_userbyid(datdba)::text FROM pg_database \
               WHERE NOT datistemplate AND datname <> 'postgres' ORDER BY datname";
    let rows = admin.query(sql, &[]).await.map_err(failed)?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

fn describe(gateway: &Gateway, (name, owner): &(String, String)) -> Value {
    let parent = gateway.place.branch_path();
    let id = gateway.ids.of(Kind::Database, name);
    let role = gateway.ids.of(Kind::Role, owner);
    json!({
        "name": format!("{parent}/databases/{id}"),
        "database_id": id,
        "parent": parent,
        "status": {
            "database_id": id,
            "postgres_database": name,
            "role": format!("{parent}/roles/{role}"),
        },
    })
}

async fn find(gateway: &Gateway, admin: &Client, id: &str) -> Result<(String, String), Failure> {
    let all = all(gateway, admin).await?;
    let found = all
        .into_iter()
        .find(|(name, _)| gateway.ids.of(Kind::Database, name) == id);
    found.ok_or_else(|| Failure::new(404, "NOT_FOUND", "database id not found"))
}

pub(super) async fn list(
    Extract(workspace): Shared,
    headers: HeaderMap,
    Path((project, branch)): Path<(String, String)>,
    Query(params): Query<Params>,
) -> Answer {
    let (gateway, admin) = workspace
        .session(&headers, (&project, &branch), MAINTENANCE)
        .await?;
    let databases = all(&gateway, &admin).await?;
    let databases = databases
        .iter()
        .map(|database| describe(&gateway, database));
    page("databases", databases.collect(), &params, PAGE)
}

pub(super) async fn get(
    Extract(workspace): Shared,
    headers: HeaderMap,
    Path((project, branch, id)): Path<(String, String, String)>,
) -> Answer {
    let (gateway, admin) = workspace
        .session(&headers, (&project, &branch), MAINTENANCE)
        .await?;
    let found = find(&gateway, &admin, &id).await?;
    Ok(Json(describe(&gateway, &found)).into_response())
}

pub(super) async fn create(
    Extract(workspace): Shared,
    headers: HeaderMap,
    Path((project, branch)): Path<(String, String)>,
    Query(params): Query<Params>,
    Json(body): Json<Value>,
) -> Answer {
    let (gateway, session) = workspace
        .changing_session(&headers, (&project, &branch), MAINTENANCE)
        .await?;
    let spec = |name: &str| {
        let text = body.get("spec").and_then(|spec| spec.get(name)?.as_str());
        text.filter(|text| !text.is_empty())
    };
    let id = params.get("database_id").filter(|id| !id.is_empty());
    if let Some(id) = id.filter(|id| !is_id(id)) {
        let text = format!(
            "database_id \"{id}\" is not valid: it must match ^[a-z]([a-z0-9-]{{0,61}}[a-z0-9])?$"
        );
        return Err(Failure::invalid(text));
    }
    let owner = spec("role").ok_or_else(|| Failure::required("database.spec.role"))?;
    let name = spec("postgres_database").or(id.map(String::as_str));
    let name = name.ok_or_else(|| Failure::required("database.spec.postgres_database"))?;
    let name = name.to_owned();
    let id = id
        .cloned()
        .unwrap_or_else(|| gateway.ids.of(Kind::Database, &name));
    let owner = find_role(&gateway, &session, owner).await?.name;
    let known = all(&gateway, &session).await?;
    let is_known = known
        .iter()
        .any(|(known, _)| *known == name || gateway.ids.of(Kind::Database, known) == id);
    if is_known && !is_set(&params, "replace_existing") {
        let text = "database with that name already exists";
        return Err(Failure::bad("BAD_REQUEST", text));
    }
    let (database, role) = (quote_ident(&name), quote_ident(&owner));
    let sql = match is_known {
        true => format!("ALTER DATABASE {database} OWNER TO {role}"),
        false => format!("CREATE DATABASE {database} OWNER {role}"),
    };
    let path = format!("{}/databases/{id}", gateway.place.branch_path());
    let gateway = Arc::clone(&gateway);
    let job = |_| async move {
        session.batch_execute(&sql).await.map_err(failed)?;
        gateway.ids.set(Kind::Database, &name, &id);
        Ok(describe(&gateway, &(name, owner)))
    };
    let operation = workspace.branches.operations.run(&path, "Database", job);
    Ok(Json(operation.await).into_response())
}

pub(super) async fn delete(
    Extract(workspace): Shared,
    headers: HeaderMap,
    Path((project, branch, id)): Path<(String, String, String)>,
) -> Answer {
    let (gateway, session) = workspace
        .changing_session(&headers, (&project, &branch), MAINTENANCE)
        .await?;
    let (name, _) = find(&gateway, &session, &id).await?;
    let path = format!("{}/databases/{id}", gateway.place.branch_path());
    let job = |_| async move {
        let sql = format!("DROP DATABASE {} WITH (FORCE)", quote_ident(&name));
        session.batch_execute(&sql).await.map_err(failed)?;
        gateway.ids.forget(Kind::Database, &name);
        Ok(empty())
    };
    let operation = workspace.branches.operations.run(&path, "Database", job);
    Ok(Json(operation.await).into_response())
}
