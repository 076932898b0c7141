//! Rules for names in Postgres.

use crate::error::Error;

/// Postgres truncates longer names without an error.
const LONGEST_NAME: usize = 63;

/// Rejects a name that Postgres would truncate.
pub(crate) fn check_name(field: &str, name: &str) -> Result<(), Error> {
    if name.len() <= LONGEST_NAME {
        return Ok(());
    }
    Err(Error::config(format!(
        "{field}: the name {name:?} has {} bytes; Postgres keeps only {LONGEST_NAME}",
        name.len()
    ))
    .with_hint("Choose a shorter name: Postgres would truncate this one"))
}

/// Rejects lists of schemas, quoted names and names with a meaning of their own.
pub(crate) fn check_schema(field: &str, schema: &str) -> Result<(), Error> {
    let wrong = |what: &str, hint: &str| {
        Err(Error::config(format!("{field}: {schema:?} {what}")).with_hint(hint))
    };
    if schema.trim().is_empty() {
        return wrong("is empty", "Name one schema, or leave the setting out");
    }
    if schema.contains(',') {
        return wrong(
            "is a list, or a name with a comma",
            "Name the one schema of the application; `public` follows it on the search path anyway",
        );
    }
    if schema.trim() != schema || schema.starts_with(['"', '\'']) {
        return wrong(
            "begins or ends with a space or a quote",
            "Write the name without quotes and spaces around it",
        );
    }
    if schema == "$user" {
        return wrong(
            "means another schema for each role",
            "Name the schema itself",
        );
    }
    if schema.starts_with("pg_") || schema == "information_schema" {
        return wrong(
            "is one of Postgres' own schemas",
            "Name a schema of the application",
        );
    }
    check_name(field, schema)
}
