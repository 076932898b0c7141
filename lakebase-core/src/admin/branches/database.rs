//! Databases of a branch, as the workspace keeps them.

use reqwest::Method;
use serde_json::{Value, json};

use super::api::{encoded, is_path};
use super::branch::{Branch, last_part};
use super::id::sanitized;
use crate::error::foreign::clean_text;
use crate::error::{Error, Kind};
use crate::settings::name::check_name;
use crate::workspace::text_at;

/// A database of a branch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BranchDatabase {
    /// The resource name: `projects/../branches/../databases/{id}`.
    pub name: String,
    /// The database in Postgres.
    pub postgres_database: String,
    /// The id of the role that owns it.
    pub owner: Option<String>,
}

impl BranchDatabase {
    /// The id, the last part of the name.
    pub fn id(&self) -> &str {
        last_part(&self.name)
    }

    fn read(answer: &Value) -> Option<Self> {
        let name = text_at(answer, "/name").filter(|name| is_path(name))?;
        let text = |pointer: &str| text_at(answer, pointer).map(clean_text);
        let database = text("/status/postgres_database");
        Some(Self {
            name: name.to_owned(),
            postgres_database: database.unwrap_or_else(|| last_part(name).to_owned()),
            owner: text("/status/role").map(|role| last_part(&role).to_owned()),
        })
    }
}

impl Branch {
    /// The databases of the branch.
    ///
    /// # Errors
    ///
    /// The workspace rejected the request, or could not be reached within a minute.
    ///
    /// # Cancel safety
    ///
    /// Safe: it only reads.
    pub async fn databases(&self) -> Result<Vec<BranchDatabase>, Error> {
        let path = format!("{}/databases", self.name());
        let databases = self.api()?.list(&path, "databases").await?;
        Ok(databases.iter().filter_map(BranchDatabase::read).collect())
    }

    /// Creates a database that a role owns, named by its id, and waits until it is there. Unlike after plain `CREATE
    /// DATABASE`, tokens log in to it. Its id is its name in lower case, with `-` for every character that ids do not have.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] if that cannot be the name of a database. The workspace rejected the request: it exists, there
    /// is no such role, a missing permission (CAN USE on the project is needed). [`Error::is_timeout`] after 10 minutes.
    ///
    /// # Cancel safety
    ///
    /// The database may have been created.
    pub async fn create_database(&self, name: &str, owner: &str) -> Result<BranchDatabase, Error> {
        check_name("database", name)?;
        let id = sanitized(name, "d-");
        let path = format!("{}/databases?database_id={}", self.name(), encoded(&id));
        let owner = self.path_of("roles", owner)?;
        let body = json!({ "spec": { "postgres_database": name, "role": owner } });
        self.settle(&Method::POST, &path, Some(&body)).await?;
        let made = self
            .databases()
            .await?
            .into_iter()
            .find(|made| made.id() == id);
        made.ok_or_else(|| {
            let text = format!(
                "database {name:?} was created, but {} does not list it",
                self.name()
            );
            Error::new(Kind::Platform, text)
        })
    }

    /// Deletes a database, named by its id, with its data.
    ///
    /// # Errors
    ///
    /// The workspace rejected the change. [`Error::is_timeout`] after 10 minutes.
    ///
    /// # Cancel safety
    ///
    /// The database may be deleted.
    pub async fn delete_database(&self, id: &str) -> Result<(), Error> {
        let path = self.path_of("databases", id)?;
        self.settle(&Method::DELETE, &path, None).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_read_as_the_platform_writes_it() {
        let answer = json!({
            "name": "projects/p/branches/b/databases/my-app",
            "status": {"postgres_database": "My App", "role": "projects/p/branches/b/roles/owner"},
        });
        let database = BranchDatabase::read(&answer).expect("a database");
        assert_eq!(database.id(), "my-app");
        assert_eq!(database.postgres_database, "My App");
        assert_eq!(database.owner.as_deref(), Some("owner"));
    }
}
