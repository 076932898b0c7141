//! Whether repeating a transaction can help. Nothing here repeats one.

use std::error::Error as StdError;

use diesel::ConnectionError;
use diesel::result::{DatabaseErrorKind, Error};
#[cfg(feature = "async")]
use diesel_async::pooled_connection::PoolError;

/// What a driver says of statements that it could not send for reasons of their own.
const OWN_FAULTS: &[&str] = &[
    "error serializing",
    "error deserializing",
    "invalid column",
    "expected ",
];

/// Whether the whole transaction may succeed if it is repeated, on a new connection: this one was lost,
/// the compute restarts or was suspended, or another transaction was in the way.
///
/// If it was the `COMMIT` whose answer was lost, the transaction may have happened: repeat only what may
/// happen twice. `transaction_with_retry` minds that.
pub fn is_transient(error: &Error) -> bool {
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
                _ => lakebase_core::adapter::is_transient_message(text),
            }
        }
        // The connection broke in the middle, and with it what diesel knew of the transaction.
        Error::BrokenTransactionManager => true,
        Error::RollbackErrorOnCommit { commit_error, .. } => is_transient(commit_error),
        // There was no connection.
        Error::QueryBuilderError(_) => cause(error).is_some_and(lakebase_core::Error::is_transient),
        _ => false,
    }
}

/// The same for a connection that a pool could not open. Knows the errors of this crate only.
pub fn is_transient_connection_error(error: &ConnectionError) -> bool {
    match error {
        ConnectionError::BadConnection(text) => lakebase_core::adapter::says_transient(text),
        ConnectionError::CouldntSetupConfiguration(error) => is_transient(error),
        _ => false,
    }
}

/// Our error inside one of diesel's, of its pools' or of anything that has it among its sources.
///
/// ```
/// # fn handle(error: &diesel::ConnectionError) -> bool {
/// lakebase_diesel::cause(error).is_some_and(|cause| cause.is_login())
/// # }
/// ```
///
/// What libpq reports has lost it: of an error of [`r2d2`](crate::r2d2)'s pool, the text is left.
pub fn cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a lakebase_core::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(own) = error.downcast_ref() {
            return Some(own);
        }
        // Its source is none.
        #[cfg(feature = "async")]
        if let Some(PoolError::ConnectionError(inner)) = error.downcast_ref() {
            next = Some(inner);
            continue;
        }
        next = error.source();
    }
    None
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
