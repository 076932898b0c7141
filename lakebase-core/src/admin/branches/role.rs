//! Roles of a branch, as the workspace keeps them.

use reqwest::Method;
use serde_json::{Value, json};

use super::api::{checked_id, encoded, is_path};
use super::branch::{Branch, last_part};
use super::id::sanitized;
use crate::admin::roles::IdentityKind;
use crate::error::Error;
use crate::error::foreign::clean_text;
use crate::workspace::text_at;

/// A role of a branch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BranchRole {
    /// The resource name: `projects/../branches/../roles/{id}`.
    pub name: String,
    /// The role in Postgres.
    pub postgres_role: String,
    /// The kind of identity in the platform's word, for example `SERVICE_PRINCIPAL`; `None` for a role of Postgres only.
    pub identity_type: Option<String>,
    /// How it logs in, in the platform's word, for example `LAKEBASE_OAUTH_V1`.
    pub auth_method: Option<String>,
    /// The platform's roles that it is a member of, for example `DATABRICKS_SUPERUSER`.
    pub memberships: Vec<String>,
    /// May create databases.
    pub creates_databases: bool,
    /// May create roles.
    pub creates_roles: bool,
    /// Row-level security does not apply to it.
    pub bypasses_rls: bool,
}

impl BranchRole {
    /// The id, the last part of the name.
    pub fn id(&self) -> &str {
        last_part(&self.name)
    }

    fn read(answer: &Value) -> Option<Self> {
        let name = text_at(answer, "/name").filter(|name| is_path(name))?;
        let text = |field: &str| text_at(answer, &format!("/status/{field}")).map(clean_text);
        let is = |field: &str| {
            answer.pointer(&format!("/status/attributes/{field}")) == Some(&Value::Bool(true))
        };
        let memberships = answer
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

/// A role to create, with [`Branch::create_role`].
#[derive(Clone, Debug)]
#[must_use = "nothing is created before it is given to `Branch::create_role`"]
pub struct NewRole {
    id: String,
    spec: Value,
}

impl NewRole {
    /// The role of an identity of the workspace, which logs in with tokens: the e-mail of a person, the client id of a
    /// service principal, or the name of a group.
    pub fn of_identity(identity: &str, kind: IdentityKind) -> Self {
        let kind = match kind {
            IdentityKind::User => "USER",
            IdentityKind::ServicePrincipal => "SERVICE_PRINCIPAL",
            IdentityKind::Group => "GROUP",
        };
        let spec = json!({"identity_type": kind, "auth_method": "LAKEBASE_OAUTH_V1"});
        Self::new(identity, spec)
    }

    /// A role of Postgres that logs in with a password, which the platform makes.
    pub fn with_password(postgres_role: &str) -> Self {
        Self::new(
            postgres_role,
            json!({"auth_method": "PG_PASSWORD_SCRAM_SHA_256"}),
        )
    }

    /// A role that cannot log in: it owns objects, or has privileges for its members.
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

    /// The id. Default: the role's name in lower case, with `-` for every character that ids do not have.
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
    /// The roles of the branch.
    ///
    /// # Errors
    ///
    /// The workspace rejected the request, or could not be reached within a minute.
    ///
    /// # Cancel safety
    ///
    /// Safe: it only reads.
    pub async fn roles(&self) -> Result<Vec<BranchRole>, Error> {
        let roles = self
            .api()?
            .list(&format!("{}/roles", self.name()), "roles")
            .await?;
        Ok(roles.iter().filter_map(BranchRole::read).collect())
    }

    /// Creates a role and waits until it is there. A role that the branch has inherited exists already.
    ///
    /// # Errors
    ///
    /// The workspace rejected the request: the role exists, a missing permission (CAN USE on the project is needed).
    /// [`Error::is_timeout`] after 10 minutes.
    ///
    /// # Cancel safety
    ///
    /// The role may have been created.
    pub async fn create_role(&self, role: NewRole) -> Result<BranchRole, Error> {
        let id = checked_id("role", &role.id)?;
        let path = format!("{}/roles?role_id={}", self.name(), encoded(id));
        let body = json!({ "spec": role.spec });
        self.settle(&Method::POST, &path, Some(&body)).await?;
        self.role(id).await
    }

    /// Makes a role a member of more of the platform's roles. Those that it has stay: they are read first, as the
    /// platform replaces them all. Changes that others make at the same moment can be lost.
    ///
    /// # Errors
    ///
    /// The branch has no such role, or the workspace rejected the change. [`Error::is_timeout`] after 10 minutes.
    ///
    /// # Cancel safety
    ///
    /// The change may have been made. Doing it again is safe.
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
        self.settle(&Method::PATCH, &path, Some(&body)).await?;
        self.role(role_id).await
    }

    /// Deletes a role. What it owns goes to another role, by id, which starts the compute; without one, a role that owns
    /// something is not deleted.
    ///
    /// # Errors
    ///
    /// The workspace rejected the change. [`Error::is_timeout`] after 10 minutes.
    ///
    /// # Cancel safety
    ///
    /// The role may be deleted.
    pub async fn delete_role(&self, role_id: &str, new_owner: Option<&str>) -> Result<(), Error> {
        let mut path = self.path_of("roles", role_id)?;
        if let Some(owner) = new_owner {
            let owner = self.path_of("roles", owner)?;
            path.push_str(&format!("?reassign_owned_to={}", encoded(&owner)));
        }
        self.settle(&Method::DELETE, &path, None).await
    }

    async fn role(&self, id: &str) -> Result<BranchRole, Error> {
        let found = self.roles().await?.into_iter().find(|role| role.id() == id);
        found.ok_or_else(|| {
            let text = format!("{} has no role of the id {id:?}", self.name());
            Error::config(text).with_hint("A role is named by its id, which `Branch::roles` lists")
        })
    }

    /// The name of a resource of the branch.
    pub(super) fn path_of(&self, kind: &str, id: &str) -> Result<String, Error> {
        Ok(format!("{}/{kind}/{}", self.name(), checked_id(kind, id)?))
    }
}

/// What is there and what is to come; `None` if nothing is new.
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
    fn memberships_are_added_and_none_is_lost() {
        let held = ["DATABRICKS_SUPERUSER".to_owned()];
        assert_eq!(merged(&held, ["DATABRICKS_SUPERUSER"]), None);
        let more = merged(&held, ["X", "DATABRICKS_SUPERUSER", "X"]);
        assert_eq!(more, Some(vec![held[0].clone(), "X".to_owned()]));
    }

    #[test]
    fn a_role_has_an_id_made_of_its_name() {
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
    fn a_role_is_read_as_the_platform_writes_it() {
        let answer = json!({
            "name": "projects/p/branches/b/roles/app",
            "status": {
                "postgres_role": "app", "auth_method": "NO_LOGIN", "membership_roles": ["X"],
                "attributes": {"createrole": true},
            },
        });
        let role = BranchRole::read(&answer).expect("a role");
        assert_eq!(role.id(), "app");
        assert_eq!(role.memberships, ["X"]);
        assert!(role.creates_roles && !role.creates_databases);
    }
}
