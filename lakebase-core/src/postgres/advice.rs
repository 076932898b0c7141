//! What to do about a statement that Postgres rejected.

use std::error::Error as StdError;

use crate::error::{Error, Kind};
use crate::postgres::transient::{is_transient, is_transient_sqlstate};

/// Returns advice for the person who reads the error, by SQLSTATE and message, for statements that create or change
/// objects (migrations, grants). `None` where the message is enough.
///
/// Two rules of the platform surprise most: an app's service principal has no privileges on `public`, and only the role
/// that created a table may change it ("deploy first").
pub fn advice(sqlstate: &str, message: &str) -> Option<&'static str> {
    let message = message.to_lowercase();
    let has = |text: &str| message.contains(text);
    Some(match sqlstate {
        "42501" if has("schema public") => {
            "An app's service principal has no privileges on public: choose a schema of its own (LAKEBASE_SCHEMA) and let it create that"
        }
        "42501"
            if has("must be owner") || has("must be member") || has("must be able to set role") =>
        {
            "Only the owner may do this, which is the role that created the object. Let the service principal deploy first, or let both roles share an owner (`lakebase grant ROLE --shared-owner OWNER`; migrations then take `owner(OWNER)`)"
        }
        "42501" if has("row-level security policy") => {
            "Row-level security: the row must match a policy of the table (pg_policies shows them), and the role must be the one that the policy names; programs that read whole tables, such as pg_dump, need a role that policies do not restrict"
        }
        "42501" if has("default privileges") => {
            "Default privileges of a role are set by that role itself, or by a member of it"
        }
        "42501" if has("create role") || has("create_role") => {
            "Roles are created by an identity with CAN MANAGE on the project, logged in with a token, whose own role may create roles"
        }
        "42501" if has("databricks_auth") => {
            "The first role in a database needs CREATE on it, for the extension databricks_auth: let the project's owner do it once"
        }
        "42501" if has("permission denied for database") => {
            "A role needs CREATE on the database to create a schema: let the database's owner run `lakebase grant ROLE --deploy`, or create the schema once"
        }
        "42501" => {
            "The role lacks the privilege: the owner of the object has to GRANT it, or choose a schema of its own (LAKEBASE_SCHEMA) and let it deploy first"
        }
        "42P07" | "42701" => {
            "It exists already: the migration was applied by hand, or its history is in another schema"
        }
        "25001" => {
            "This statement must run alone and outside of a transaction: give it a file of its own with no other statement in it, and no transaction (diesel: `run_in_transaction = false` in metadata.toml; SeaORM: `use_transaction` returns Some(false), and one `execute_unprepared` for each such statement)"
        }
        "55P04" => {
            "A new value of an enum can be used only after the transaction that adds it: use it in the next migration"
        }
        "22023" if has("identity") => {
            "The workspace does not know this identity as that kind: a user is an e-mail, a service principal its client id, a group its name, all case-sensitive"
        }
        "42883" if has("databricks_") => {
            "The extension is missing in this database, or in a schema that is not on the search path (\\dx shows it): CREATE EXTENSION IF NOT EXISTS databricks_auth"
        }
        "42704" if has("role") => {
            "Create the role first: `lakebase grant ROLE --create ..`, or databricks_create_role"
        }
        "42P01" if has("relation") => {
            "There is no such table, view or sequence. Check that it is spelled as in the database, in the right schema, and deployed"
        }
        "0L000" => {
            "The role that grants must own the object, have the privilege WITH GRANT OPTION, or be a member of such a role"
        }
        "3F000" => "Create the schema first, as the role that is to own it",
        "55P03" => "Another session holds a lock, perhaps a migration: try again when it has ended",
        "0LP01" if has("privilege type") => "This privilege does not exist for this kind of object",
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
        // Without the driver's own text before it.
        Some(source) => failed.caused_by(&*source, &[]),
        None => failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_fits_the_refusal() {
        for line in [
            "42501 permission denied for schema public => LAKEBASE_SCHEMA",
            "42501 must be owner of table orders => deploy first",
            "42501 must be able to SET ROLE \"m\" => --shared-owner",
            "42501 new row violates row-level security policy for table \"notes\" => pg_policies",
            "42501 permission denied to create role => CAN MANAGE",
            "42501 permission denied to create extension \"databricks_auth\" => CREATE on it",
            "42501 permission denied for database databricks_postgres => --deploy",
            "42501 permission denied for table orders => GRANT",
            "42P01 relation \"ordres\" does not exist => spelled",
            "0L000 invalid grantor => grants",
            "22023 identity \"x\" not found => client id",
            "42883 function databricks_create_role(unknown) does not exist => CREATE EXTENSION",
            "42704 role \"x\" does not exist => databricks_create_role",
            "25001 CREATE INDEX CONCURRENTLY cannot run inside a transaction block => run_in_transaction = false",
            "55P04 unsafe use of new value => next migration",
            "3F000 schema \"x\" does not exist => schema first",
            "42P07 relation \"x\" already exists => by hand",
        ] {
            let (refusal, word) = line.split_once(" => ").expect("advice");
            let (sqlstate, message) = refusal.split_once(' ').expect("a message");
            let advice = advice(sqlstate, message).unwrap_or_default();
            assert!(advice.contains(word), "{line}: {advice}");
        }
        assert_eq!(advice("23505", "duplicate key"), None);
        assert_eq!(advice("22023", "value 1000 out of bounds for option"), None);
        assert_eq!(advice("42883", "function lower(json) does not exist"), None);
    }
}
