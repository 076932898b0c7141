//! The rate of requests to a host that fails, for all callers together.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// At most two requests a second.
const INTERVAL: Duration = Duration::from_millis(500);

/// When the last request to each failing host began.
#[derive(Default)]
pub(super) struct Pace {
    failing: Mutex<HashMap<String, Instant>>,
    /// Notified when a host has recovered.
    recovered: Notify,
}

impl Pace {
    /// Waits for the next turn, or until the host has recovered. Cancel safe: a caller takes its turn only at its time.
    pub(super) async fn turn(&self, origin: &str) {
        loop {
            let recovered = self.recovered.notified();
            let next = {
                let mut failing = self.failing();
                let Some(last) = failing.get_mut(origin) else {
                    return;
                };
                let (now, next) = (Instant::now(), *last + INTERVAL);
                if next <= now {
                    *last = now;
                    return;
                }
                next
            };
            tokio::select! {
                () = sleep_until(next) => {}
                () = recovered => {}
            }
        }
    }

    fn failing(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        let failing = self.failing.lock();
        failing.unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the outcome of a request that began at this time.
    pub(super) fn note(&self, origin: &str, began: Instant, has_failed: bool) {
        let mut failing = self.failing();
        if has_failed {
            failing.entry(origin.to_owned()).or_insert(began);
        } else if failing.remove(origin).is_some() {
            self.recovered.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_to_a_failing_host_begin_half_a_second_apart_until_one_succeeds() {
        let pace = Pace::default();
        let began = Instant::now();
        let turns = async |count: usize| {
            let all = (0..count).map(|_| pace.turn("https://a"));
            futures_util::future::join_all(all).await;
            began.elapsed()
        };
        assert_eq!(turns(9).await, Duration::ZERO);
        pace.note("https://a", began, true);
        assert_eq!(turns(4).await, 4 * INTERVAL);
        pace.turn("https://b").await;
        assert_eq!(began.elapsed(), 4 * INTERVAL, "another host");
        pace.note("https://a", Instant::now(), false);
        assert_eq!(turns(9).await, 4 * INTERVAL);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_turn_delays_no_caller_and_a_success_wakes_all() {
        let pace = Pace::default();
        let began = Instant::now();
        pace.note("https://a", began, true);
        for _ in 0..100 {
            let cancelled = tokio::time::timeout(Duration::from_millis(1), pace.turn("https://a"));
            cancelled.await.expect_err("not its turn yet");
        }
        pace.turn("https://a").await;
        assert!(began.elapsed() <= 2 * INTERVAL, "{:?}", began.elapsed());
        let (waited, ()) = tokio::join!(
            async {
                let turns = (0..20).map(|_| pace.turn("https://a"));
                futures_util::future::join_all(turns).await;
                Instant::now()
            },
            async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                pace.note("https://a", Instant::now(), false);
            }
        );
        assert!(
            waited - began <= Duration::from_millis(2_100),
            "{:?}",
            waited - began
        );
    }
}
