//! Numbers of the pools of deadpool and r2d2.

use lakebase_core::telemetry::PoolStats;

/// Adds [`stats`](Self::stats) to the pools of [`deadpool`](crate::deadpool) and [`r2d2`](crate::r2d2). The pool of
/// [`bb8`](crate::bb8::Pool::stats) has it as a method.
pub trait PoolExt: sealed::Sealed {
    /// Returns numbers for health checks and dashboards. deadpool does not count timeouts; r2d2 counts neither timeouts nor waiting
    /// callers.
    fn stats(&self) -> PoolStats;
}

mod sealed {
    pub trait Sealed {}
}

#[cfg(feature = "deadpool")]
impl sealed::Sealed for crate::deadpool::Pool {}

#[cfg(feature = "deadpool")]
impl PoolExt for crate::deadpool::Pool {
    fn stats(&self) -> PoolStats {
        let status = self.status();
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let in_use = status.size.saturating_sub(status.available);
        let mut stats = PoolStats::new(count(in_use), count(status.available));
        stats.limit = Some(count(status.max_size));
        stats.waiting = Some(count(status.waiting));
        stats
    }
}

#[cfg(feature = "r2d2")]
impl sealed::Sealed for crate::r2d2::Pool {}

#[cfg(feature = "r2d2")]
impl PoolExt for crate::r2d2::Pool {
    fn stats(&self) -> PoolStats {
        let state = self.state();
        let in_use = state.connections.saturating_sub(state.idle_connections);
        let mut stats = PoolStats::new(in_use.into(), state.idle_connections.into());
        stats.limit = Some(self.max_size().into());
        stats
    }
}
