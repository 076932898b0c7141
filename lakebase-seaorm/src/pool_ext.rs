//! Numbers of SeaORM's connection.

use lakebase_core::telemetry::PoolStats;
use sea_orm::DatabaseConnection;

/// Adds [`stats`](Self::stats) to SeaORM's connection, which is a pool.
pub trait PoolExt: sealed::Sealed {
    /// Returns numbers for health checks and dashboards. sqlx counts neither waiting callers nor timeouts.
    ///
    /// # Panics
    ///
    /// If `self` is not a connection to Postgres, as SeaORM does.
    fn stats(&self) -> PoolStats;
}

mod sealed {
    pub trait Sealed {}

    impl Sealed for sea_orm::DatabaseConnection {}
}

impl PoolExt for DatabaseConnection {
    fn stats(&self) -> PoolStats {
        let pool = self.get_postgres_connection_pool();
        let idle = u64::try_from(pool.num_idle()).unwrap_or(u64::MAX);
        let mut stats = PoolStats::new(u64::from(pool.size()).saturating_sub(idle), idle);
        stats.limit = Some(pool.options().get_max_connections().into());
        stats
    }
}
