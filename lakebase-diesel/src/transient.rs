//! What errors mean: the cause inside them, and whether repeating a transaction can help.

use std::error::Error as StdError;
use std::io;

use diesel::ConnectionError;
use diesel::result::{DatabaseErrorKind, Error};
#[cfg(feature = "async")]
use diesel_async::pooled_connection::PoolError;
use lakebase_core::adapter::{is_transient_message, says_transient};

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
    if let Some(crate::bb8::RunError::TimedOut) = find(error) {
        return true;
    }
    #[cfg(feature = "deadpool")]
    if let Some(crate::deadpool::PoolError::Timeout(_)) = find(error) {
        return true;
    }
    if let Some(error) = find(error) {
        return is_transient_statement(error);
    }
    matches!(find(error), Some(ConnectionError::BadConnection(text)) if says_transient(text))
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

/// The first error of type `E` among an error, the errors inside it and its sources.
fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = inside(error).or_else(|| error.source());
    }
    None
}

/// The error inside another one, which the `source` of the other one skips.
fn inside<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return Some(error.get_ref()?);
    }
    #[cfg(feature = "async")]
    if let Some(error) = error.downcast_ref() {
        return Some(match error {
            PoolError::ConnectionError(inside) => inside,
            PoolError::QueryError(inside) => inside,
        });
    }
    if let Some(ConnectionError::CouldntSetupConfiguration(inside)) = error.downcast_ref() {
        return Some(inside);
    }
    match error.downcast_ref()? {
        Error::QueryBuilderError(inside)
        | Error::DeserializationError(inside)
        | Error::SerializationError(inside) => Some(&**inside),
        _ => None,
    }
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

    #[cfg(feature = "async")]
    #[test]
    fn the_cause_is_the_outermost_error_also_around_and_inside_an_error_of_an_async_pool() {
        let inside = lakebase_core::Error::timeout("inside");
        let failed =
            ConnectionError::CouldntSetupConfiguration(Error::QueryBuilderError(Box::new(inside)));
        let pool = PoolError::ConnectionError(failed);
        assert!(cause(&pool).is_some_and(lakebase_core::Error::is_timeout));
        assert!(is_transient(&pool));
        let outside = lakebase_core::Error::config("outside").with_source(pool);
        let wrapped = Error::QueryBuilderError(Box::new(outside));
        assert!(cause(&wrapped).is_some_and(lakebase_core::Error::is_config));
        assert!(!is_transient(&wrapped));
    }

    #[test]
    fn an_error_inside_an_error_of_the_application_decides() {
        let wrapped = |error: Error| Error::QueryBuilderError(Box::new(error));
        let conflict = error(DatabaseErrorKind::SerializationFailure, "conflict");
        assert!(is_transient(&wrapped(conflict)));
        assert!(!is_transient(&wrapped(Error::NotFound)));
        #[cfg(feature = "bb8")]
        {
            let full = crate::bb8::RunError::TimedOut;
            assert!(is_transient(&Error::QueryBuilderError(Box::new(full))));
        }
    }
}
