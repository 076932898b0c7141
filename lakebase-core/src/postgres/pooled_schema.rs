//! The search path behind a pooler.
//!
//! The built-in pooler takes no startup options, and a setting of a session would stay for the next client of
//! that session. What it does honour is what Postgres itself knows about the role: each connection of
//! the pooler begins with it. So the role has to have the path; a login only checks that.

use postgres_protocol::escape::escape_identifier;

use crate::lakebase::Lakebase;
use crate::postgres::login::{Login, LoginFailure};
#[cfg(feature = "tokio-postgres")]
use crate::postgres::search_path::check;

impl Lakebase {
    /// Checks that sessions behind a pooled host begin in the configured schema, until that was so once. Changes
    /// nothing.
    pub(crate) async fn check_pooled_schema(&self, login: &Login) -> Result<(), LoginFailure> {
        match self.schema() {
            Some(schema) if login.target.is_pooled() && !self.has_path_of_role() => {
                check(schema, login).await?;
                self.note_path_of_role();
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// The statement that puts a schema first on a role's search path.
pub(crate) fn set_search_path(role: &str, database: &str, schema: &str) -> String {
    format!(
        "ALTER ROLE {} IN DATABASE {} SET search_path TO {}, public",
        escape_identifier(role),
        escape_identifier(database),
        escape_identifier(schema)
    )
}

/// Without a driver it cannot be checked.
#[cfg(not(feature = "tokio-postgres"))]
async fn check(schema: &str, login: &Login) -> Result<(), LoginFailure> {
    let statement = set_search_path(login.target.user(), login.target.database(), schema);
    let error = crate::error::Error::config("schema: a pooled host takes no search path");
    let hint = format!("Run {statement}, and leave the schema out here");
    Err(LoginFailure::permanent(error.with_hint(hint)))
}
