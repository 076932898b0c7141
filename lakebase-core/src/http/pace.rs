//! Requests to a host that fails begin a while apart, whoever makes them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// At most two requests a second.
const INTERVAL: Duration = Duration::from_millis(500);

/// When the last request began, of each host that fails.
#[derive(Clone, Default)]
pub(super) struct Pace(Arc<Mutex<HashMap<String, Instant>>>);

impl Pace {
    /// Waits for the next turn. Cancel safe: an abandoned turn delays the next one.
    pub(super) async fn turn(&self, origin: &str) {
        let turn = {
            let mut failing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(last) = failing.get_mut(origin) else {
                return;
            };
            *last = Instant::now().max(*last + INTERVAL);
            *last
        };
        sleep_until(turn).await;
    }

    /// Reports how a request ended that began at this time.
    pub(super) fn note(&self, origin: &str, began: Instant, has_failed: bool) {
        let mut failing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match has_failed {
            true => {
                failing.entry(origin.to_owned()).or_insert(began);
            }
            false => {
                failing.remove(origin);
            }
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
}
