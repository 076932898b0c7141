//! What one idle connection that went silent says about the others.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use diesel::result::{DatabaseErrorKind, Error};

/// What is known of idle connections that went silent.
#[derive(Default)]
pub(crate) struct Suspicion {
    /// What has not been heard from after that is not worth waiting for.
    silent_since: Mutex<Option<Duration>>,
}

impl Suspicion {
    /// Refuses a connection that was last heard from then, if it is as silent as one that is dead.
    pub(crate) fn check(&self, last: Duration) -> Result<(), Error> {
        match *self.slot() {
            Some(silent) if last <= silent => {
                Err(closed("the connection is as silent as one that is dead"))
            }
            _ => Ok(()),
        }
    }

    /// A connection that has been silent since then does not answer.
    pub(crate) fn note(&self, since: Duration) {
        let mut silent = self.slot();
        if silent.is_none_or(|silent| since > silent) {
            *silent = Some(since);
        }
    }

    fn slot(&self) -> MutexGuard<'_, Option<Duration>> {
        self.silent_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn closed(message: &str) -> Error {
    Error::DatabaseError(
        DatabaseErrorKind::ClosedConnection,
        Box::new(message.to_owned()),
    )
}
