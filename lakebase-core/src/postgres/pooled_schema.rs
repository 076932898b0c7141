//! The search path on a pooled host.
//!
//! The built-in pooler rejects startup options, and a `SET` would stay in effect for the next client of the server connection. Each
//! server connection starts with the settings of its role, so the search path has to be a setting of the role. A login only checks it.

use crate::lakebase::Lakebase;
use crate::postgres::login::{Login, LoginFailure};
#[cfg(feature = "tokio-postgres")]
use crate::postgres::search_path::check;

impl Lakebase {
    /// Checks that sessions on a pooled host start in the configured schema, until the check has succeeded once. It changes
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

/// Without a driver, the check is impossible.
#[cfg(not(feature = "tokio-postgres"))]
async fn check(_: &str, _: &Login) -> Result<(), LoginFailure> {
    let error = crate::error::Error::config("schema: a pooled host takes no search path");
    Err(LoginFailure::permanent(error.with_hint(
        "Run ALTER ROLE .. IN DATABASE .. SET search_path (or `lakebase grant ROLE --search-path`), and leave the schema out here",
    )))
}
