//! Tests that depend on the speed of the machine.

use std::fmt;
use std::time::Duration;

use lakebase_local::{EventKind, LocalLakebase};
use tokio::sync::RwLock;

use crate::{minted, tell};

/// The longest login on a busy machine. A login may still use a token that expired this long ago.
pub const UNDER_WAY: Duration = Duration::from_secs(2);

/// A request without a response is sent again after this time, which a busy machine may exceed.
pub const SENT_AGAIN: Duration = Duration::from_secs(3);

/// A test that is too slow this many times fails.
const ATTEMPTS: usize = 5;

/// The machine was too slow, so that the test proves nothing.
#[derive(Debug)]
pub struct TooSlow(String);

/// Returns [`TooSlow`] unless `is_in_time`. Only for what a faster machine does in time: wrong results are
/// assertions.
pub fn too_slow_unless(is_in_time: bool, what: impl FnOnce() -> String) -> Result<(), TooSlow> {
    match is_in_time {
        true => Ok(()),
        false => Err(TooSlow(what())),
    }
}

/// Runs a test that fails on a slow machine, and repeats it if it was too slow. A panic fails at once. During the last
/// attempt, no other such test of this process runs, so these tests must not be nested.
pub async fn in_time(prove: impl AsyncFn() -> Result<(), TooSlow>) {
    static MACHINE: RwLock<()> = RwLock::const_new(());

    let test = std::thread::current().name().unwrap_or("?").to_owned();
    for attempt in 1..ATTEMPTS {
        let _shared = MACHINE.read().await;
        // Boxed: futures of tests are large.
        match Box::pin(prove()).await {
            Ok(()) => return,
            Err(TooSlow(what)) => tell(&format!("{test}: attempt {attempt} was too slow: {what}")),
        }
    }
    let _alone = MACHINE.write().await;
    if let Err(TooSlow(what)) = Box::pin(prove()).await {
        panic!("too slow {ATTEMPTS} times: {what}");
    }
}

/// The same without a runtime.
pub fn in_time_blocking(prove: impl Fn() -> Result<(), TooSlow> + Sync) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime").block_on(in_time(async || {
        let thread = std::thread::scope(|scope| scope.spawn(&prove).join());
        thread.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }));
}

/// Asserts that no login used an expired token. Returns [`TooSlow`] if a token expired during its login.
pub fn no_expired_token_was_used(local: &LocalLakebase) -> Result<(), TooSlow> {
    let events = local.events();
    let tokens = minted(&events);
    for event in &events {
        let EventKind::Refused {
            login,
            message,
            sqlstate,
        } = &event.kind
        else {
            continue;
        };
        // The compute starts, and has not seen a token.
        if sqlstate == "57P03" {
            continue;
        }
        let token = tokens
            .iter()
            .find(|minted| Some(minted.token) == login.token);
        let late = token.and_then(|token| {
            let age = event.at.duration_since(token.minted_at).unwrap_or_default();
            // The platform checks the token a moment before it logs the rejection.
            (age + Duration::from_millis(50)).checked_sub(token.lifetime())
        });
        let is_under_way = late.is_some_and(|late| late < UNDER_WAY);
        assert!(is_under_way, "{late:?} late: {login:?}: {message}");
        let what = format!("{login:?} took until its token had expired");
        return Err(TooSlow(what));
    }
    Ok(())
}

/// Unwraps a login with a short-lived token. Returns [`TooSlow`] if the token expired during the login.
pub fn logged_in<T>(
    local: &LocalLakebase,
    outcome: Result<T, impl fmt::Display>,
) -> Result<T, TooSlow> {
    match outcome {
        Ok(value) => Ok(value),
        Err(failure) => {
            no_expired_token_was_used(local)?;
            panic!("{failure}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[tokio::test]
    async fn a_test_that_is_too_slow_is_repeated() {
        let attempts = Cell::new(0);
        in_time(async || {
            attempts.set(attempts.get() + 1);
            too_slow_unless(attempts.get() == ATTEMPTS, || "not yet".to_owned())
        })
        .await;
        assert_eq!(attempts.get(), ATTEMPTS);
    }

    /// Returns the number of attempts until `prove` failed.
    fn failed_after(prove: impl Fn() -> Result<(), TooSlow> + Sync) -> usize {
        let attempts = std::sync::Mutex::new(0);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            in_time_blocking(|| {
                *attempts.lock().expect("not poisoned") += 1;
                prove()
            });
        }));
        assert!(outcome.is_err());
        attempts.into_inner().expect("not poisoned")
    }

    #[test]
    fn a_test_that_is_always_too_slow_fails() {
        let prove = || too_slow_unless(false, || "never".to_owned());
        assert_eq!(failed_after(prove), ATTEMPTS);
    }

    #[test]
    fn a_wrong_result_fails_at_once() {
        assert_eq!(failed_after(|| panic!("wrong")), 1);
    }
}
