//! Proofs that depend on how fast the machine is.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use tokio::sync::RwLock;

/// How often something may be too slow without any sign that the machine was.
const CHANCES: usize = 3;
/// And in all.
const MOST_CHANCES: usize = 12;
/// A thread that slept for a moment and woke up that much too late: the machine stood still.
const STALL: Duration = Duration::from_millis(150);

/// Proves something that has to be quick, or done while a token of a few seconds lives. A machine that is
/// busy with something else can be too slow for that, so it gets another chance, from the start; what is
/// wrong by itself is wrong every time. The last chance shares the machine with no other such proof; so one
/// must not stand inside of another.
pub async fn in_time(prove: impl AsyncFn()) {
    let mut chances = Chances::new();
    while chances.is_not_the_last() {
        let _shared = MACHINE.read().await;
        // Boxed: futures of tests are large.
        let proof = Box::pin(prove());
        if AssertUnwindSafe(proof).catch_unwind().await.is_ok() {
            return;
        }
        chances.failed();
    }
    let _alone = MACHINE.write().await;
    Box::pin(prove()).await;
}

/// The same for a test without a runtime.
pub fn in_time_blocking(prove: impl Fn()) {
    let mut chances = Chances::new();
    while chances.is_not_the_last() {
        let _shared = MACHINE.blocking_read();
        if catch_unwind(AssertUnwindSafe(&prove)).is_ok() {
            return;
        }
        chances.failed();
    }
    let _alone = MACHINE.blocking_write();
    prove();
}

static MACHINE: RwLock<()> = RwLock::const_new(());

struct Chances {
    left: usize,
    in_all: usize,
    stalls: usize,
}

impl Chances {
    fn new() -> Self {
        Self {
            left: CHANCES,
            in_all: MOST_CHANCES,
            stalls: stalls(),
        }
    }

    fn is_not_the_last(&self) -> bool {
        self.left > 1 && self.in_all > 1
    }

    fn failed(&mut self) {
        let stalls = stalls();
        if stalls == std::mem::replace(&mut self.stalls, stalls) {
            self.left -= 1;
        }
        self.in_all -= 1;
    }
}

/// How often the machine has stood still since somebody asked for the first time.
fn stalls() -> usize {
    static SEEN: AtomicUsize = AtomicUsize::new(0);
    static WATCHING: Once = Once::new();
    WATCHING.call_once(|| {
        std::thread::spawn(|| {
            loop {
                let began = Instant::now();
                std::thread::sleep(Duration::from_millis(10));
                if began.elapsed() > STALL {
                    SEEN.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    });
    SEEN.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn what_is_too_slow_now_and_then_gets_another_chance() {
        let tries = Cell::new(0);
        in_time(async || {
            tries.set(tries.get() + 1);
            assert!(tries.get() == CHANCES, "too slow");
        })
        .await;
        assert_eq!(tries.get(), CHANCES);
    }

    #[test]
    fn what_is_wrong_by_itself_fails() {
        let tries = Cell::new(0);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            in_time_blocking(|| {
                tries.set(tries.get() + 1);
                panic!("wrong");
            });
        }));
        assert!(outcome.is_err());
        assert!((CHANCES..=MOST_CHANCES).contains(&tries.get()));
    }
}
