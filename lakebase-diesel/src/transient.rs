//! What errors mean: the cause inside them, and whether repeating a transaction can help.

use std::error::Error as StdError;

use diesel::ConnectionError;
use diesel::result::{DatabaseErrorKind, Error};
#[cfg(feature = "async")]
use diesel_async::pooled_connection::PoolError;
use lakebase_core::adapter::{find_cause, is_transient_message, says_transient};

/// How the messages of a driver begin if a statement could not be sent because of the statement itself.
const OWN_FAULTS: &[&str] = &[
    "error serializing",
    "error deserializing",
    "invalid column",
    "expected ",
];

/// Returns whether repeating the whole transaction on a new connection can succeed: the connection was lost, the compute
/// restarts or was suspended, the transaction lost against another one, the login failed for a passing reason, or all
/// connections of an async pool were busy.
///
/// Takes an error of diesel or of an async pool, or an error that has one among its sources.
///
/// If the reply to a `COMMIT` was lost, the transaction may have happened: repeat only what may happen twice.
/// `transaction_with_retry` takes care of that.
pub fn is_transient(error: &(dyn StdError + 'static)) -> bool {
    if let Some(cause) = cause(error) {
        return cause.is_transient();
    }
    #[cfg(feature = "bb8")]
    if let Some(crate::bb8::RunError::TimedOut) = find_cause(error) {
        return true;
    }
    #[cfg(feature = "deadpool")]
    if let Some(crate::deadpool::PoolError::Timeout(_)) = find_cause(error) {
        return true;
    }
    if let Some(error) = find(error) {
        return is_transient_statement(error);
    }
    match find(error) {
        Some(ConnectionError::BadConnection(text)) => says_transient(text),
        Some(ConnectionError::CouldntSetupConfiguration(error)) => is_transient_statement(error),
        _ => false,
    }
}

fn is_transient_statement(error: &Error) -> bool {
    match error {
        Error::DatabaseError(kind, information) => {
            let text = information.message();
            match kind {
                DatabaseErrorKind::SerializationFailure | DatabaseErrorKind::ClosedConnection => {
                    true
                }
                DatabaseErrorKind::UnableToSendCommand => {
                    !OWN_FAULTS.iter().any(|fault| text.starts_with(fault))
                }
                _ => is_transient_message(text),
            }
        }
        // The connection was lost during the transaction, so diesel does not know the transaction's state.
        Error::BrokenTransactionManager => true,
        Error::RollbackErrorOnCommit { commit_error, .. } => is_transient_statement(commit_error),
        // The application's error, for example of a pool.
        Error::QueryBuilderError(inside) => is_transient(inside.as_ref()),
        _ => false,
    }
}

/// Returns the [`Error`](lakebase_core::Error) of a failed login: from inside an error of diesel or of an async pool, or
/// of any error that has one among its sources.
///
/// ```
/// # fn handle(error: &diesel::ConnectionError) -> bool {
/// lakebase_diesel::cause(error).is_some_and(|cause| cause.is_login())
/// # }
/// ```
///
/// Errors of libpq, and so those of `r2d2`'s pool, keep only its text.
pub fn cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a lakebase_core::Error> {
    find(error)
}

fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let outside = find_cause(error);
    #[cfg(feature = "async")]
    let outside = outside.or_else(|| {
        // diesel-async's error has no source.
        let inside: &(dyn StdError + 'static) = match find_cause(error)? {
            PoolError::ConnectionError(inside) => inside,
            PoolError::QueryError(inside) => inside,
        };
        find(inside)
    });
    outside
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(kind: DatabaseErrorKind, text: &str) -> Error {
        Error::DatabaseError(kind, Box::new(text.to_owned()))
    }

    #[test]
    fn losses_and_conflicts_are_transient_and_mistakes_are_not() {
        use DatabaseErrorKind::{
            ClosedConnection, SerializationFailure, UnableToSendCommand, UniqueViolation, Unknown,
        };
        for (kind, text, expected) in [
            (SerializationFailure, "could not serialize access", true),
            (ClosedConnection, "connection closed", true),
            (UnableToSendCommand, "connection closed", true),
            (UnableToSendCommand, "error serializing parameter 0", false),
            (Unknown, "deadlock detected", true),
            (
                Unknown,
                "terminating connection due to administrator command",
                true,
            ),
            (
                Unknown,
                "terminating connection due to idle-in-transaction timeout",
                true,
            ),
            (Unknown, "relation \"x\" does not exist", false),
            (UniqueViolation, "duplicate key", false),
        ] {
            assert_eq!(is_transient(&error(kind, text)), expected, "{text}");
        }
        assert!(!is_transient(&Error::NotFound));
        assert!(is_transient(&Error::BrokenTransactionManager));
    }
}
