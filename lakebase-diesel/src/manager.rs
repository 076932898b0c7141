//! diesel-async's own manager, filled in.

use std::sync::Arc;
use std::time::Duration;

use diesel::{ConnectionError, QueryResult};
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, PoolableConnection as _, RecyclingMethod,
};
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use lakebase_core::Lakebase;
use lakebase_core::adapter::{Watch, clean_text, watch};

use crate::activity::Activity;
use crate::connect::connect;
use crate::ping::{ping, unanswered};
use crate::suspicion::{Suspicion, closed};

/// A connection nobody has heard from for this long is asked before it is handed out. Younger ones
/// are looked at locally, which costs no round trip: a server that hung up is noticed that way.
const PING_AFTER: Duration = Duration::from_secs(30);

/// The connection manager of diesel-async with every login going through `lakebase`.
///
/// This is the one line an application swaps: its pool keeps its type.
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
/// bb8 itself hides why a connection could not be made behind a `TimedOut`; the pool of
/// [`bb8`](crate::bb8) tells, and causes are logged through `tracing` in any case.
pub fn manager(lakebase: &Lakebase) -> AsyncDieselConnectionManager<AsyncPgConnection> {
    let watch = watch(lakebase);
    let lakebase = lakebase.clone();
    let mut config = ManagerConfig::default();
    config.custom_setup = Box::new(move |_| {
        let lakebase = lakebase.clone();
        Box::pin(async move {
            connect(&lakebase).await.map_err(|error| {
                tracing::warn!(error = %error.chain(), "could not open a connection");
                ConnectionError::from(error)
            })
        })
    });
    let suspicion = Arc::new(Suspicion::default());
    config.recycling_method = RecyclingMethod::CustomFunction(Box::new(move |connection| {
        let (suspicion, watch) = (Arc::clone(&suspicion), Arc::clone(&watch));
        Box::pin(async move { check(&suspicion, &watch, connection).await })
    }));
    AsyncDieselConnectionManager::new_with_config("lakebase", config)
}

/// Whether an idle connection may be handed out.
async fn check(
    suspicion: &Suspicion,
    watch: &Watch,
    connection: &mut AsyncPgConnection,
) -> QueryResult<()> {
    if connection.is_broken() {
        return Err(closed("the server closed the connection"));
    }
    // Unknown (the application has its own instrumentation) counts as long ago.
    let last = Activity::last_of(connection.instrumentation());
    if let Some(last) = last {
        if watch.passed().saturating_sub(last) < PING_AFTER {
            return Ok(());
        }
        suspicion.check(last)?;
    }
    match ping(connection).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(closed(&clean_text(&error.to_string()))),
        Err(_) => {
            last.inspect(|last| suspicion.note(*last));
            Err(unanswered())
        }
    }
}
