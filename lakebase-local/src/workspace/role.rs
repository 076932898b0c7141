//! A role in Postgres, and the `spec` that clients send.

use std::sync::Arc;

use axum::http::HeaderMap;
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

use super::Workspace;
use crate::gateway::Gateway;
use crate::ids::Kind;
use crate::postgres::{NATIVE_GROUP, OUR_PATH, quote_ident};
use crate::reply::Failure;
use crate::roles::RoleKind;

/// The only membership that the API grants.
const SUPERUSER: &str = "DATABRICKS_SUPERUSER";
const OAUTH: &str = "LAKEBASE_OAUTH_V1";
const NATIVE: &str = "PG_PASSWORD_SCRAM_SHA_256";
const NO_LOGIN: &str = "NO_LOGIN";

/// A role in Postgres.
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

/// A superuser's session.
pub(super) async fn admin(gateway: &Gateway, database: &str) -> Result<Client, Failure> {
    let admin = gateway.postgres.admin(database, OUR_PATH).await;
    admin.map_err(|error| Failure::internal(error.chain()))
}

impl Workspace {
    /// The gateway of a branch, and a superuser's session in one of its databases.
    pub(super) async fn session(
        &self,
        headers: &HeaderMap,
        (project, branch): (&str, &str),
        database: &str,
    ) -> Result<(Arc<Gateway>, Client), Failure> {
        self.caller(headers)?;
        let (_, gateway) = self.ready(project, branch)?;
        let admin = admin(&gateway, database).await?;
        Ok((gateway, admin))
    }

    /// The same, to change roles or databases. Those of a borrowed server cannot be changed.
    pub(super) async fn changing_session(
        &self,
        headers: &HeaderMap,
        branch: (&str, &str),
        database: &str,
    ) -> Result<(Arc<Gateway>, Client), Failure> {
        let (gateway, admin) = self.session(headers, branch, database).await?;
        match gateway.postgres.is_own() {
            true => Ok((gateway, admin)),
            false => Err(Failure::bad(
                "BAD_REQUEST",
                "roles and databases of a borrowed server cannot be changed over REST, see LAKEBASE_LOCAL_PG_URL",
            )),
        }
    }
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
        is_native: row.get(5) || gateway.roles.kind(row.get(0)) == RoleKind::Native,
        is_superuser: row.get(6),
    };
    Ok(rows.map_err(failed)?.iter().map(role).collect())
}

/// Finds a role by its id or path.
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
    pub(super) fn describe(&self, workspace: &Workspace, gateway: &Gateway) -> Value {
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
pub(super) struct Spec<'a>(pub(super) &'a Value);

impl<'a> Spec<'a> {
    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        let text = self.0.get("spec")?.get(name)?.as_str();
        text.filter(|text| !text.is_empty())
    }

    fn attribute(&self, name: &str) -> Option<bool> {
        self.0.get("spec")?.get("attributes")?.get(name)?.as_bool()
    }

    /// SQL that changes the `named` fields. A named field that is missing is revoked.
    pub(super) fn changes(
        &self,
        role: &str,
        named: impl Fn(&str) -> bool,
    ) -> Result<String, Failure> {
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
                    return Err(Failure::invalid(text));
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

/// SQL that creates a role, and how it logs in.
pub(super) fn made(
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
            gateway.roles.set_password(name, &password);
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
                return Err(Failure::invalid(text));
            }
            let kind = match identity {
                "GROUP" => RoleKind::Group(workspace.issuer.members(name)),
                _ => RoleKind::OAuth,
            };
            Ok((gateway.postgres.create_role_sql(name), Some(kind)))
        }
        other => {
            let text = format!("auth_method \"{other}\" is unknown");
            Err(Failure::invalid(text))
        }
    }
}
