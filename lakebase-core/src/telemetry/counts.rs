//! The counters behind [`Stats`](super::Stats).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
#[cfg(feature = "opentelemetry")]
use std::time::Duration;

use super::durations::Durations;
#[cfg(feature = "opentelemetry")]
use super::listener::Listener;
use crate::error::{Error, Kind};

/// The counters of an application: of its handle, the clones, and the handles of its users.
#[derive(Default)]
pub(crate) struct Counts {
    /// All mints, including failed ones.
    pub(crate) mints: Arc<Durations>,
    pub(crate) failed_mints: AtomicU64,
    /// Successful logins, including the wait for a credential.
    pub(crate) logins: Durations,
    failed_logins: [AtomicU64; Kind::ALL.len()],
    pub(crate) logging_in: AtomicU64,
    pub(crate) login_attempts: AtomicU64,
    pub(crate) sessions: AtomicU64,
    pub(crate) sessions_begun: AtomicU64,
    /// Receives the statements that adapters report.
    #[cfg(feature = "opentelemetry")]
    pub(crate) operations: Listener<OnOperation>,
}

impl Counts {
    /// The counters of another database, which shares the mints.
    pub(crate) fn of_database(&self) -> Self {
        Self {
            mints: Arc::clone(&self.mints),
            ..Self::default()
        }
    }

    pub(crate) fn count_failed_login(&self, error: &Error) {
        self.failed_logins[error.kind() as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Failed logins by the kind of error, without zeros.
    pub(crate) fn failed_logins(&self) -> BTreeMap<&'static str, u64> {
        let counts = Kind::ALL.iter().zip(&self.failed_logins);
        let counts = counts.map(|(kind, count)| (kind.name(), count.load(Ordering::Relaxed)));
        counts.filter(|(_, count)| *count > 0).collect()
    }
}

/// Receives each statement that has run, with its duration, and `Some` if it failed, with the SQLSTATE if there is one.
#[cfg(feature = "opentelemetry")]
pub(crate) type OnOperation = dyn Fn(&str, Duration, Option<Option<&str>>) + Send + Sync;

/// Increments a gauge as long as it exists.
pub(crate) struct Running(Arc<Counts>, fn(&Counts) -> &AtomicU64);

impl Running {
    pub(crate) fn new(counts: &Arc<Counts>, gauge: fn(&Counts) -> &AtomicU64) -> Self {
        gauge(counts).fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(counts), gauge)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        (self.1)(&self.0).fetch_sub(1, Ordering::Relaxed);
    }
}
