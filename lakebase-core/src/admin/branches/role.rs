//! The roles of a branch in the workspace.

use reqwest::Method;
use serde_json::{Value, json};

use super::api::{checked_id, encoded, is_path};
use super::branch::{Branch, last_part};
use super::id::sanitized;
use crate::admin::roles::IdentityKind;
use crate::error::Error;
use crate::error::foreign::clean_text;
use crate::workspace::text_at;

/// A role of a branch: see [`Branch::roles`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BranchRole {
    /// The resource name: `projects/../branches/../roles/{id}`.
    pub name: String,
    /// The name of the role in Postgres.
    pub postgres_role: String,
    /// The platform's name for the kind of identity, for example `SERVICE_PRINCIPAL`; `None` for a role that exists only in Postgres.
    pub identity_type: Option<String>,
    /// The platform's name for the way it logs in, for example `LAKEBASE_OAUTH_V1`.
    pub auth_method: Option<String>,
    /// The platform's roles that it is a member of, for example `DATABRICKS_SUPERUSER`.
    pub memberships: Vec<String>,
    /// Whether it may create databases.
    pub creates_databases: bool,
    /// Whether it may create roles.
    pub creates_roles: bool,
    /// Whether it bypasses row-level security.
    pub bypasses_rls: bool,
}

impl BranchRole {
    /// The id, the last part of the name.
    pub fn id(&self) -> &str {
        last_part(&self.name)
    }

    fn read(body: &Value) -> Option<Self> {
        let name = text_at(body, "/name").filter(|name| is_path(name))?;
        let text = |field: &str| text_at(body, &format!("/status/{field}")).map(clean_text);
        let is = |field: &str| {
            body.pointer(&format!("/status/attributes/{field}")) == Some(&Value::Bool(true))
        };
        let memberships = body
            .pointer("/status/membership_roles")
            .and_then(Value::as_array);
        let memberships = memberships.into_iter().flatten().filter_map(Value::as_str);
        Some(Self {
            name: name.to_owned(),
            postgres_role: text("postgres_role").unwrap_or_else(|| last_part(name).to_owned()),
            identity_type: text("identity_type"),
            auth_method: text("auth_method"),
            memberships: memberships.map(clean_text).collect(),
            creates_databases: is("createdb"),
            creates_roles: is("createrole"),
            bypasses_rls: is("bypassrls"),
        })
    }
}

/// A role to create with [`Branch::create_role`].
#[derive(Clone, Debug)]
#[must_use = "pass it to `Branch::create_role`, which creates the role"]
pub struct NewRole {
    id: String,
    spec: Value,
}

impl NewRole {
    /// The role of a workspace identity, which logs in with tokens: the e-mail of a user, the client id of a service principal, or the
    /// name of a group.
    pub fn of_identity(identity: &str, kind: IdentityKind) -> Self {
        let spec = json!({"identity_type": kind.keyword(), "auth_method": "LAKEBASE_OAUTH_V1"});
        Self::new(identity, spec)
    }

    /// A Postgres role that logs in with a password, which the platform generates.
    pub fn with_password(postgres_role: &str) -> Self {
        Self::new(
            postgres_role,
            json!({"auth_method": "PG_PASSWORD_SCRAM_SHA_256"}),
        )
    }

    /// A role that cannot log in: an owner of objects, or a set of privileges for its members.
    pub fn without_login(postgres_role: &str) -> Self {
        Self::new(postgres_role, json!({"auth_method": "NO_LOGIN"}))
    }

    fn new(postgres_role: &str, mut spec: Value) -> Self {
        spec["postgres_role"] = json!(postgres_role);
        Self {
            id: sanitized(postgres_role, "r-"),
            spec,
        }
    }

    /// Sets the id: by default the role's name in lower case, with `-` for each character that ids cannot contain.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = id.into();
        self
    }

    /// Makes it a member of the platform's roles, for example `DATABRICKS_SUPERUSER`.
    pub fn member_of<'a>(mut self, roles: impl IntoIterator<Item = &'a str>) -> Self {
        self.spec["membership_roles"] = roles.into_iter().collect();
        self
    }

    /// Lets it create databases.
    pub fn creates_databases(self) -> Self {
        self.attribute("createdb")
    }

    /// Lets it create roles.
    pub fn creates_roles(self) -> Self {
        self.attribute("createrole")
    }

    fn attribute(mut self, name: &str) -> Self {
        self.spec["attributes"][name] = json!(true);
        self
    }
}

impl Branch {
    /// Returns the roles of the branch.
    ///
    /// # Errors
    ///
    /// The workspace rejected the request, or was not reachable within a minute.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect: it only reads.
    pub async fn roles(&self) -> Result<Vec<BranchRole>, Error> {
        let roles = self
            .api()?
            .list(&format!("{}/roles", self.name()), "roles")
            .await?;
        Ok(roles.iter().filter_map(BranchRole::read).collect())
    }

    /// Creates a role and waits for it. Roles that the branch inherited from its source exist already.
    ///
    /// # Errors
    ///
    /// The workspace rejected the request: the role exists, or the identity lacks CAN USE on the project.
    /// [`Error::is_timeout`] after 10 minutes.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the role may have been created.
    pub async fn create_role(&self, role: NewRole) -> Result<BranchRole, Error> {
        let id = checked_id("role", &role.id)?;
        let path = format!("{}/roles?role_id={}", self.name(), encoded(id));
        let body = json!({ "spec": role.spec });
        let api = self.api()?;
        api.settle(&Method::POST, &path, Some(&body)).await?;
        self.role(id).await
    }

    /// Makes a role a member of more of the platform's roles, and keeps its memberships. The platform can only replace all memberships,
    /// so this method reads them first; concurrent changes by others can be lost.
    ///
    /// # Errors
    ///
    /// The branch has no such role, or the workspace rejected the change. [`Error::is_timeout`] after 10 minutes.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the change may have happened. Calling it again is safe.
    pub async fn grant_memberships<'a>(
        &self,
        role_id: &str,
        memberships: impl IntoIterator<Item = &'a str>,
    ) -> Result<BranchRole, Error> {
        let role = self.role(role_id).await?;
        let Some(merged) = merged(&role.memberships, memberships) else {
            return Ok(role);
        };
        let path = format!("{}?update_mask=spec.membership_roles", role.name);
        let body = json!({ "name": role.name, "spec": { "membership_roles": merged } });
        let api = self.api()?;
        api.settle(&Method::PATCH, &path, Some(&body)).await?;
        self.role(role_id).await
    }

    /// Deletes a role. `new_owner` is the id of a role that gets its objects; this starts the compute. Without a new owner, the
    /// workspace rejects the deletion of a role that owns objects.
    ///
    /// # Errors
    ///
    /// The workspace rejected the change. [`Error::is_timeout`] after 10 minutes.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the role may be deleted.
    pub async fn delete_role(&self, role_id: &str, new_owner: Option<&str>) -> Result<(), Error> {
        let mut path = self.path_of("roles", role_id)?;
        if let Some(owner) = new_owner {
            let owner = self.path_of("roles", owner)?;
            path.push_str(&format!("?reassign_owned_to={}", encoded(&owner)));
        }
        self.api()?.settle(&Method::DELETE, &path, None).await
    }

    async fn role(&self, id: &str) -> Result<BranchRole, Error> {
        let found = self.roles().await?.into_iter().find(|role| role.id() == id);
        found.ok_or_else(|| {
            let text = format!("{} has no role with the id {id:?}", self.name());
            Error::config(text).with_hint("`Branch::roles` returns the ids")
        })
    }

    /// The name of a resource of the branch.
    pub(super) fn path_of(&self, kind: &str, id: &str) -> Result<String, Error> {
        Ok(format!("{}/{kind}/{}", self.name(), checked_id(kind, id)?))
    }
}

/// Adds roles to a list; `None` if all are in it.
fn merged<'a>(held: &[String], more: impl IntoIterator<Item = &'a str>) -> Option<Vec<String>> {
    let mut merged = held.to_vec();
    for role in more {
        if !merged.iter().any(|known| known == role) {
            merged.push(role.to_owned());
        }
    }
    (merged.len() > held.len()).then_some(merged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_memberships_are_added_to_the_existing_ones() {
        let held = ["DATABRICKS_SUPERUSER".to_owned()];
        assert_eq!(merged(&held, ["DATABRICKS_SUPERUSER"]), None);
        let more = merged(&held, ["X", "DATABRICKS_SUPERUSER", "X"]);
        assert_eq!(more, Some(vec![held[0].clone(), "X".to_owned()]));
    }

    #[test]
    fn the_id_of_a_role_is_derived_from_its_name() {
        let role = NewRole::of_identity("Ana@example.com", IdentityKind::User)
            .member_of(["DATABRICKS_SUPERUSER"])
            .creates_databases();
        assert_eq!(role.id, "ana-example-com");
        let expected = json!({
            "identity_type": "USER", "auth_method": "LAKEBASE_OAUTH_V1", "postgres_role": "Ana@example.com",
            "membership_roles": ["DATABRICKS_SUPERUSER"], "attributes": {"createdb": true},
        });
        assert_eq!(role.spec, expected);
        let id = NewRole::without_login("6f2f0a2e-6a53").id;
        assert_eq!(id, "r-6f2f0a2e-6a53");
    }

    #[test]
    fn a_reply_of_the_platform_is_parsed_as_a_role() {
        let body = json!({
            "name": "projects/p/branches/b/roles/app",
            "status": {
                "postgres_role": "app", "auth_method": "NO_LOGIN", "membership_roles": ["X"],
                "attributes": {"createrole": true},
            },
        });
        let role = BranchRole::read(&body).expect("a role");
        assert_eq!(role.id(), "app");
        assert_eq!(role.memberships, ["X"]);
        assert!(role.creates_roles && !role.creates_databases);
    }
}
