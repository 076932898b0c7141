//! When a transaction is run again.

use std::fmt;
use std::time::Duration;

use tokio::time::sleep;

/// How often the adapters' `transaction_with_retry` runs a transaction again, and after which pauses.
///
/// By default: five times in all, with pauses of 50 ms that double up to 2 s, each 50 % shorter or longer by chance. A
/// transaction whose `COMMIT` was not answered is not run again, because it may have happened:
/// [`idempotent`](Self::idempotent) changes that.
///
/// ```
/// use lakebase_core::Retry;
///
/// let retry = Retry::new().attempts(3).idempotent(true);
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Retry {
    attempts: u32,
    first_pause: Duration,
    idempotent: bool,
}

const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

impl Default for Retry {
    fn default() -> Self {
        Self::new()
    }
}

impl Retry {
    /// The defaults.
    pub fn new() -> Self {
        Self {
            attempts: ATTEMPTS,
            first_pause: FIRST_PAUSE,
            idempotent: false,
        }
    }

    /// Sets how often the transaction runs in all: five times by default, once at least.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// Sets the first pause: 50 ms by default.
    pub fn first_pause(mut self, pause: Duration) -> Self {
        self.first_pause = pause.min(LONGEST_PAUSE);
        self
    }

    /// The transaction may happen twice without harm, so that it is run again also if its `COMMIT` was not
    /// answered. False by default.
    pub fn idempotent(mut self, idempotent: bool) -> Self {
        self.idempotent = idempotent;
        self
    }

    /// The pause after this many attempts; `None` after the last one.
    fn pause(&self, attempts: u32) -> Option<Duration> {
        if attempts >= self.attempts {
            return None;
        }
        let doubled = 2_u32.saturating_pow(attempts.saturating_sub(1));
        let pause = self.first_pause.saturating_mul(doubled).min(LONGEST_PAUSE);
        Some(pause.mul_f64(0.5 + fastrand::f64()))
    }
}

/// A failed attempt of [`retry_transaction`].
#[derive(Debug)]
pub enum FailedAttempt<E> {
    /// No connection: the login was retried already.
    NotConnected(E),
    /// The transaction did not commit.
    NotCommitted(E),
    /// The reply to `COMMIT` was lost.
    InDoubt(E),
}

/// Runs a transaction until it commits or retrying cannot help. `is_transient` decides that by the error.
///
/// # Errors
///
/// The last attempt's.
///
/// # Cancel safety
///
/// Dropping the future drops the attempt.
pub async fn retry_transaction<T, E, F>(
    retry: Retry,
    is_transient: impl Fn(&E) -> bool,
    mut attempt: impl FnMut() -> F,
) -> Result<T, E>
where
    E: fmt::Display,
    F: Future<Output = Result<T, FailedAttempt<E>>>,
{
    let mut attempts = 0;
    loop {
        attempts += 1;
        let (error, may_repeat) = match attempt().await {
            Ok(value) => return Ok(value),
            Err(FailedAttempt::NotConnected(error)) => return Err(error),
            Err(FailedAttempt::NotCommitted(error)) => (error, true),
            Err(FailedAttempt::InDoubt(error)) => (error, retry.idempotent),
        };
        match retry.pause(attempts) {
            Some(pause) if may_repeat && is_transient(&error) => {
                tracing::debug!(name: "lakebase.transaction.retry", target: "lakebase::transaction", %error, attempts, "runs a transaction again");
                sleep(pause).await;
            }
            _ => return Err(error),
        }
    }
}

/// An `async` closure of one argument that may be called again, and whose future has a name: so adapters can demand that it is
/// `Send`. Every such closure implements it.
pub trait AsyncCall<A, R>: AsyncFn(A) -> R + Fn(A) -> <Self as AsyncCall<A, R>>::Future {
    /// What a call returns.
    type Future: Future<Output = R>;
}

impl<F, A, R, Called> AsyncCall<A, R> for F
where
    F: AsyncFn(A) -> R + Fn(A) -> Called,
    Called: Future<Output = R>,
{
    type Future = Called;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_limit_and_end_after_the_last_attempt() {
        let retry = Retry::new().attempts(100);
        for (attempts, millis) in [(1, 50), (2, 100), (3, 200), (7, 2000), (99, 2000)] {
            let pause = retry.pause(attempts).unwrap();
            let expected = Duration::from_millis(millis);
            assert!(
                pause >= expected / 2 && pause <= expected * 3 / 2,
                "{attempts}: {pause:?}"
            );
        }
        assert_eq!(retry.pause(100), None);
        assert_eq!(Retry::new().attempts(0).pause(1), None);
    }
}
