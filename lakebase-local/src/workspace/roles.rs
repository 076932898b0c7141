//! Roles of branches. What there is, Postgres itself tells: roles made in SQL are listed, too.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State as Extract};
use axum::http::HeaderMap;
use axum::response::IntoResponse as _;
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

use super::page::{Params, is_set, page};
use super::reply::{Answer, Failure};
use super::{Shared, Workspace};
use crate::branches::empty;
use crate::gateway::Gateway;
use crate::ids::{Kind, is_id};
use crate::postgres::{DATABASE, NATIVE_GROUP, OUR_PATH, quote_ident, quote_literal};
use crate::roles::RoleKind;

const PAGE: usize = 100;
/// The only membership that the API can give.
const SUPERUSER: &str = "DATABRICKS_SUPERUSER";
const OAUTH: &str = "LAKEBASE_OAUTH_V1";
const NATIVE: &str = "PG_PASSWORD_SCRAM_SHA_256";
const NO_LOGIN: &str = "NO_LOGIN";

/// A role as it is.
#[derive(Debug)]
pub(super) struct Role {
    pub(super) name: String,
    can_login: bool,
    is_native: bool,
    is_superuser: bool,
    create_db: bool,
    create_role: bool,
    bypass_rls: bool,
}

pub(super) fn failed(error: tokio_postgres::Error) -> Failure {
    match error.as_db_error() {
        Some(error) => Failure::bad("BAD_REQUEST", error.message()),
        None => Failure::internal(error.to_string()),
    }
}

/// A superuser's session. Roles and databases of a borrowed server are not ours to change.
pub(super) async fn admin(gateway: &Gateway, database: &str) -> Result<Client, Failure> {
    let admin = gateway.postgres.admin(database, OUR_PATH).await;
    admin.map_err(|error| Failure::internal(error.chain()))
}

pub(super) fn check_own(gateway: &Gateway) -> Result<(), Failure> {
    if gateway.postgres.is_own() {
        return Ok(());
    }
    let text = "roles and databases of a borrowed server cannot be changed over REST, see LAKEBASE_LOCAL_PG_URL";
    Err(Failure::bad("BAD_REQUEST", text))
}

pub(super) async fn all(gateway: &Gateway, admin: &Client) -> Result<Vec<Role>, Failure> {
    let sql = "WITH member AS (SELECT member AS oid, rolname AS of FROM pg_auth_members \
                   JOIN pg_roles AS groups ON groups.oid = roleid) \
               SELECT rolname::text, rolcanlogin, rolcreatedb, rolcreaterole, rolbypassrls, \
                   EXISTS (SELECT FROM member WHERE member.oid = role.oid AND of = $2), \
                   EXISTS (SELECT FROM member WHERE member.oid = role.oid AND of = 'databricks_superuser') \
               FROM pg_roles AS role WHERE NOT rolsuper AND rolname NOT LIKE 'pg\\_%' \
                   AND rolname NOT IN ($2, 'databricks_superuser') \
                   AND ($1::text IS NULL OR shobj_description(oid, 'pg_authid') = $1) ORDER BY rolname";
    let mark = gateway.postgres.mark();
    let rows = admin.query(sql, &[&mark, &NATIVE_GROUP]).await;
    let role = |row: &tokio_postgres::Row| Role {
        name: row.get(0),
        can_login: row.get(1),
        create_db: row.get(2),
        create_role: row.get(3),
        bypass_rls: row.get(4),
        is_native: row.get(5),
        is_superuser: row.get(6),
    };
    Ok(rows.map_err(failed)?.iter().map(role).collect())
}

/// The role of this id, or the last part of this path.
pub(super) async fn find(gateway: &Gateway, admin: &Client, id: &str) -> Result<Role, Failure> {
    let short = id.rsplit('/').next().unwrap_or_default();
    let all = all(gateway, admin).await?;
    let found = all
        .into_iter()
        .find(|role| gateway.ids.of(Kind::Role, &role.name) == short);
    found.ok_or_else(|| {
        let text = format!(
            "role not found; role_id:\"{short}\" [TraceId: {}]",
            Uuid::new_v4().simple()
        );
        Failure::new(404, "NOT_FOUND", text)
    })
}

impl Role {
    fn describe(&self, workspace: &Workspace, gateway: &Gateway) -> Value {
        let parent = gateway.place.branch_path();
        let id = gateway.ids.of(Kind::Role, &self.name);
        let auth_method = match (self.can_login, self.is_native) {
            (false, _) => NO_LOGIN,
            (true, true) => NATIVE,
            (true, false) => OAUTH,
        };
        let memberships: &[&str] = if self.is_superuser { &[SUPERUSER] } else { &[] };
        let mut status = json!({
            "role_id": id,
            "postgres_role": self.name,
            "auth_method": auth_method,
            "membership_roles": memberships,
            "attributes": {
                "createdb": self.create_db,
                "createrole": self.create_role,
                "bypassrls": self.bypass_rls,
            },
        });
        let identities = workspace.issuer.identities();
        let identity = identities.iter().find(|(name, _)| *name == self.name);
        if let (OAUTH, Some((_, kind))) = (auth_method, identity) {
            status["identity_type"] = (*kind).into();
        }
        json!({
            "name": format!("{parent}/roles/{id}"),
            "role_id": id,
            "parent": parent,
            "status": status,
        })
    }
}

/// `spec` of a role.
struct Spec<'a>(&'a Value);

impl<'a> Spec<'a> {
    fn text(&self, name: &str) -> Option<&'a str> {
        let text = self.0.get("spec")?.get(name)?.as_str();
        text.filter(|text| !text.is_empty())
    }

    fn attribute(&self, name: &str) -> Option<bool> {
        self.0.get("spec")?.get("attributes")?.get(name)?.as_bool()
    }

    /// Grants or revokes what is `named`: an update that names memberships and has none takes them away.
    fn changes(&self, role: &str, named: impl Fn(&str) -> bool) -> Result<String, Failure> {
        let ident = quote_ident(role);
        let mut sql = String::new();
        for attribute in ["createdb", "createrole", "bypassrls"] {
            if named(&format!("spec.attributes.{attribute}")) {
                let no = match self.attribute(attribute) {
                    Some(true) => "",
                    _ => "NO",
                };
                sql.push_str(&format!("ALTER ROLE {ident} {no}{attribute}; "));
            }
        }
        if named("spec.membership_roles") {
            let spec = self.0.get("spec");
            let memberships = spec.and_then(|spec| spec.get("membership_roles")?.as_array());
            let mut is_superuser = false;
            for membership in memberships.into_iter().flatten() {
                if membership != SUPERUSER {
                    let text = format!("membership_roles: {membership} is unknown");
                    return Err(Failure::bad("INVALID_PARAMETER_VALUE", text));
                }
                is_superuser = true;
            }
            sql.push_str(&match is_superuser {
                true => format!("GRANT databricks_superuser TO {ident}; "),
                false => format!("REVOKE databricks_superuser FROM {ident}; "),
            });
        }
        Ok(sql)
    }
}

pub(super) async fn list(
    Extract(workspace): Shared,
    headers: HeaderMap,
    Path((project, branch)): Path<(String, String)>,
    Query(params): Query<Params>,
) -> Answer {
    workspace.caller(&headers)?;
    let (_, gateway) = workspace.ready(&project, &branch)?;
    let admin = admin(&gateway, DATABASE).await?;
    let roles = all(&gateway, &admin).await?;
    let roles = roles.iter().map(|role| role.describe(&workspace, &gateway));
    page("roles", roles.collect(), &params, PAGE)
}

pub(super) async fn get(
    Extract(workspace): Shared,
    headers: HeaderMap,
    Path((project, branch, role)): Path<(String, String, String)>,
) -> Answer {
    workspace.caller(&headers)?;
    let (_, gateway) = workspace.ready(&project, &branch)?;
    let admin = admin(&gateway, DATABASE).await?;
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
    workspace.caller(&headers)?;
    let (_, gateway) = workspace.ready(&project, &branch)?;
    check_own(&gateway)?;
    let id = params.get("role_id").filter(|id| !id.is_empty()).cloned();
    if let Some(id) = id.as_ref().filter(|id| !is_id(id) || id.len() < 4) {
        let text = format!(
            "role_id \"{id}\" is not valid: 4 to 63 lower-case letters, digits and hyphens"
        );
        return Err(Failure::bad("INVALID_PARAMETER_VALUE", text));
    }
    let replaces = is_set(&params, "replace_existing");
    if replaces && id.is_none() {
        return Err(Failure::required("role_id"));
    }
    let spec = Spec(&body);
    let name = spec.text("postgres_role").or(id.as_deref());
    let name = name.ok_or_else(|| Failure::required("role.spec.postgres_role"))?;
    let name = name.to_owned();
    let session = admin(&gateway, DATABASE).await?;
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

/// How a role is made, and how it logs in.
fn made(
    workspace: &Workspace,
    gateway: &Gateway,
    spec: &Spec<'_>,
    name: &str,
) -> Result<(String, Option<RoleKind>), Failure> {
    let identity = spec.text("identity_type");
    let usual = if identity.is_some() { OAUTH } else { NATIVE };
    match spec.text("auth_method").unwrap_or(usual) {
        NO_LOGIN => Ok((format!("CREATE ROLE {} NOLOGIN", quote_ident(name)), None)),
        NATIVE => {
            let password = Uuid::new_v4().simple().to_string();
            let sql = gateway.postgres.create_native_role_sql(name, &password);
            Ok((sql, Some(RoleKind::Native)))
        }
        OAUTH => {
            let identity = identity.ok_or_else(|| Failure::required("role.spec.identity_type"))?;
            let identities = workspace.issuer.identities();
            if !identities
                .iter()
                .any(|(known, kind)| known == name && *kind == identity)
            {
                let text = format!(
                    "identity \"{name}\" of type {identity} does not exist in the workspace"
                );
                return Err(Failure::bad("INVALID_PARAMETER_VALUE", text));
            }
            let kind = match identity {
                "GROUP" => RoleKind::Group(workspace.issuer.members(name)),
                _ => RoleKind::OAuth,
            };
            Ok((gateway.postgres.create_role_sql(name), Some(kind)))
        }
        other => {
            let text = format!("auth_method \"{other}\" is unknown");
            Err(Failure::bad("INVALID_PARAMETER_VALUE", text))
        }
    }
}

pub(super) async fn update(
    Extract(workspace): Shared,
    headers: HeaderMap,
    Path((project, branch, role)): Path<(String, String, String)>,
    Query(params): Query<Params>,
    Json(body): Json<Value>,
) -> Answer {
    workspace.caller(&headers)?;
    let (_, gateway) = workspace.ready(&project, &branch)?;
    check_own(&gateway)?;
    let mask = params.get("update_mask").filter(|mask| !mask.is_empty());
    let mask = mask.ok_or_else(|| Failure::required("update_mask"))?;
    let session = admin(&gateway, DATABASE).await?;
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
        return Err(Failure::bad("INVALID_PARAMETER_VALUE", text));
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

pub(super) async fn delete(
    Extract(workspace): Shared,
    headers: HeaderMap,
    Path((project, branch, role)): Path<(String, String, String)>,
    Query(params): Query<Params>,
) -> Answer {
    workspace.caller(&headers)?;
    let (_, gateway) = workspace.ready(&project, &branch)?;
    check_own(&gateway)?;
    let session = admin(&gateway, DATABASE).await?;
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
