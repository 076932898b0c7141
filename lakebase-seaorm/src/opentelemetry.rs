//! Query durations for OpenTelemetry: the instrument `db.client.operation.duration` of
//! [`lakebase_core::opentelemetry`].
//!
//! Connections are measured automatically, by SeaORM's metric callback. There is only one: if your application sets its own, pass it
//! through [`metric_callback`]. Only the first word of a statement is exported.

use lakebase_core::Lakebase;
use lakebase_core::adapter::record_operation;
use sea_orm::metric::Info;

/// Returns a callback that measures queries and calls `own`.
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use lakebase_seaorm::opentelemetry::metric_callback;
///
/// let lakebase = lakebase_seaorm::Lakebase::from_env()?;
/// let mut db = lakebase_seaorm::connect(&lakebase).await?;
/// db.set_metric_callback(metric_callback(&lakebase, |info| println!("{:?}", info.elapsed)));
/// # Ok(())
/// # }
/// ```
pub fn metric_callback(
    lakebase: &Lakebase,
    own: impl Fn(&Info<'_>) + Send + Sync + 'static,
) -> impl Fn(&Info<'_>) + Send + Sync + 'static {
    let lakebase = lakebase.clone();
    move |info| {
        let failure = info.failed.then_some(None);
        record_operation(&lakebase, &info.statement.sql, info.elapsed, failure);
        own(info);
    }
}
