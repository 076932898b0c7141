//! After "too many requests", no caller sends a request until `Retry-After` has passed, and handles retry at different times.

use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use lakebase_local::{Call, Event, EventKind, Fault, LocalLakebase};
use lakebase_tests::{
    Adapter, App, SENT_AGAIN, TooSlow, every_adapter_in_time, lakebase, local, soon,
    too_slow_unless,
};

const TASKS: usize = 20;
/// Concurrent starts with each adapter.
const STARTS: usize = 5;

/// Returns time and status of each credential call.
fn calls(events: &[Event]) -> Vec<(SystemTime, u16)> {
    let call = |event: &Event| match event.kind {
        EventKind::Api {
            call: Call::Credential,
            status,
        } => Some((event.at, status)),
        _ => None,
    };
    events.iter().filter_map(call).collect()
}

/// Starts many applications, of which the first two calls are rate limited for `waits` in all. Returns the times of the calls.
async fn called_at(
    adapter: Adapter,
    local: &LocalLakebase,
    retry_after: &str,
    waits: Duration,
) -> Result<Vec<SystemTime>, TooSlow> {
    let began = Instant::now();
    let lakebase = lakebase(local);
    local.fail_times(Call::Credential, 2, Fault::rate_limited(retry_after));
    let starting = (0..STARTS).map(|_| App::start(adapter, &lakebase));
    let started = soon(join_all(starting)).await;
    let calls = calls(&local.events());
    let statuses: Vec<u16> = calls.iter().map(|(_, status)| *status).collect();
    let is_right = statuses == [429, 429, 200] && started.iter().all(Result::is_ok);
    let took = began.elapsed();
    too_slow_unless(is_right || took < waits + SENT_AGAIN, || {
        format!("{adapter:?}: {statuses:?} in {took:?}")
    })?;
    for started in started {
        started.unwrap_or_else(|failure| panic!("{adapter:?}: {failure}"));
    }
    assert_eq!(statuses, [429, 429, 200], "{adapter:?}: one call for all");
    Ok(calls.into_iter().map(|(at, _)| at).collect())
}

#[tokio::test]
async fn retry_after_in_seconds_is_honoured() {
    every_adapter_in_time(async |adapter| {
        let calls = called_at(adapter, &local().await, "2", Duration::from_secs(4)).await?;
        for pair in calls.windows(2) {
            let pause = pair[1].duration_since(pair[0]).expect("later");
            assert!(pause >= Duration::from_secs(2), "{adapter:?}: {pause:?}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn retry_after_with_a_date_is_honoured() {
    every_adapter_in_time(async |adapter| {
        let local = local().await;
        let wait = Duration::from_secs(8);
        let until = SystemTime::now() + wait;
        let calls = called_at(adapter, &local, &http_date(until), wait).await?;
        // The date has whole seconds, so it is up to one second earlier.
        let earliest = until - Duration::from_secs(1);
        too_slow_unless(calls[0] < earliest, || {
            format!("{adapter:?} called after the date")
        })?;
        assert!(calls[1] >= earliest, "{adapter:?}: {calls:?}");
        Ok(())
    })
    .await;
}

fn http_date(at: SystemTime) -> String {
    let at = jiff::Timestamp::try_from(at).expect("a date");
    jiff::fmt::rfc2822::DateTimePrinter::new()
        .timestamp_to_rfc9110_string(&at)
        .expect("a date")
}

#[tokio::test]
async fn a_long_retry_after_is_returned_in_the_error() {
    for (retry_after, seconds) in [("90", 90), ("Wed, 01 Jan 2999 00:00:00 GMT", 300)] {
        let local = local().await;
        local.fail(Call::Credential, Fault::rate_limited(retry_after));
        let lakebase = lakebase(&local);
        for task in 0..TASKS {
            let error = soon(lakebase.credential()).await.expect_err("rate limited");
            assert!(error.is_transient(), "{error}");
            let wait = error.retry_after().expect("a wait").as_secs();
            match task {
                0 => assert!(wait.abs_diff(seconds) <= 1, "{error:?}"),
                // The rest of the wait of a handle without a credential, which is a minute at most.
                _ => assert!((50..=66).contains(&wait), "{error:?}"),
            }
        }
        assert_eq!(local.counters().credential_calls, 1, "no call before that");
    }
}

#[tokio::test]
async fn handles_that_were_rate_limited_together_retry_at_different_times() {
    let local = local().await;
    local.fail_times(Call::Credential, TASKS, Fault::rate_limited("1"));
    let fleet: Vec<_> = (0..TASKS).map(|_| lakebase(&local)).collect();
    for credential in soon(join_all(fleet.iter().map(|l| l.credential()))).await {
        credential.expect("a credential");
    }
    let mut back: Vec<_> = calls(&local.events())
        .into_iter()
        .filter_map(|(at, status)| (status == 200).then_some(at))
        .collect();
    back.sort();
    let spread = back[TASKS - 1].duration_since(back[0]).expect("later");
    assert!(spread >= Duration::from_millis(100), "in step: {spread:?}");
}
