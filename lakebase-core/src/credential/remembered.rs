//! A value that is found once.

use std::fmt;
use std::sync::OnceLock;

/// Holds no lock while somebody looks for the value, so a caller who stops being polled blocks nobody.
/// Two may look at the same time; the first value stays.
pub(crate) struct Remembered<T>(OnceLock<T>);

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<T: Clone> Remembered<T> {
    /// The value, or what `find` finds. A failure is not kept.
    pub(crate) async fn get_or_find<E>(
        &self,
        find: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        if let Some(value) = self.0.get() {
            return Ok(value.clone());
        }
        let found = find.await?;
        Ok(self.0.get_or_init(|| found).clone())
    }
}

impl<T> fmt::Debug for Remembered<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Remembered")
    }
}
