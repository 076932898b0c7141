//! Waits with the pauses of the official clients, up to a limit.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::config::LONGEST_TIMEOUT;
use crate::error::Error;
use crate::workspace::retry::retrying;

/// The limit and the pauses of all steps of one call.
pub(super) struct Wait {
    /// The resource, for errors.
    what: String,
    limit: Duration,
    deadline: Instant,
    pauses: u32,
    /// The first failure without a reply, as long as the workspace has not replied with any status. `None` if this does not count.
    unreachable: Option<Option<Instant>>,
}

/// After this time without any reply, a workspace is unreachable: its address is probably wrong.
const FIRST_REPLY_LIMIT: Duration = Duration::from_secs(60);

impl Wait {
    pub(super) fn new(what: impl Into<String>, limit: Duration) -> Self {
        let limit = limit.min(LONGEST_TIMEOUT);
        Self {
            what: what.into(),
            limit,
            deadline: Instant::now() + limit,
            pauses: 0,
            unreachable: None,
        }
    }

    /// Gives up earlier if the workspace never replies. Not for deletions, which an outage must not end.
    pub(super) fn unless_unreachable(mut self) -> Self {
        self.unreachable = Some(None);
        self
    }

    pub(super) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Starts the next step with short pauses again.
    pub(super) fn next_step(&mut self) {
        self.pauses = 0;
    }

    /// Pauses like the official clients, or for the workspace's `Retry-After` if that is longer.
    ///
    /// # Errors
    ///
    /// `why`, as a timeout, if the pause exceeds the limit or the workspace is unreachable.
    pub(super) async fn pause(&mut self, why: Error) -> Result<(), Error> {
        if let Some(since) = &mut self.unreachable
            && since.get_or_insert_with(Instant::now).elapsed() >= FIRST_REPLY_LIMIT
        {
            let what = format!("{}: the workspace does not reply", self.what);
            return Err(why.given_up(&what));
        }
        self.pauses += 1;
        let seconds = f64::from(self.pauses.min(10)) + 0.05 + 0.7 * fastrand::f64();
        let pause = Duration::from_secs_f64(seconds).max(why.retry_after().unwrap_or_default());
        if pause > self.left() {
            return Err(why.given_up(&self.timed_out()));
        }
        tracing::debug!(name: "lakebase.branch.waiting", target: "lakebase::branch", what = self.what, %why, ?pause, "waits");
        sleep(pause).await;
        Ok(())
    }

    /// Runs a call within the limit.
    pub(super) async fn within<T>(
        &mut self,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let Ok(outcome) = timeout_at(self.deadline, call).await else {
            return Err(Error::timeout(self.timed_out()));
        };
        if outcome
            .as_ref()
            .err()
            .is_none_or(|error| error.status().is_some())
        {
            self.unreachable = None;
        }
        outcome
    }

    /// Retries a call that only reads, until it succeeds or fails permanently.
    pub(super) async fn reading<T, F>(&mut self, mut call: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        loop {
            match self.within(retrying(&mut call)).await {
                Err(error) if error.is_transient() && !self.left().is_zero() => {
                    self.pause(error).await?;
                }
                outcome => return outcome,
            }
        }
    }

    fn timed_out(&self) -> String {
        format!(
            "{}: timed out after {} s",
            self.what,
            self.limit.as_secs_f64()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_ten_seconds_and_end_with_the_cause() {
        let mut wait = Wait::new("branch x", Duration::from_secs(120));
        let began = Instant::now();
        for least in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10] {
            let before = Instant::now();
            wait.pause(Error::network("INIT"))
                .await
                .expect("time is left");
            let least = Duration::from_secs(least);
            let took = before.elapsed();
            assert!(
                took >= least && took <= least + Duration::from_millis(760),
                "{took:?}"
            );
        }
        let error = loop {
            if let Err(error) = wait.pause(Error::network("INIT")).await {
                break error;
            }
        };
        assert!(began.elapsed() <= Duration::from_secs(120));
        let text = error.to_string();
        assert!(
            error.is_timeout() && text.contains("branch x: timed out after 120 s: INIT"),
            "{text}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_longer_retry_after_of_the_workspace_is_kept() {
        let mut wait = Wait::new("x", Duration::from_secs(120));
        let began = Instant::now();
        let limited = Error::network("slow down").with_retry_after(Some(Duration::from_secs(30)));
        wait.pause(limited).await.expect("time is left");
        assert!(began.elapsed() >= Duration::from_secs(30));
    }

    async fn reading_with(error: impl Fn() -> Error) -> (Duration, String) {
        let mut wait = Wait::new("branch x", Duration::from_secs(600)).unless_unreachable();
        let began = Instant::now();
        let outcome = wait.reading(|| async { Err::<(), _>(error()) }).await;
        let error = outcome.expect_err("no success");
        (began.elapsed(), error.to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn a_workspace_that_never_replies_is_an_error_after_about_a_minute() {
        let (took, text) = reading_with(|| Error::network("refused")).await;
        assert!(took < Duration::from_secs(80), "{took:?}");
        assert!(
            text.contains("branch x: the workspace does not reply: refused"),
            "{text}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_workspace_that_replies_has_the_whole_limit() {
        let busy = || Error::network("busy").with_response(503, None, None);
        let (took, text) = reading_with(busy).await;
        assert!(took > Duration::from_secs(500), "{took:?}: {text}");
    }
}
