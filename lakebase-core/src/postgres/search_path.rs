//! The search path of a role, with which sessions on a pooled host start.

use std::pin::pin;

use futures_util::future::{Either, select};
use postgres_protocol::escape::escape_identifier;
use tokio_postgres::SimpleQueryMessage;

use crate::error::Error;
use crate::error::foreign::clean_text;
use crate::postgres::login::{Login, LoginFailure};

/// The role's setting of the search path, for this database or else for all, and the current search path.
const PATHS: &str = "SELECT ( \
    SELECT pg_catalog.substr(setting, 13) \
    FROM pg_catalog.pg_db_role_setting, pg_catalog.unnest(setconfig) AS setting \
    WHERE setrole = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user) \
    AND setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database \
        WHERE datname = pg_catalog.current_database())) \
    AND setting LIKE 'search\\_path=%' ORDER BY setdatabase = 0 LIMIT 1), \
    pg_catalog.current_setting('search_path')";

/// Checks that sessions of the role start in the schema. It changes nothing.
pub(super) async fn check(schema: &str, login: &Login) -> Result<(), LoginFailure> {
    let (own, present) = paths(login).await?;
    if first_of(&present).as_deref() == Some(schema) {
        return Ok(());
    }
    let (role, database) = (login.target.user(), login.target.database());
    let statement = set_search_path(role, database, schema);
    let (what, hint) = match own {
        Some(path) if first_of(&path).as_deref() == Some(schema) => (
            format!("the pooler still has sessions that began before role {role:?} got its search path"),
            "It replaces them after an hour at most, unless configured otherwise: retry then, or restart the compute".to_owned(),
        ),
        Some(path) => (
            format!("the role {role:?} has the search path {} of its own, and a pooled host takes no other", clean_text(&path)),
            format!("Give each application a separate role; or, if no other program uses that path, run: {statement}"),
        ),
        None => (
            format!("a pooled host takes no search path, and the role {role:?} has none of its own"),
            format!("As that role or one that may alter it, run: {statement} (or `lakebase --schema '{schema}' grant '{role}' --search-path`)"),
        ),
    };
    let error = Error::config(format!("schema {schema:?}: {what}"));
    Err(LoginFailure::permanent(error.with_hint(hint)))
}

async fn paths(login: &Login) -> Result<(Option<String>, String), LoginFailure> {
    let (client, connection) = login.open().await?;
    // A simple query: a pooler may send the parts of an extended one to different sessions.
    let query = pin!(client.simple_query(PATHS));
    let outcome = match select(query, pin!(connection)).await {
        Either::Left((outcome, _)) => outcome,
        Either::Right((Err(error), _)) => return Err(LoginFailure::transport(error)),
        Either::Right((Ok(()), query)) => query.await,
    };
    let messages = outcome.map_err(|error| match error.as_db_error() {
        Some(db) => {
            let (code, message) = (db.code().code().to_owned(), db.message().to_owned());
            LoginFailure::postgres(code, message, error)
        }
        None => LoginFailure::transport(error),
    })?;
    let row = messages.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let row = row.ok_or_else(|| {
        LoginFailure::transport("Postgres returned no row for the query of the search path")
    })?;
    let text = |column| row.get(column).map(str::to_owned);
    Ok((text(0), text(1).unwrap_or_default()))
}

/// The first name of a search path, unquoted.
fn first_of(path: &str) -> Option<String> {
    let path = path.trim_start();
    let Some(quoted) = path.strip_prefix('"') else {
        let name = path.split(',').next()?.trim();
        return (!name.is_empty()).then(|| name.to_owned());
    };
    // Inside, quotes are doubled.
    let marked = quoted.replace("\"\"", "\0");
    let (name, _) = marked.split_once('"')?;
    Some(name.replace('\0', "\""))
}

/// The statement that sets a schema as the first one on a role's search path.
pub(crate) fn set_search_path(role: &str, database: &str, schema: &str) -> String {
    format!(
        "ALTER ROLE {} IN DATABASE {} SET search_path TO {}, public",
        escape_identifier(role),
        escape_identifier(database),
        escape_identifier(schema)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_name_of_a_search_path_is_parsed_with_and_without_quotes() {
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
