//! Passes values to an exporter that cannot read them later.

use std::sync::{Arc, PoisonError, RwLock};

/// At most one function; setting another one replaces it.
pub(crate) struct Listener<F: ?Sized>(RwLock<Option<Arc<F>>>);

impl<F: ?Sized> Listener<F> {
    pub(crate) fn get(&self) -> Option<Arc<F>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    #[cfg(feature = "opentelemetry")]
    pub(crate) fn set(&self, listener: Arc<F>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(listener);
    }

    /// Has no effect if another one has replaced it.
    #[cfg(feature = "opentelemetry")]
    pub(crate) fn remove(&self, listener: &Arc<F>) {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        current.take_if(|current| Arc::ptr_eq(current, listener));
    }
}

impl<F: ?Sized> Default for Listener<F> {
    fn default() -> Self {
        Self(RwLock::new(None))
    }
}
