//! Long-running operations: a job runs in the background, and clients poll.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use crate::reply::Failure;

/// A reply waits up to this long for its job.
const PATIENCE: Duration = Duration::from_secs(1);
/// A longer delay would overflow the clock.
const FAR: Duration = Duration::from_secs(365 * 86_400);

/// The `response` of operations that return nothing.
pub(crate) fn empty() -> Value {
    json!({ "@type": "type.googleapis.com/google.protobuf.Empty" })
}

#[derive(Debug, Default)]
pub(crate) struct Operations {
    by_name: Mutex<HashMap<String, Arc<Operation>>>,
    jobs: Mutex<JoinSet<()>>,
    delay: Mutex<Duration>,
    closed: watch::Sender<bool>,
}

#[derive(Debug)]
struct Operation {
    name: String,
    /// Kind of the resource, for the metadata.
    kind: &'static str,
    outcome: watch::Sender<Option<Result<Value, Failure>>>,
}

impl Operation {
    fn describe(&self) -> Value {
        let mut value = json!({
            "name": self.name,
            "metadata": {
                "@type": format!("type.googleapis.com/databricks.postgres.v1.{}OperationMetadata", self.kind),
            },
            "done": true,
        });
        match &*self.outcome.borrow() {
            None => value["done"] = false.into(),
            Some(Ok(response)) => value["response"] = response.clone(),
            Some(Err(failure)) => value["error"] = failure.describe(),
        }
        value
    }
}

/// When an operation may end.
#[derive(Clone)]
pub(crate) struct Due {
    at: Instant,
    closed: watch::Receiver<bool>,
}

impl Due {
    pub(crate) async fn wait(&mut self) {
        tokio::select! {
            () = tokio::time::sleep_until(self.at) => {}
            _ = self.closed.wait_for(|closed| *closed) => {}
        }
    }
}

impl Operations {
    /// Operations that start from now on take at least this long.
    pub(crate) fn set_delay(&self, delay: Duration) {
        *self.delay.lock().unwrap_or_else(PoisonError::into_inner) = delay;
    }

    pub(crate) fn find(&self, name: &str) -> Option<Value> {
        let by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        by_name.get(name).map(|operation| operation.describe())
    }

    /// Starts a job that changes `resource`, and describes the operation after a moment. The job itself waits for
    /// [`Due`] before it makes a change that clients can see.
    pub(crate) async fn run<J>(
        &self,
        resource: &str,
        kind: &'static str,
        job: impl FnOnce(Due) -> J,
    ) -> Value
    where
        J: Future<Output = Result<Value, Failure>> + Send + 'static,
    {
        let operation = Arc::new(Operation {
            name: format!("{resource}/operations/{}", Uuid::new_v4()),
            kind,
            outcome: watch::Sender::new(None),
        });
        let delay = *self.delay.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = Due {
            at: Instant::now() + delay.min(FAR),
            closed: self.closed.subscribe(),
        };
        let job = job(due.clone());
        let running = Arc::clone(&operation);
        {
            let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
            by_name.insert(operation.name.clone(), Arc::clone(&operation));
            let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            while jobs.try_join_next().is_some() {}
            jobs.spawn(async move {
                let outcome = job.await;
                due.wait().await;
                running.outcome.send_replace(Some(outcome));
            });
        }
        let mut outcome = operation.outcome.subscribe();
        let _ = timeout(PATIENCE, outcome.wait_for(Option::is_some)).await;
        operation.describe()
    }

    /// Waits for all jobs to end, without their delay.
    pub(crate) async fn finish(&self) {
        self.closed.send_replace(true);
        let mut jobs =
            std::mem::take(&mut *self.jobs.lock().unwrap_or_else(PoisonError::into_inner));
        while jobs.join_next().await.is_some() {}
    }

    pub(crate) fn abort(&self) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.abort_all();
    }
}
