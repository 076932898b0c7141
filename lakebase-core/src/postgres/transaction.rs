//! When a transaction is retried.

use std::fmt;
use std::time::Duration;

use tokio::time::sleep;

/// How often the adapters' `transaction_with_retry` runs a transaction, and with which pauses.
///
/// By default, it runs five times at most. The first pause is 50 ms; pauses double up to 2 s, and each is up to 50 % shorter or
/// longer at random. If the reply to `COMMIT` was lost, the transaction may have been committed, so it is only retried if it is
/// [`idempotent`](Self::idempotent).
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
    /// Returns the defaults.
    pub fn new() -> Self {
        Self {
            attempts: ATTEMPTS,
            first_pause: FIRST_PAUSE,
            idempotent: false,
        }
    }

    /// Sets how often the transaction runs at most: five times by default, and at least once.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// Sets the first pause: 50 ms by default, 2 s at most.
    pub fn first_pause(mut self, pause: Duration) -> Self {
        self.first_pause = pause.min(LONGEST_PAUSE);
        self
    }

    /// Sets whether the transaction can run twice without harm: false by default. If so, it is also retried after a lost reply to
    /// `COMMIT`.
    pub fn idempotent(mut self, idempotent: bool) -> Self {
        self.idempotent = idempotent;
        self
    }

    /// Returns the pause after `attempts` failed attempts; `None` after the last one.
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
    /// There was no connection. Its login was already retried.
    NotConnected(E),
    /// The transaction did not commit.
    NotCommitted(E),
    /// `COMMIT` failed, so the transaction may have happened.
    InDoubt(E),
}

/// Runs a transaction until it commits, an error is not transient, or `retry` allows no further attempt.
///
/// # Errors
///
/// The error of the last attempt.
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
                tracing::debug!(name: "lakebase.transaction.retry", target: "lakebase::transaction", %error, attempts, "retries a transaction");
                sleep(pause).await;
            }
            _ => return Err(error),
        }
    }
}

/// An `async` closure with one argument that can be called several times. It names the closure's future, so that adapters can require
/// it to be `Send`. Every such closure implements it.
pub trait AsyncCall<A, R>: AsyncFn(A) -> R + Fn(A) -> <Self as AsyncCall<A, R>>::Future {
    /// The future of a call.
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
    fn pauses_grow_to_a_limit_and_end_after_the_last_attempt() {
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
