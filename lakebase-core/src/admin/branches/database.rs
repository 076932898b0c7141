//! The databases of a branch in the workspace.

use reqwest::Method;
use serde_json::{Value, json};

use super::api::{encoded, is_path};
use super::branch::{Branch, last_part};
use super::id::sanitized;
use crate::error::foreign::clean_text;
use crate::error::{Error, Kind};
use crate::settings::name::check_name;
use crate::workspace::text_at;

/// A database of a branch: see [`Branch::databases`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BranchDatabase {
    /// The resource name: `projects/../branches/../databases/{id}`.
    pub name: String,
    /// The name of the database in Postgres.
    pub postgres_database: String,
    /// The id of the role that owns it.
    pub owner: Option<String>,
}

impl BranchDatabase {
    /// The id, the last part of the name.
    pub fn id(&self) -> &str {
        last_part(&self.name)
    }

    fn read(body: &Value) -> Option<Self> {
        let name = text_at(body, "/name").filter(|name| is_path(name))?;
        let text = |pointer: &str| text_at(body, pointer).map(clean_text);
        let database = text("/status/postgres_database");
        Some(Self {
            name: name.to_owned(),
            postgres_database: database.unwrap_or_else(|| last_part(name).to_owned()),
            owner: text("/status/role").map(|role| last_part(&role).to_owned()),
        })
    }
}

impl Branch {
    /// Returns the databases of the branch.
    ///
    /// # Errors
    ///
    /// The workspace rejected the request, or was not reachable within a minute.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect: it only reads.
    pub async fn databases(&self) -> Result<Vec<BranchDatabase>, Error> {
        let path = format!("{}/databases", self.name());
        let databases = self.api()?.list(&path, "databases").await?;
        Ok(databases.iter().filter_map(BranchDatabase::read).collect())
    }

    /// Creates a database and waits for it. `owner` is the id of a role. Unlike a database of plain `CREATE DATABASE`, it accepts logins
    /// with tokens. Its id is its name in lower case, with `-` for each character that ids cannot contain.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] for an invalid name. The workspace rejected the request: the database exists, the role does not, or the
    /// identity lacks CAN USE on the project. [`Error::is_timeout`] after 10 minutes.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the database may have been created.
    pub async fn create_database(&self, name: &str, owner: &str) -> Result<BranchDatabase, Error> {
        check_name("database", name)?;
        let id = sanitized(name, "d-");
        let path = format!("{}/databases?database_id={}", self.name(), encoded(&id));
        let owner = self.path_of("roles", owner)?;
        let body = json!({ "spec": { "postgres_database": name, "role": owner } });
        let api = self.api()?;
        api.settle(&Method::POST, &path, Some(&body)).await?;
        let mut databases = self.databases().await?.into_iter();
        let created = databases.find(|database| database.id() == id);
        created.ok_or_else(|| {
            let text = format!(
                "database {name:?} was created, but {} does not list it",
                self.name()
            );
            Error::new(Kind::Platform, text)
        })
    }

    /// Deletes the database with this id, and its data.
    ///
    /// # Errors
    ///
    /// The workspace rejected the change. [`Error::is_timeout`] after 10 minutes.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the database may be deleted.
    pub async fn delete_database(&self, id: &str) -> Result<(), Error> {
        let path = self.path_of("databases", id)?;
        self.api()?.settle(&Method::DELETE, &path, None).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_of_the_platform_is_parsed_as_a_database() {
        let body = json!({
            "name": "projects/p/branches/b/databases/my-app",
            "status": {"postgres_database": "My App", "role": "projects/p/branches/b/roles/owner"},
        });
        let database = BranchDatabase::read(&body).expect("a database");
        assert_eq!(database.id(), "my-app");
        assert_eq!(database.postgres_database, "My App");
        assert_eq!(database.owner.as_deref(), Some("owner"));
    }
}
