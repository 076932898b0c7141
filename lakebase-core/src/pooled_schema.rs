//! The search path behind a pooler.
//!
//! The built-in pooler takes no startup options, and a setting of a session would end up with whoever gets
//! that session next. What it does honour is what Postgres itself knows about the role: each connection of
//! the pooler begins with it.

use crate::login::{Login, LoginFailure};
use crate::{Error, Lakebase};

impl Lakebase {
    /// Puts the configured schema first on the role's own search path in this database, once per process,
    /// if the host is a pooled one. A path that somebody else has chosen for the role is left alone.
    #[cfg(feature = "tokio-postgres")]
    pub(crate) async fn see_to_the_schema(&self, login: &Login) -> Result<(), LoginFailure> {
        let (Some(schema), true) = (self.schema(), login.target.is_pooled()) else {
            return Ok(());
        };
        let done = self.path_of_role_is_set();
        done.get_or_find(with_driver::see_to(schema, login)).await
    }

    /// Without a driver nothing can be done about it.
    #[cfg(not(feature = "tokio-postgres"))]
    pub(crate) async fn see_to_the_schema(&self, login: &Login) -> Result<(), LoginFailure> {
        match self.schema() {
            Some(_) if login.target.is_pooled() => Err(LoginFailure::permanent(
                Error::config("schema: a pooled host takes no search path").with_hint(
                    "Set it on the role (ALTER ROLE .. SET search_path) and leave it out here",
                ),
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(feature = "tokio-postgres")]
mod with_driver {
    use futures_util::future::{Either, select};
    use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

    use super::{Error, Login, LoginFailure};
    use crate::sql::quote_ident;

    /// Replicas that start together would change the same row at the same time. Held until the transaction
    /// ends, which a pooler keeps in one session.
    const BEGIN: &str = "BEGIN; SELECT pg_advisory_xact_lock(x'6c616b6573636865'::bigint)";

    const PATHS: &str = "SELECT current_setting('search_path'), current_database(), \
        (SELECT setdatabase <> 0 FROM role_paths LIMIT 1), (SELECT path FROM role_paths LIMIT 1)";

    const ROLE_PATHS: &str = "WITH role_paths AS ( \
        SELECT setdatabase, substr(setting, 13) AS path \
        FROM pg_db_role_setting, unnest(setconfig) AS setting \
        WHERE setrole = (SELECT oid FROM pg_roles WHERE rolname = current_user) \
        AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())) \
        AND setting LIKE 'search\\_path=%' ORDER BY setdatabase = 0)";

    pub(super) async fn see_to(schema: &str, login: &Login) -> Result<(), LoginFailure> {
        let (client, connection) = login.open().await?;
        let work = std::pin::pin!(set(&client, schema, login));
        match select(work, std::pin::pin!(connection)).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right((Err(error), _)) => Err(LoginFailure::transport(error)),
            Either::Right((Ok(()), work)) => work.await,
        }
    }

    async fn set(client: &Client, schema: &str, login: &Login) -> Result<(), LoginFailure> {
        ask(client, BEGIN).await?;
        let Some(row) = ask(client, &format!("{ROLE_PATHS} {PATHS}")).await? else {
            return Err(LoginFailure::transport(
                "Postgres did not answer a question",
            ));
        };
        let column = |index| row.get(index).unwrap_or_default();
        let (here, database) = (column(0), quote_ident(column(1)));
        match row.get(3) {
            Some(path) if first_of(path).as_deref() == Some(schema) => {}
            Some(path) => {
                let within = match column(2) {
                    "t" => format!(" IN DATABASE {database}"),
                    _ => String::new(),
                };
                let role = login.target.user();
                return Err(LoginFailure::permanent(
                    Error::config(format!(
                        "schema: the role {role:?} has the search path {path} of its own, and a pooled host takes no other"
                    ))
                    .with_hint(format!(
                        "Give each application a role of its own; or, if nobody else uses that path, run: ALTER ROLE {}{within} RESET search_path",
                        quote_ident(role)
                    )),
                ));
            }
            None => {
                let schema = quote_ident(schema);
                let change = format!(
                    "ALTER ROLE CURRENT_USER IN DATABASE {database} SET search_path TO {schema}, public"
                );
                ask(client, &change).await?;
                tracing::info!(target = %login.target, schema, "set the role's search path");
            }
        }
        ask(client, "COMMIT").await?;
        if first_of(here).as_deref() == Some(schema) {
            return Ok(());
        }
        // This session began before the change, and the pooler would hand it to us again.
        let end = "SELECT pg_terminate_backend(pg_backend_pid())";
        let ended = ask(client, end).await.err();
        Err(ended.unwrap_or_else(|| LoginFailure::transport("a session with the old search path")))
    }

    /// Simple queries: a pooler may take prepared statements elsewhere.
    async fn ask(client: &Client, sql: &str) -> Result<Option<SimpleQueryRow>, LoginFailure> {
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
