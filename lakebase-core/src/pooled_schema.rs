//! The search path behind a pooler.
//!
//! The built-in pooler takes no startup options, and a setting of a session would end up with whoever gets
//! that session next. What it does honour is what Postgres itself knows about the role: each connection of
//! the pooler begins with it.

use futures_util::future::{Either, select};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::error::Kind;
use crate::login::{Login, LoginFailure};
use crate::sql::{quote_ident, quote_literal};
use crate::{Error, Lakebase};

impl Lakebase {
    /// Puts the configured schema first on the role's own search path in this database, once per process,
    /// if the host is a pooled one. A path that somebody else has chosen for the role is left alone.
    pub(crate) async fn set_search_path_of_role(&self, login: &Login) -> Result<(), Error> {
        let (Some(schema), true) = (self.schema(), login.target.is_pooled()) else {
            return Ok(());
        };
        let done = self.path_of_role_is_set();
        done.get_or_find(async {
            let opened = login.open().await;
            let (client, connection) =
                opened.map_err(|failure| self.describe_failure(failure, &login.target))?;
            let work = std::pin::pin!(set(&client, schema, login));
            match select(work, std::pin::pin!(connection)).await {
                Either::Left((outcome, _)) => outcome,
                Either::Right((ended, work)) => match ended {
                    Err(error) => {
                        let failure = LoginFailure::transport(error);
                        Err(self.describe_failure(failure, &login.target))
                    }
                    Ok(()) => work.await,
                },
            }
        })
        .await
    }
}

async fn set(client: &Client, schema: &str, login: &Login) -> Result<(), Error> {
    let target = &login.target;
    let failed = |error: tokio_postgres::Error| {
        let sqlstate = error.code().map(|code| code.code().to_owned());
        Error::new(
            Kind::Database,
            format!("cannot put the schema {schema:?} on the search path of {target}"),
        )
        .with_transient(crate::is_transient(&error) || sqlstate.as_deref() == Some("XX000"))
        .with_hint(match sqlstate.as_deref() {
            Some("25006") => "A host for reading cannot: log in once through the one for writing",
            _ => "A pooled host takes no search path; the role has to have it",
        })
        .with_sqlstate(sqlstate.as_deref())
        .with_source(error)
    };
    // Simple queries: their answers come from one connection of the pooler.
    let question = format!(
        "SELECT quote_ident({}), \
         (SELECT substr(setting, 13) FROM pg_db_role_setting, unnest(setconfig) AS setting \
          WHERE setrole = (SELECT oid FROM pg_roles WHERE rolname = current_user) \
          AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())) \
          AND setting LIKE 'search\\_path=%' ORDER BY setdatabase = 0 LIMIT 1), \
         quote_ident(current_database())",
        quote_literal(schema)
    );
    let answer = client.simple_query(&question).await.map_err(failed)?;
    let row = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let [wanted, known, database] = [0, 1, 2].map(|column| row.and_then(|row| row.get(column)));
    match known {
        Some(path) if wanted.is_some_and(|wanted| leads(path, wanted)) => return Ok(()),
        Some(path) => {
            return Err(Error::config(format!(
                "schema: the role {:?} has the search path {path} of its own, and a pooled host takes no other",
                target.user()
            ))
            .with_hint("Give each application a role of its own, or run ALTER ROLE .. RESET search_path"));
        }
        None => {}
    }
    let change = format!(
        "ALTER ROLE CURRENT_USER IN DATABASE {} SET search_path TO {}, public",
        database.unwrap_or_default(),
        quote_ident(schema)
    );
    client.simple_query(&change).await.map_err(failed)?;
    tracing::info!(%target, schema, "the role's search path is set: connections that the pooler opens from now on have it");
    Ok(())
}

/// Whether a search path, as Postgres writes it, begins with a name, as Postgres writes it.
fn leads(path: &str, name: &str) -> bool {
    match path.strip_prefix(name) {
        Some(rest) => rest.is_empty() || rest.starts_with(','),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_name_of_a_path_counts() {
        for (path, name, expected) in [
            ("app", "app", true),
            ("app, public", "app", true),
            ("\"My App\", public", "\"My App\"", true),
            ("apps, public", "app", false),
            ("public, app", "app", false),
        ] {
            assert_eq!(leads(path, name), expected, "{path} {name}");
        }
    }
}
