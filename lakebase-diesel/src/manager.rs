//! The manager for pools of diesel-async.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use diesel::ConnectionError;
use diesel_async::AsyncPgConnection;
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod,
};
use lakebase_core::Lakebase;
use lakebase_core::adapter::watch;

use crate::check::Checks;
use crate::connect::connect;

/// Returns diesel-async's connection manager, whose connections log in with a current token.
///
/// This is the one line that an application changes; the type of its pool stays the same.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use diesel_async::AsyncPgConnection;
/// use diesel_async::pooled_connection::bb8::Pool;
///
/// let lakebase = lakebase_diesel::Lakebase::from_env()?;
/// // before: AsyncDieselConnectionManager::new(database_url)
/// let pool: Pool<AsyncPgConnection> =
///     Pool::builder().build(lakebase_diesel::manager(&lakebase)).await?;
/// # Ok(())
/// # }
/// ```
///
/// If a login fails, bb8 itself returns `TimedOut`, and the pool of [`bb8`](crate::bb8) returns the cause. Both log the cause
/// through `tracing`, once for each outage.
pub fn manager(lakebase: &Lakebase) -> AsyncDieselConnectionManager<AsyncPgConnection> {
    let checks = Arc::new(Checks::new(watch(lakebase)));
    let lakebase = lakebase.clone();
    let mut config = ManagerConfig::default();
    config.custom_setup = Box::new(move |_| {
        let lakebase = lakebase.clone();
        Box::pin(async move { connect(&lakebase).await.map_err(ConnectionError::from) })
    });
    config.recycling_method = RecyclingMethod::CustomFunction(Box::new(move |connection| {
        if checks.is_fresh(connection) {
            // A box of a zero-sized future does not allocate.
            return Box::pin(poll_fn(|_| Poll::Ready(Ok(()))));
        }
        let checks = Arc::clone(&checks);
        Box::pin(async move { checks.check(connection).await })
    }));
    AsyncDieselConnectionManager::new_with_config("lakebase", config)
}
