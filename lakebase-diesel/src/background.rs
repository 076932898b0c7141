//! Threads with a runtime, for programs without async.

use std::sync::mpsc;

use lakebase_core::Error;
use tokio::runtime::Builder;

/// Runs `work` on a new thread and blocks until `work` sends a result. The thread ends with `work`, which may be later.
pub(crate) fn start<T, F>(
    work: impl FnOnce(mpsc::Sender<T>) -> F + Send + 'static,
) -> Result<T, Error>
where
    T: Send + 'static,
    F: Future<Output = ()>,
{
    let failed = |error| Error::config("the background thread does not start").with_source(error);
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(failed)?;
    let (done, result) = mpsc::channel();
    std::thread::Builder::new()
        .name("lakebase".to_owned())
        .spawn(move || runtime.block_on(work(done)))
        .map_err(failed)?;
    result
        .recv()
        .map_err(|_| Error::config("the background thread stopped"))
}
