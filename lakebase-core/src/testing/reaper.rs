//! Deletes branches in the background, on a separate thread, because the runtime of a test ends with the test.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep};

use crate::admin::Branches;
use crate::error::Error;

/// The same limit as for creations.
const AT_A_TIME: usize = 4;
/// How long the request that creates a branch can be delayed.
const CREATION_DELAY: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(2);

/// A branch to delete.
pub(super) struct Order {
    pub(super) branches: Branches,
    pub(super) id: String,
    /// Whether its creation has ended. If not, a missing branch may appear later.
    pub(super) is_created: bool,
}

/// The thread, with the id of its process: a forked process needs another one.
static REAPER: Mutex<Option<(u32, UnboundedSender<Order>)>> = Mutex::new(None);

/// Deletes a branch in the background. If that fails, the branch remains until its expiry.
pub(super) fn delete(order: Order) {
    let mut reaper = REAPER.lock().unwrap_or_else(PoisonError::into_inner);
    let process = std::process::id();
    if !reaper
        .as_ref()
        .is_some_and(|(its, orders)| *its == process && !orders.is_closed())
    {
        *reaper = start().map(|orders| (process, orders));
    }
    if let Some((_, orders)) = reaper.as_ref() {
        let _ = orders.send(order);
    }
}

/// Starts the thread; `None` if the thread or its runtime cannot be created.
fn start() -> Option<UnboundedSender<Order>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    let (orders, received) = unbounded_channel();
    let thread = std::thread::Builder::new().name("lakebase-test-branches".to_owned());
    thread
        .spawn(move || runtime.block_on(work(received)))
        .ok()?;
    Some(orders)
}

async fn work(received: UnboundedReceiver<Order>) {
    let orders = futures_util::stream::unfold(received, |mut received| async move {
        Some((received.recv().await?, received))
    });
    let permits = &Semaphore::new(AT_A_TIME);
    orders
        .for_each_concurrent(None, |order| async move {
            if let Err(error) = order.carry_out(permits).await {
                tracing::warn!(name: "lakebase.branch.left_to_expiry", target: "lakebase::branch", %error, branch = order.id, "a test branch is left to its expiry");
            }
        })
        .await;
}

impl Order {
    async fn carry_out(&self, permits: &Semaphore) -> Result<(), Error> {
        let began = Instant::now();
        loop {
            let permit = permits.acquire().await;
            let outcome = self.branches.purge(&self.id).await;
            drop(permit);
            match outcome {
                Err(error) if error.status() == Some(404) => {
                    if self.is_created || began.elapsed() >= CREATION_DELAY {
                        return Ok(());
                    }
                }
                outcome => return outcome,
            }
            sleep(PAUSE).await;
        }
    }
}
