//! Which idle connections are worth using.
//!
//! sqlx does not watch idle connections, puts no limit on its pings, and sets no keepalive. It also says
//! goodbye to connections that it gives up, and waits for the answer. So those that do not answer are
//! taken out of the pool here, before it uses them.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use lakebase_core::{Clock as _, SystemClock, clean_text};
use sea_orm::ConnectOptions;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Error, PgPool};
use tokio::task::yield_now;
use tokio::time::timeout;

/// After such a rest a connection is asked before it is used. Under load none rests that long, and a
/// checkout costs no round trip.
pub(crate) const PING_AFTER: Duration = Duration::from_secs(1);
/// One that was used a moment ago is not looked at: it would cost a busy pool a third of its throughput.
const GLANCE_AFTER: Duration = Duration::from_millis(10);
/// One that does not answer by then is replaced.
const PING_LIMIT: Duration = Duration::from_secs(2);

/// When a connection last answered, in milliseconds on both clocks: the monotonic one stands still while a
/// machine is suspended. Written by every operation, so without a lock.
pub(crate) struct Heard {
    origin: Instant,
    /// Since the origin; 0 if nothing is known.
    monotonic: AtomicU64,
    /// Since 1970.
    wall: AtomicU64,
}

impl Heard {
    pub(crate) fn now() -> Self {
        let heard = Self {
            origin: SystemClock.monotonic(),
            monotonic: AtomicU64::new(0),
            wall: AtomicU64::new(0),
        };
        heard.note();
        heard
    }

    pub(crate) fn note(&self) {
        let (monotonic, wall) = self.read();
        self.wall.store(wall, Ordering::Relaxed);
        self.monotonic.store(monotonic, Ordering::Relaxed);
    }

    /// One was lost, and others may be as well.
    pub(crate) fn forget(&self) {
        self.monotonic.store(0, Ordering::Relaxed);
    }

    pub(crate) fn lately(&self) -> bool {
        let (monotonic, wall) = self.read();
        let heard = self.monotonic.load(Ordering::Relaxed);
        let gone = monotonic.saturating_sub(heard);
        let gone = gone.max(wall.saturating_sub(self.wall.load(Ordering::Relaxed)));
        heard > 0 && Duration::from_millis(gone) < PING_AFTER
    }

    fn read(&self) -> (u64, u64) {
        let monotonic = SystemClock.monotonic().duration_since(self.origin);
        let wall = SystemClock.wall().duration_since(UNIX_EPOCH);
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        (millis(monotonic) + 1, millis(wall.unwrap_or_default()))
    }
}

/// Asks all idle connections at once and takes those that do not answer out of the pool. For sqlx the others
/// have been used by that: a pool that is asked for something now and then keeps its size until they are too
/// old.
pub(crate) async fn sweep(pool: &PgPool) {
    let mut idle = Vec::new();
    while let Some(connection) = pool.try_acquire() {
        idle.push(connection);
    }
    let asking = idle.into_iter().map(|mut connection| async move {
        // That is where sqlx asks, and drops it if the answer is no; dropping the connection instead would
        // do the same on a task of its own, and the caller would not find it. Dropping the future drops the
        // connection, too, without a goodbye.
        if timeout(PING_LIMIT, connection.return_to_pool())
            .await
            .is_err()
        {
            tracing::info!("dropped an idle connection that does not answer");
        }
    });
    join_all(asking).await;
}

/// Makes SeaORM's pool look at each connection before it is handed out.
pub(crate) fn watch(options: &mut ConnectOptions) {
    options.map_sqlx_postgres_before_acquire(|connection, metadata| {
        Box::pin(async move {
            // After a longer rest SeaORM has just asked it.
            if !(GLANCE_AFTER..PING_AFTER).contains(&metadata.idle_for) {
                return Ok(true);
            }
            let look = glance(connection).await;
            if let Err(error) = &look {
                let error = clean_text(&error.to_string());
                tracing::debug!(error, "dropped an idle connection");
            }
            Ok(look.is_ok())
        })
    });
}

/// Whether the server said goodbye, without waiting for it: the answer to this ping is read before the next
/// statement's. Yields once, so that the runtime hears of what has arrived.
async fn glance(connection: &mut PgConnection) -> Result<(), Error> {
    let mut ping = pin!(connection.ping());
    if let Some(answer) = (&mut ping).now_or_never() {
        return answer;
    }
    yield_now().await;
    ping.now_or_never().unwrap_or(Ok(()))
}
