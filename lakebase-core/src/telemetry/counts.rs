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

/// Of one application: its handle, the clones of that, and the handles of its users.
#[derive(Default)]
pub(crate) struct Counts {
    /// Of all mints, failed ones as well.
    pub(crate) mints: Arc<Durations>,
    pub(crate) failed_mints: AtomicU64,
    /// Of the logins that succeeded, from the first wait for a credential.
    pub(crate) logins: Durations,
    failed_logins: [AtomicU64; Kind::ALL.len()],
    pub(crate) logging_in: AtomicU64,
    pub(crate) login_attempts: AtomicU64,
    pub(crate) sessions: AtomicU64,
    pub(crate) sessions_begun: AtomicU64,
    /// Gets the statements that adapters report.
    #[cfg(feature = "opentelemetry")]
    pub(crate) operations: Listener<dyn Fn(&Operation<'_>) + Send + Sync>,
}

impl Counts {
    /// Of another database, whose logins use the same token.
    pub(crate) fn of_database(&self) -> Self {
        Self {
            mints: Arc::clone(&self.mints),
            ..Self::default()
        }
    }

    pub(crate) fn count_failed_login(&self, error: &Error) {
        self.failed_logins[error.kind() as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Those that occurred, by the kind of error.
    pub(crate) fn failed_logins(&self) -> BTreeMap<&'static str, u64> {
        let counts = Kind::ALL.iter().zip(&self.failed_logins);
        let counts = counts.map(|(kind, count)| (kind.name(), count.load(Ordering::Relaxed)));
        counts.filter(|(_, count)| *count > 0).collect()
    }
}

/// A statement that has run.
#[cfg(feature = "opentelemetry")]
#[derive(Debug)]
pub(crate) struct Operation<'a> {
    pub(crate) statement: &'a str,
    pub(crate) took: Duration,
    /// Whether it failed, and the SQLSTATE if there is one.
    pub(crate) failure: Option<Option<&'a str>>,
}

/// Counts one more in a gauge for as long as it lives.
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
