//! The numbers of a handle and its pools, for health checks and dashboards.
//!
//! [`Lakebase::stats`](crate::Lakebase::stats) returns [`Stats`], and each adapter's pools return [`PoolStats`]. Both
//! serialize with serde; times are seconds then. The feature `opentelemetry` exports the same numbers: see
//! [`opentelemetry`](crate::opentelemetry).

mod counts;
mod durations;
mod listener;
mod outage;
mod stats;

#[cfg(feature = "opentelemetry")]
pub(crate) use counts::OnOperation;
pub(crate) use counts::{Counts, Running};
pub use durations::DurationStats;
#[cfg(feature = "opentelemetry")]
pub(crate) use durations::OnDuration;
pub(crate) use outage::Outage;
pub use stats::{LoginStats, PoolStats, ProxyStats, Stats, TokenStats};
