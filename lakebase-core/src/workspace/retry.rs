//! Tries again what can be worth trying again, for a short while.

use std::future::Future;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use tokio::time::Instant;

use crate::credential::refresh::spread;
use crate::error::Error;

/// Attempts beyond the first. The cache and the login loop above come back later on their own.
const RETRIES: usize = 2;
/// Doubled once, and up to doubled by jitter: so a waiting caller gets an answer within a second after the workspace is back.
const FIRST_PAUSE: Duration = Duration::from_millis(150);
/// A longer `Retry-After` is handed up instead of being slept through here.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(5);

/// No further attempt begins later than this after the first one: waiting callers get the cause.
const LATEST_RETRY: Duration = Duration::from_secs(15);

/// Runs `call` until it succeeds, fails for good, or has been tried often enough.
pub(crate) async fn retrying<T, F>(call: impl FnMut() -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let started = Instant::now();
    call.retry(
        ExponentialBuilder::default()
            .with_min_delay(FIRST_PAUSE)
            .with_max_times(RETRIES)
            .with_jitter(),
    )
    .when(|error: &Error| error.is_transient() && started.elapsed() < LATEST_RETRY)
    .adjust(|error: &Error, pause| match error.retry_after() {
        Some(asked) if asked > LONGEST_RETRY_AFTER => None,
        Some(asked) => pause.map(|pause| pause.max(spread(asked, fastrand::f64()))),
        None => pause,
    })
    .notify(|error, pause| tracing::debug!(name: "lakebase.workspace.retry", target: "lakebase::workspace", %error, ?pause, "retries the request"))
    .await
}
