//! Short retries of a request.

use std::future::Future;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use tokio::time::Instant;

use crate::credential::refresh::spread;
use crate::error::Error;

/// Attempts after the first one. The cache and the login loop retry later.
const RETRIES: usize = 2;
/// Doubles after each attempt, plus up to the same again as jitter: a waiting caller gets its result within a second
/// after an outage.
const FIRST_PAUSE: Duration = Duration::from_millis(150);
/// A longer `Retry-After` is returned to the caller.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(5);

/// No retry is scheduled later than this after the first attempt, so that waiting callers get the cause.
const LATEST_RETRY: Duration = Duration::from_secs(15);

/// Runs `call` up to three times, while its error is transient.
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
        Some(wait) if wait > LONGEST_RETRY_AFTER => None,
        Some(wait) => pause.map(|pause| pause.max(spread(wait, fastrand::f64()))),
        None => pause,
    })
    .notify(|error, pause| tracing::debug!(name: "lakebase.workspace.retry", target: "lakebase::workspace", %error, ?pause, "retries the request"))
    .await
}
