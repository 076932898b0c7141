//! Deletes branches in the background: on a thread of its own, as the runtime of a test ends with the test.

use std::sync::Mutex;
use std::sync::PoisonError;

use futures_util::StreamExt as _;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::admin::Branches;

/// As many as are created at a time.
const AT_A_TIME: usize = 4;

type Order = (Branches, String);

/// A process that was forked has no such thread, so it has its number with it.
static REAPER: Mutex<Option<(u32, UnboundedSender<Order>)>> = Mutex::new(None);

/// Deletes a branch, some time soon. What fails is left to its expiry.
pub(super) fn delete(branches: Branches, id: String) {
    let mut reaper = REAPER.lock().unwrap_or_else(PoisonError::into_inner);
    let process = std::process::id();
    if !reaper
        .as_ref()
        .is_some_and(|(its, orders)| *its == process && !orders.is_closed())
    {
        *reaper = start().map(|orders| (process, orders));
    }
    if let Some((_, orders)) = reaper.as_ref() {
        let _ = orders.send((branches, id));
    }
}

/// `None` if the system gives no thread or no runtime.
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
    orders
        .for_each_concurrent(AT_A_TIME, |(branches, id)| async move {
            if let Err(error) = branches.purge(&id).await
                && error.status() != Some(404)
            {
                tracing::warn!(%error, branch = id, "a test branch is left to its expiry");
            }
        })
        .await;
}
