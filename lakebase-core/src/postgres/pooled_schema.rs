//! The search path behind a pooler.
//!
//! The built-in pooler takes no startup options, and a setting of a session would end up with whoever gets
//! that session next. What it does honour is what Postgres itself knows about the role: each connection of
//! the pooler begins with it. So the role has to have the path; a login only checks that.

use crate::error::Error;
use crate::lakebase::Lakebase;
use crate::postgres::login::{Login, LoginFailure};
use postgres_protocol::escape::escape_identifier;

impl Lakebase {
    /// Checks that sessions behind a pooled host begin in the configured schema, until that was so once. Changes
    /// nothing.
    #[cfg(feature = "tokio-postgres")]
    pub(crate) async fn check_pooled_schema(&self, login: &Login) -> Result<(), LoginFailure> {
        let (Some(schema), true) = (self.schema(), login.target.is_pooled()) else {
            return Ok(());
        };
        let done = self.path_of_role_is_set();
        done.get_or_find(with_driver::check(schema, login)).await
    }

    /// Without a driver it cannot be checked.
    #[cfg(not(feature = "tokio-postgres"))]
    pub(crate) async fn check_pooled_schema(&self, login: &Login) -> Result<(), LoginFailure> {
        match self.schema() {
            Some(schema) if login.target.is_pooled() => Err(LoginFailure::permanent(
                Error::config("schema: a pooled host takes no search path").with_hint(format!(
                    "Run {}, and leave the schema out here",
                    set_search_path(login.target.user(), login.target.database(), schema)
                )),
            )),
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

#[cfg(feature = "tokio-postgres")]
mod with_driver {
    use futures_util::future::{Either, select};
    use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

    use super::{Error, Login, LoginFailure, set_search_path};
    use crate::error::foreign::clean_text;

    /// The path that the role has been given, in this database or else in all; and the present one.
    const PATHS: &str = "SELECT ( \
        SELECT pg_catalog.substr(setting, 13) \
        FROM pg_catalog.pg_db_role_setting, pg_catalog.unnest(setconfig) AS setting \
        WHERE setrole = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user) \
        AND setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database \
            WHERE datname = pg_catalog.current_database())) \
        AND setting LIKE 'search\\_path=%' ORDER BY setdatabase = 0 LIMIT 1), \
        pg_catalog.current_setting('search_path')";

    pub(super) async fn check(schema: &str, login: &Login) -> Result<(), LoginFailure> {
        let (client, connection) = login.open().await?;
        let work = std::pin::pin!(check_on(&client, schema, login));
        match select(work, std::pin::pin!(connection)).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right((Err(error), _)) => Err(LoginFailure::transport(error)),
            Either::Right((Ok(()), work)) => work.await,
        }
    }

    async fn check_on(client: &Client, schema: &str, login: &Login) -> Result<(), LoginFailure> {
        let Some(row) = query(client, PATHS).await? else {
            return Err(LoginFailure::transport(
                "Postgres did not answer a query about the search path",
            ));
        };
        if first_of(row.get(1).unwrap_or_default()).as_deref() == Some(schema) {
            return Ok(());
        }
        let (role, database) = (login.target.user(), login.target.database());
        let statement = set_search_path(role, database, schema);
        let (what, hint) = match row.get(0) {
            Some(path) if first_of(path).as_deref() == Some(schema) => (
                format!("the pooler still has sessions that began before role {role:?} got its search path"),
                "It replaces them as they get old (an hour at most, unless configured otherwise): try again then, or restart the compute".to_owned(),
            ),
            Some(path) => (
                format!("the role {role:?} has the search path {} of its own, and a pooled host takes no other", clean_text(path)),
                format!("Give each application a role of its own; or, if nobody else uses that path, run: {statement}"),
            ),
            None => (
                format!("a pooled host takes no search path, and the role {role:?} has none of its own"),
                format!("As that role or one that may alter it, run: {statement} (or `lakebase --schema '{schema}' grant '{role}' --search-path`)"),
            ),
        };
        let error = Error::config(format!("schema {schema:?}: {what}"));
        Err(LoginFailure::permanent(error.with_hint(hint)))
    }

    /// A simple query: a pooler may take prepared statements elsewhere.
    async fn query(client: &Client, sql: &str) -> Result<Option<SimpleQueryRow>, LoginFailure> {
        let answer = client.simple_query(sql).await.map_err(|error| {
            match error
                .as_db_error()
                .map(|db| (db.code().code().to_owned(), db.message().to_owned()))
            {
                Some((code, message)) => LoginFailure::postgres(code, message, error),
                None => LoginFailure::transport(error),
            }
        })?;
        Ok(answer.into_iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        }))
    }

    /// The first name of a search path, without its quotes.
    fn first_of(path: &str) -> Option<String> {
        let path = path.trim_start();
        let Some(quoted) = path.strip_prefix('"') else {
            let name = path.split(',').next()?.trim();
            return (!name.is_empty()).then(|| name.to_owned());
        };
        let mut name = String::new();
        let mut rest = quoted.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                '"' if rest.peek() == Some(&'"') => {
                    rest.next();
                    name.push('"');
                }
                '"' => return Some(name),
                other => name.push(other),
            }
        }
        None
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_first_name_of_a_path_is_read_as_postgres_writes_it() {
            for (path, name) in [
                ("app", Some("app")),
                ("app, public", Some("app")),
                ("\"app\",public", Some("app")),
                ("\"My \"\"App\"\"\", public", Some("My \"App\"")),
                ("\"$user\", public", Some("$user")),
                ("", None),
                ("\"open", None),
            ] {
                assert_eq!(first_of(path).as_deref(), name, "{path}");
            }
        }
    }
}
