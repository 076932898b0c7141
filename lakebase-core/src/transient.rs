//! Whether repeating a transaction can help. Nothing here repeats one.

/// Whether a statement that failed with this SQLSTATE may succeed if its whole transaction is repeated:
/// the connection was lost (class 08), the server ended it, shut down or is starting (57P01, 57P02, 57P03,
/// 57P05), the transaction lost against another one (40001, 40P01).
///
/// What failed is the connection or the timing, not the statement. But if it was the `COMMIT` whose
/// answer was lost, the transaction may have happened: repeat only what may happen twice.
pub fn is_transient_sqlstate(sqlstate: &str) -> bool {
    sqlstate.starts_with("08")
        || matches!(
            sqlstate,
            "40001" | "40P01" | "57P01" | "57P02" | "57P03" | "57P05"
        )
}

/// The same for an error of tokio-postgres: by its SQLSTATE, or because the connection was lost.
///
/// ```
/// # async fn book(client: &mut tokio_postgres::Client) -> Result<(), tokio_postgres::Error> { Ok(()) }
/// # async fn run(lakebase: lakebase_core::Lakebase) -> Result<(), Box<dyn std::error::Error>> {
/// for attempt in 1.. {
///     let (mut client, connection) = lakebase.connect().await?;
///     tokio::spawn(connection);
///     match book(&mut client).await {
///         // The connection may be gone: a new one, and the whole transaction again.
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
    let lost_contact = || {
        error
            .source()
            .is_some_and(|source| source.is::<std::io::Error>())
    };
    error.is_closed() || lost_contact()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_new_attempt_cannot_change_is_not_transient() {
        for (sqlstate, expected) in [
            ("08006", true),
            ("08P01", true),
            ("40001", true),
            ("40P01", true),
            ("57P01", true),
            ("57P03", true),
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
