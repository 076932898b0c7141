//! The search path behind a pooler.
//!
//! The built-in pooler takes no startup options, and a setting of a session would stay for the next client of
//! that session. What it does honour is what Postgres itself knows about the role: each connection of
//! the pooler begins with it. So the role has to have the path; a login only checks that.

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

/// Without a driver it cannot be checked.
#[cfg(not(feature = "tokio-postgres"))]
async fn check(_: &str, _: &Login) -> Result<(), LoginFailure> {
    let error = crate::error::Error::config("schema: a pooled host takes no search path");
    Err(LoginFailure::permanent(error.with_hint(
        "Run ALTER ROLE .. IN DATABASE .. SET search_path (or `lakebase grant ROLE --search-path`), and leave the schema out here",
    )))
}
