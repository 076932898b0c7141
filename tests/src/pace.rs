//! Proofs that depend on how fast the machine is.

use std::fmt;
use std::time::Duration;

use lakebase_local::{EventKind, LocalLakebase};
use tokio::sync::RwLock;

use crate::{minted, tell};

/// How long a login on a busy machine may take: one whose token expired no longer ago was under way.
pub const UNDER_WAY: Duration = Duration::from_secs(2);

/// A request without an answer is sent again after this time. A busy machine may answer later.
pub const SENT_AGAIN: Duration = Duration::from_secs(3);

/// How often a proof may be too slow.
const CHANCES: usize = 5;

/// The machine was too slow for a proof, which therefore proves nothing.
#[derive(Debug)]
pub struct TooSlow(String);

/// Returns [`TooSlow`] unless `is_in_time`. Only for what a faster machine does in time: wrong results are
/// assertions.
///
/// # Errors
///
/// [`TooSlow`].
pub fn too_slow_unless(is_in_time: bool, what: impl FnOnce() -> String) -> Result<(), TooSlow> {
    match is_in_time {
        true => Ok(()),
        false => Err(TooSlow(what())),
    }
}

/// Runs a proof that has to be quick, or done while a token of a few seconds lives. It is repeated while it is
/// too slow; a panic fails at once. The last attempt shares the machine with no other such proof of this
/// process, so proofs must not be nested.
///
/// # Panics
///
/// If every attempt is too slow.
pub async fn in_time(prove: impl AsyncFn() -> Result<(), TooSlow>) {
    static MACHINE: RwLock<()> = RwLock::const_new(());

    let test = std::thread::current().name().unwrap_or("?").to_owned();
    for attempt in 1..CHANCES {
        let _shared = MACHINE.read().await;
        // Boxed: futures of tests are large.
        match Box::pin(prove()).await {
            Ok(()) => return,
            Err(TooSlow(what)) => tell(&format!("{test}: attempt {attempt} was too slow: {what}")),
        }
    }
    let _alone = MACHINE.write().await;
    if let Err(TooSlow(what)) = Box::pin(prove()).await {
        panic!("too slow {CHANCES} times: {what}");
    }
}

/// The same for a proof without a runtime.
pub fn in_time_blocking(prove: impl Fn() -> Result<(), TooSlow> + Sync) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime").block_on(in_time(async || {
        let thread = std::thread::scope(|scope| scope.spawn(&prove).join());
        thread.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }));
}

/// Asserts that no login used an expired token.
///
/// # Errors
///
/// [`TooSlow`] if a token expired within the last [`UNDER_WAY`], so while its login was under way.
pub fn no_expired_token_was_used(local: &LocalLakebase) -> Result<(), TooSlow> {
    let events = local.events();
    let tokens = minted(&events);
    for event in &events {
        let EventKind::Refused { login, message, .. } = &event.kind else {
            continue;
        };
        let token = tokens
            .iter()
            .find(|minted| Some(minted.token) == login.token);
        let late = token.and_then(|token| {
            let age = event.at.duration_since(token.minted_at).unwrap_or_default();
            // The platform takes the time a moment before it logs it.
            (age + Duration::from_millis(50)).checked_sub(token.lifetime())
        });
        let is_under_way = late.is_some_and(|late| late < UNDER_WAY);
        assert!(is_under_way, "{late:?} late: {login:?}: {message}");
        let what = format!("{login:?} took until its token had expired");
        return Err(TooSlow(what));
    }
    Ok(())
}

/// Unwraps a login with a token of a few seconds.
///
/// # Errors
///
/// [`TooSlow`] if it failed because the token expired while it was under way.
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
    async fn a_proof_that_is_too_slow_is_repeated() {
        let attempts = Cell::new(0);
        in_time(async || {
            attempts.set(attempts.get() + 1);
            too_slow_unless(attempts.get() == CHANCES, || "not yet".to_owned())
        })
        .await;
        assert_eq!(attempts.get(), CHANCES);
    }

    /// Attempts that were made until `prove` failed.
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
    fn a_proof_that_is_always_too_slow_fails() {
        let prove = || too_slow_unless(false, || "never".to_owned());
        assert_eq!(failed_after(prove), CHANCES);
    }

    #[test]
    fn a_wrong_result_fails_at_once() {
        assert_eq!(failed_after(|| panic!("wrong")), 1);
    }
}
