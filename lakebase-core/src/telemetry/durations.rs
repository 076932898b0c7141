//! Histograms of durations.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::listener::Listener;

const BUCKETS: usize = DurationStats::BOUNDS.len() + 1;

/// Receives each duration, and the kind of error after a failure.
pub(crate) type OnDuration = dyn Fn(Duration, Option<&str>) + Send + Sync;

/// A histogram. Recording does not allocate.
#[derive(Default)]
pub(crate) struct Durations {
    buckets: [AtomicU64; BUCKETS],
    nanos: AtomicU64,
    pub(crate) listener: Listener<OnDuration>,
}

impl Durations {
    pub(crate) fn record(&self, duration: Duration, error_type: Option<&str>) {
        let seconds = duration.as_secs_f64();
        let bucket = DurationStats::BOUNDS.partition_point(|bound| *bound < seconds);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
        if let Some(listener) = self.listener.get() {
            listener(duration, error_type);
        }
    }

    pub(crate) fn stats(&self) -> DurationStats {
        let buckets = self
            .buckets
            .each_ref()
            .map(|bucket| bucket.load(Ordering::Relaxed));
        DurationStats {
            count: buckets.iter().sum(),
            sum: Duration::from_nanos(self.nanos.load(Ordering::Relaxed)),
            buckets,
        }
    }
}

impl fmt::Debug for Durations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stats().fmt(f)
    }
}

/// A histogram of durations, as part of [`Stats`](super::Stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct DurationStats {
    /// The number of durations.
    pub count: u64,
    /// Their sum.
    #[serde(serialize_with = "seconds")]
    pub sum: Duration,
    /// The number in each bucket: above the bound before it in [`BOUNDS`](Self::BOUNDS) and up to its own; the last bucket has no upper
    /// bound.
    pub buckets: [u64; BUCKETS],
}

impl DurationStats {
    /// The upper bounds of the buckets in seconds, as in OpenTelemetry's conventions for databases.
    pub const BOUNDS: [f64; 9] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];
}

fn seconds<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(duration.as_secs_f64())
}
