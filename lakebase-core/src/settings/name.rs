//! Names in Postgres.

use crate::error::Error;

/// Postgres cuts longer names without an error, and so would mean something else.
const LONGEST_NAME: usize = 63;

/// A name that Postgres keeps as it is.
pub(crate) fn check_name(field: &str, name: &str) -> Result<(), Error> {
    if name.len() <= LONGEST_NAME {
        return Ok(());
    }
    Err(Error::config(format!(
        "{field}: the name {name:?} has {} bytes; Postgres keeps only {LONGEST_NAME}",
        name.len()
    ))
    .with_hint("Choose a shorter name: names that begin alike would mean the same object"))
}

/// The name of one schema: no list, and none that Postgres reads as something else.
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
            "Write the bare name: it is quoted for you",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_is_one_name_that_postgres_keeps() {
        for schema in ["app", "My \"App\"", "Läden", "$users", "a.b"] {
            check_schema("LAKEBASE_SCHEMA", schema).unwrap_or_else(|error| panic!("{error}"));
        }
        let long = "é".repeat(32);
        for (schema, word) in [
            ("app,public", "list"),
            ("\"app\"", "bare name"),
            ("'app'", "bare name"),
            ("\"$user\"", "bare name"),
            (" app", "bare name"),
            ("$user", "each role"),
            ("", "empty"),
            ("pg_temp", "own schemas"),
            (long.as_str(), "64 bytes"),
        ] {
            let error = check_schema("LAKEBASE_SCHEMA", schema).expect_err(schema);
            let text = error.to_string();
            assert!(
                error.is_config() && text.contains("LAKEBASE_SCHEMA"),
                "{text}"
            );
            assert!(text.contains(word), "{schema}: {text}");
        }
    }
}
