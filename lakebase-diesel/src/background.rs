//! A small runtime for programs without one: signing in, renewing and timing are async.

use std::future::Future;
use std::sync::{Mutex, PoisonError, mpsc};

use lakebase_core::Error;
use tokio::runtime::{Builder, Handle, Runtime};

/// One thread, started by the first who needs it.
#[derive(Debug, Default)]
pub(crate) struct Background {
    /// And the process it belongs to: a fork leaves the threads behind.
    runtime: Mutex<Option<(u32, Runtime)>>,
}

impl Background {
    #[cfg(feature = "blocking")]
    pub(crate) const fn new() -> Self {
        Self {
            runtime: Mutex::new(None),
        }
    }

    /// Runs `future` there and blocks this thread, not a runtime, until it is done.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        future: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let (done, outcome) = mpsc::sync_channel(1);
        self.handle()?.spawn(async move {
            // Nobody listens any more if the thread is gone.
            let _ = done.send(future.await);
        });
        let stopped = |_| Error::provider("the background runtime stopped", false);
        outcome.recv().map_err(stopped)?
    }

    pub(crate) fn handle(&self) -> Result<Handle, Error> {
        let mut runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        let process = std::process::id();
        match runtime.take() {
            Some((owner, known)) if owner == process => {
                let handle = known.handle().clone();
                *runtime = Some((owner, known));
                return Ok(handle);
            }
            // Stopping what has no threads would wait for ever.
            other => std::mem::forget(other),
        }
        let started = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("lakebase")
            .enable_all()
            .build()
            .map_err(|error| {
                Error::provider("the background runtime does not start", false).with_source(error)
            })?;
        Ok(runtime.insert((process, started)).1.handle().clone())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let runtime = self.runtime.get_mut();
        if let Some((_, runtime)) = runtime.unwrap_or_else(PoisonError::into_inner).take() {
            // Waiting for it would panic on a thread of another runtime.
            runtime.shutdown_background();
        }
    }
}
