//! Whether retrying a transaction can help.

/// SQLSTATE (or class), and Postgres' English text for drivers that report only that. A class has no text.
const TRANSIENT: &[(&str, &str)] = &[
    // The connection was lost.
    ("08", ""),
    // The server ended a session that was idle in a transaction for too long.
    (
        "25P03",
        "terminating connection due to idle-in-transaction timeout",
    ),
    // The transaction conflicted with another one.
    ("40001", "could not serialize access"),
    ("40001", "canceling statement due to conflict with recovery"),
    (
        "40001",
        "terminating connection due to conflict with recovery",
    ),
    ("40P01", "deadlock detected"),
    // The server ended the session, shuts down or starts.
    (
        "57P01",
        "terminating connection due to administrator command",
    ),
    (
        "57P02",
        "terminating connection because of crash of another server process",
    ),
    ("57P03", "the database system is shutting down"),
    ("57P03", "the database system is starting up"),
    ("57P03", "the database system is in recovery mode"),
    (
        "57P03",
        "the database system is not yet accepting connections",
    ),
    (
        "57P05",
        "terminating connection due to idle-session timeout",
    ),
];

/// Returns whether a statement that failed with this SQLSTATE may succeed if its whole transaction is retried on a new
/// connection: the connection was lost (class 08), the server ended the session or restarts (25P03, 57P01, 57P02, 57P03,
/// 57P05), or the transaction conflicted with another one (40001, 40P01).
///
/// If the failed statement is `COMMIT`, the transaction may have been committed: retry only an idempotent one.
pub fn is_transient_sqlstate(sqlstate: &str) -> bool {
    TRANSIENT
        .iter()
        .any(|(known, _)| sqlstate.starts_with(known))
}

/// Like [`is_transient_sqlstate`], for drivers that report only the text, such as diesel's. On the platform, Postgres' messages are
/// English.
pub fn is_transient_message(message: &str) -> bool {
    TRANSIENT
        .iter()
        .any(|(_, text)| !text.is_empty() && message.contains(text))
}

/// Returns whether retrying the transaction on a new connection can help after this error of tokio-postgres: by its SQLSTATE, as
/// [`adapter::is_transient_sqlstate`](crate::adapter::is_transient_sqlstate), or because the connection was lost.
///
/// ```
/// # async fn book(client: &mut tokio_postgres::Client) -> Result<(), tokio_postgres::Error> { Ok(()) }
/// # async fn run(lakebase: lakebase_core::Lakebase) -> Result<(), Box<dyn std::error::Error>> {
/// for attempt in 1.. {
///     let (mut client, connection) = lakebase.connect().await?;
///     tokio::spawn(connection);
///     match book(&mut client).await {
///         // The connection may be lost, so the whole transaction runs again on a new one.
///         Err(error) if attempt < 3 && lakebase_core::is_transient(&error) => continue,
///         outcome => return Ok(outcome?),
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[cfg(feature = "tokio-postgres")]
pub fn is_transient(error: &tokio_postgres::Error) -> bool {
    use std::error::Error as _;

    if let Some(state) = error.code() {
        return is_transient_sqlstate(state.code());
    }
    let is_lost = || {
        error
            .source()
            .is_some_and(|source| source.is::<std::io::Error>())
    };
    error.is_closed() || is_lost()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sqlstates_of_lost_connections_restarts_and_conflicts_are_transient() {
        for (sqlstate, expected) in [
            ("08006", true),
            ("08P01", true),
            ("40001", true),
            ("40P01", true),
            ("57P01", true),
            ("57P03", true),
            ("57P05", true),
            ("25P03", true),
            ("25P02", false),
            ("57P04", false),
            ("57014", false),
            ("40002", false),
            ("23505", false),
            ("42P01", false),
            ("28P01", false),
            ("53300", false),
            ("XX000", false),
            ("", false),
        ] {
            assert_eq!(is_transient_sqlstate(sqlstate), expected, "{sqlstate}");
        }
    }
}
