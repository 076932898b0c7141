//! Advice for statements that Postgres rejected.

use std::error::Error as StdError;

use crate::error::{Error, Kind};
use crate::postgres::transient::{is_transient, is_transient_sqlstate};

/// Returns advice for a rejected statement that creates or changes objects (migrations, grants), by SQLSTATE and message; `None`
/// where Postgres' message is enough.
///
/// Two rules of the platform cause most of these errors: an app's service principal has no privileges on `public`, and only the role
/// that created a table may change it ("deploy first").
pub fn advice(sqlstate: &str, message: &str) -> Option<&'static str> {
    let message = message.to_lowercase();
    let has = |text: &str| message.contains(text);
    Some(match sqlstate {
        "42501" if has("schema public") => {
            "An app's service principal has no privileges on public: set LAKEBASE_SCHEMA to another schema, which the service principal creates and owns"
        }
        "42501"
            if has("must be owner") || has("must be member") || has("must be able to set role") =>
        {
            "Only the owner, the role that created the object, may do this. Let the service principal deploy first, or let both roles share an owner (`lakebase grant ROLE --shared-owner OWNER`; migrations then need `owner(OWNER)`)"
        }
        "42501" if has("row-level security policy") => {
            "Row-level security: the row must match a policy of the table for this role (pg_policies lists them); programs that read whole tables, such as pg_dump, need a role that policies do not restrict"
        }
        "42501" if has("default privileges") => {
            "Only the role itself, or a member of it, can set its default privileges"
        }
        "42501" if has("create role") || has("create_role") => {
            "To create roles, log in with a token of an identity that has CAN MANAGE on the project and whose role may create roles"
        }
        "42501" if has("databricks_auth") => {
            "Creating the first role in a database needs CREATE on the database, for the extension databricks_auth: let the project's owner do it once"
        }
        "42501" if has("permission denied for database") => {
            "To create a schema, a role needs CREATE on the database: let the database's owner run `lakebase grant ROLE --deploy`, or create the schema once"
        }
        "42501" => {
            "The role lacks the privilege: the owner of the object has to GRANT it; or set LAKEBASE_SCHEMA to a schema of the role, and let it deploy first"
        }
        "42P07" | "42701" => {
            "The object exists already: the migration was applied by hand, or its history is in another schema"
        }
        "25001" => {
            "This statement must run alone and outside of a transaction: put it alone into a migration without a transaction (diesel: `run_in_transaction = false` in metadata.toml; SeaORM: `use_transaction` returns Some(false), and one `execute_unprepared` for each such statement)"
        }
        "55P04" => {
            "A new value of an enum can be used only after the transaction that adds it: use it in the next migration"
        }
        "22023" if has("identity") => {
            "The workspace has no identity of this name and kind: use the e-mail of a user, the client id of a service principal, or the name of a group (case-sensitive)"
        }
        "42883" if has("databricks_") => {
            "The extension is missing in this database, or in a schema that is not on the search path (\\dx shows it): CREATE EXTENSION IF NOT EXISTS databricks_auth"
        }
        "42704" if has("role") => {
            "Create the role first: `lakebase grant ROLE --create ..`, or databricks_create_role"
        }
        "42P01" if has("relation") => {
            "No such table, view or sequence exists. Check its spelling and schema, and that it is deployed"
        }
        "0L000" => {
            "The role that grants must own the object, have the privilege WITH GRANT OPTION, or be a member of a role that does"
        }
        "3F000" => "Create the schema first, as the role that will own it",
        "55P03" => "Another session, perhaps a migration, holds a lock: retry when it has ended",
        "0LP01" if has("privilege type") => "This kind of object does not have this privilege",
        _ => return None,
    })
}

/// The error for a statement that Postgres rejected, with advice.
pub(crate) fn rejected(
    what: impl Into<String>,
    sqlstate: &str,
    message: &str,
    cause: &(dyn StdError + 'static),
) -> Error {
    let error = Error::new(Kind::Database, what)
        .with_sqlstate(Some(sqlstate))
        .with_transient(is_transient_sqlstate(sqlstate))
        .caused_by(cause, &[]);
    match advice(sqlstate, message) {
        Some(advice) => error.with_hint(advice),
        None => error,
    }
}

/// The error for a statement that failed on tokio-postgres, with advice if Postgres rejected it.
pub(crate) fn database_error(what: impl Into<String>, error: tokio_postgres::Error) -> Error {
    if let Some(db) = error.as_db_error() {
        return rejected(what, db.code().code(), db.message(), db);
    }
    let failed = Error::new(Kind::Database, what).with_transient(is_transient(&error));
    match error.into_source() {
        // Without the driver's text, which only names the kind of failure.
        Some(source) => failed.caused_by(&*source, &[]),
        None => failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_depends_on_sqlstate_and_message() {
        for line in [
            "42501 permission denied for schema public => LAKEBASE_SCHEMA",
            "42501 must be owner of table orders => deploy first",
            "42501 must be able to SET ROLE \"m\" => --shared-owner",
            "42501 new row violates row-level security policy for table \"notes\" => pg_policies",
            "42501 permission denied to create role => CAN MANAGE",
            "42501 permission denied to create extension \"databricks_auth\" => CREATE on the database",
            "42501 permission denied for database databricks_postgres => --deploy",
            "42501 permission denied for table orders => GRANT",
            "42P01 relation \"ordres\" does not exist => spelling",
            "0L000 invalid grantor => GRANT OPTION",
            "22023 identity \"x\" not found => client id",
            "42883 function databricks_create_role(unknown) does not exist => CREATE EXTENSION",
            "42704 role \"x\" does not exist => databricks_create_role",
            "25001 CREATE INDEX CONCURRENTLY cannot run inside a transaction block => run_in_transaction = false",
            "55P04 unsafe use of new value => next migration",
            "3F000 schema \"x\" does not exist => schema first",
            "42P07 relation \"x\" already exists => by hand",
        ] {
            let (rejection, word) = line.split_once(" => ").expect("advice");
            let (sqlstate, message) = rejection.split_once(' ').expect("a message");
            let advice = advice(sqlstate, message).unwrap_or_default();
            assert!(advice.contains(word), "{line}: {advice}");
        }
        assert_eq!(advice("23505", "duplicate key"), None);
        assert_eq!(advice("22023", "value 1000 out of bounds for option"), None);
        assert_eq!(advice("42883", "function lower(json) does not exist"), None);
    }
}
