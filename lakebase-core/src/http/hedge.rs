//! A request that hangs must not keep those waiting who would get an answer by asking again.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::{BoxFuture, select_all};
use tokio::time::timeout;

/// No answer comes that late unless something is wrong.
const SILENCE: Duration = Duration::from_secs(3);
/// From then on the request is made anew that often, so that an end of the silence is noticed within a
/// second. It bounds the load as well.
const INTERVAL: Duration = Duration::from_millis(700);
/// The first one is kept, in case that answers are slow but come; of the others the oldest gives way.
const MOST: usize = 4;

/// Whether anybody waits for an answer of the workspace, with nothing valid in hand.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waiters(Arc<AtomicUsize>);

impl Waiters {
    /// Counts as waiting until it is dropped.
    pub(crate) fn enter(&self) -> Waiting<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Waiting(self)
    }

    fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

#[must_use]
pub(crate) struct Waiting<'a>(&'a Waiters);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Asks again while it is silent over there and somebody waits.
#[derive(Clone, Default)]
pub(super) struct Hedge {
    waiters: Waiters,
    /// The last request was not answered: do not wait so long for the next one.
    is_silent: Arc<AtomicBool>,
}

impl Hedge {
    pub(super) fn new(waiters: Waiters) -> Self {
        Self {
            waiters,
            is_silent: Arc::default(),
        }
    }

    /// The first success of `attempt`, or the failure of its first run, which has the full time.
    pub(super) async fn first<T, E, F>(&self, attempt: impl Fn() -> F) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>> + Send,
    {
        let mut under_way: Vec<BoxFuture<'_, Result<T, E>>> = vec![Box::pin(attempt())];
        let mut patience = if self.is_silent.load(Ordering::Relaxed) {
            INTERVAL
        } else {
            SILENCE
        };
        loop {
            let landed = timeout(patience, select_all(&mut under_way)).await;
            match landed.map(|(outcome, which, _)| (outcome, which)) {
                Ok((Ok(answer), _)) => {
                    self.is_silent.store(false, Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok((Err(error), 0)) => return Err(error),
                Ok((Err(_), which)) => drop(under_way.remove(which)),
                Err(_) => {
                    self.is_silent.store(true, Ordering::Relaxed);
                    patience = INTERVAL;
                    if self.waiters.any() {
                        if under_way.len() == MOST {
                            drop(under_way.remove(1));
                        }
                        tracing::debug!("no answer yet, asks once more");
                        under_way.push(Box::pin(attempt()));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::{Instant, sleep};

    use super::*;

    /// Attempts of which the one with this number answers, `Ok` after this long.
    async fn first_of(waits: bool, answering: usize, after: Duration) -> (usize, Duration) {
        let waiters = Waiters::default();
        let _waiting = waits.then(|| waiters.enter());
        let asked = AtomicUsize::new(0);
        let began = Instant::now();
        let hedge = Hedge::new(waiters.clone());
        let outcome = hedge.first(|| {
            let number = asked.fetch_add(1, Ordering::Relaxed);
            async move {
                if number == answering {
                    sleep(after).await;
                    return Ok::<_, ()>(());
                }
                pending().await
            }
        });
        let limit = Duration::from_secs(60);
        let _ = timeout(limit, outcome).await;
        (asked.load(Ordering::Relaxed), began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_within_three_seconds_is_asked_for_once() {
        let almost = SILENCE - Duration::from_millis(1);
        assert_eq!(first_of(true, 0, almost).await, (1, almost));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_in_silence_asks_again_every_700_ms() {
        let (asked, took) = first_of(true, 3, Duration::ZERO).await;
        assert_eq!((asked, took), (4, SILENCE + 2 * INTERVAL));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_so_nobody_asks_again() {
        let (asked, _) = first_of(false, 1, Duration::ZERO).await;
        assert_eq!(asked, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_merely_slow_is_not_given_up() {
        let slow = Duration::from_secs(9);
        let (asked, took) = first_of(true, 0, slow).await;
        assert_eq!(took, slow);
        assert!(asked < 11, "{asked}");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_silence_the_next_request_is_not_waited_for_as_long() {
        let waiters = Waiters::default();
        let _waiting = waiters.enter();
        let hedge = Hedge::new(waiters.clone());
        for expected in [SILENCE, INTERVAL] {
            let asked = AtomicUsize::new(0);
            let began = Instant::now();
            let outcome = hedge.first(|| {
                let number = asked.fetch_add(1, Ordering::Relaxed);
                async move {
                    // The second fails, the first goes on: still silent.
                    match number {
                        0 => pending().await,
                        _ => Err::<(), _>(()),
                    }
                }
            });
            let _ = timeout(expected + INTERVAL / 2, outcome).await;
            assert_eq!(asked.load(Ordering::Relaxed), 2, "{:?}", began.elapsed());
        }
    }
}
