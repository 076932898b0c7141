//! A value that is found once.

use std::fmt;
use std::sync::{Mutex, PoisonError};

/// Unlike a cell that initialises itself, it holds no lock while a caller looks for the value, so a caller that is no
/// longer polled blocks no other. Two callers may look at the same time; the first value stays.
pub(crate) struct Remembered<T>(Mutex<Option<T>>);

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T: Clone> Remembered<T> {
    pub(crate) fn get(&self) -> Option<T> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Keeps the value unless there is one; returns the one that is kept.
    pub(crate) fn keep(&self, value: T) -> T {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.get_or_insert(value).clone()
    }

    /// The value, or what `find` finds. A failure is not kept.
    pub(crate) async fn get_or_find<E>(
        &self,
        find: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        match self.get() {
            Some(value) => Ok(value),
            None => Ok(self.keep(find.await?)),
        }
    }
}

impl<T> fmt::Debug for Remembered<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Remembered")
    }
}
