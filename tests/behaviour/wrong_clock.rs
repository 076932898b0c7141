//! Whatever the clocks say, here or there: no login uses a dead token, and nobody mints in a storm.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use lakebase_core::adapter::{Clock, SystemClock};
use lakebase_core::{Config, Lakebase};
use lakebase_local::{Call, Fault, LocalLakebase};
use lakebase_tests::{
    Adapter, App, in_time, lakebase, local, local_with_tokens_of, minted, soon,
    through_every_adapter, vars,
};

const LIFETIME: Duration = Duration::from_secs(3);
const QUARTER: i64 = 15 * 60 * 1000;
/// Mints at 75 % of a lifetime make 4 in 9 s; a renewal after a step of the clock is one more.
const MOST_MINTS: u64 = 8;

/// The machine's clock, wrong by so many milliseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct WrongClock(Arc<AtomicI64>);

impl WrongClock {
    pub(super) fn set(&self, ahead: i64) {
        self.0.store(ahead, Ordering::Relaxed);
    }
}

impl Clock for WrongClock {
    fn wall(&self) -> SystemTime {
        let ahead = self.0.load(Ordering::Relaxed);
        let by = Duration::from_millis(ahead.unsigned_abs());
        match ahead {
            0.. => SystemClock.wall() + by,
            _ => SystemClock.wall() - by,
        }
    }

    fn monotonic(&self) -> Instant {
        SystemClock.monotonic()
    }
}

pub(super) fn with_clock(local: &LocalLakebase, clock: &WrongClock) -> Lakebase {
    let config = Config::builder()
        .vars(vars(local, &[]))
        .clock(clock.clone())
        .build();
    Lakebase::new(config.expect("a configuration")).expect("a handle")
}

/// Logs in across three renewals, with something done after the first of them.
async fn logs_in_across_renewals(
    adapter: Adapter,
    local: &LocalLakebase,
    lakebase: &Lakebase,
    mut midway: impl FnMut(),
) {
    let app = App::start(adapter, lakebase).await.expect("started");
    let mut done = false;
    soon(async {
        loop {
            let tokens = minted(&local.events()).len();
            if tokens >= 2 && !std::mem::replace(&mut done, true) {
                midway();
            }
            if tokens >= 4 {
                return;
            }
            app.log_in()
                .await
                .unwrap_or_else(|failure| panic!("{adapter:?}: {failure}"));
        }
    })
    .await;
    let counters = local.counters();
    assert_eq!(counters.refused, 0, "{adapter:?}: {counters:?}");
    assert!(counters.minted <= MOST_MINTS, "{adapter:?}: {counters:?}");
}

#[tokio::test]
async fn a_platform_whose_clock_is_wrong_by_15_minutes_changes_nothing() {
    through_every_adapter(async |adapter| {
        for skew in [QUARTER, -QUARTER] {
            in_time(async || {
                let local = local_with_tokens_of(LIFETIME).await;
                local.set_clock_skew_millis(skew);
                logs_in_across_renewals(adapter, &local, &lakebase(&local), || {}).await;
            })
            .await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_machine_whose_clock_is_wrong_by_15_minutes_changes_nothing() {
    through_every_adapter(async |adapter| {
        for ahead in [QUARTER, -QUARTER] {
            in_time(async || {
                let local = local_with_tokens_of(LIFETIME).await;
                let clock = WrongClock::default();
                clock.set(ahead);
                let lakebase = with_clock(&local, &clock);
                logs_in_across_renewals(adapter, &local, &lakebase, || {}).await;
            })
            .await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_clock_that_is_set_while_it_runs_changes_nothing() {
    through_every_adapter(async |adapter| {
        for step in [QUARTER, -QUARTER, 2_000, -2_000] {
            in_time(async || {
                let local = local_with_tokens_of(LIFETIME).await;
                let clock = WrongClock::default();
                let lakebase = with_clock(&local, &clock);
                logs_in_across_renewals(adapter, &local, &lakebase, || clock.set(step)).await;
            })
            .await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_expiry_that_makes_no_sense_is_an_error_and_no_storm() {
    const ATTEMPTS: usize = 20;
    for expiry in [
        "\"2001-01-01T00:00:00Z\"",
        "\"NaN\"",
        "\"\"",
        "1795273200",
        "null",
    ] {
        through_every_adapter(async |adapter| {
            let local = local().await;
            let body = format!("{{\"token\":\"a.b.c\",\"expire_time\":{expiry}}}");
            local.fail(Call::Credential, Fault::json(&body));
            let lakebase = lakebase(&local);
            let began = Instant::now();
            for _ in 0..ATTEMPTS {
                let failure = soon(App::start(adapter, &lakebase)).await;
                let failure = failure.expect_err("nonsense");
                assert!(
                    failure.text.contains("expire_time"),
                    "{adapter:?} {expiry}: {failure}"
                );
            }
            // At most two a second; and each of these pools brings a runtime that may take a mint along
            // when it goes.
            let lost = match adapter {
                Adapter::DieselR2d2 => ATTEMPTS as u64 / 2,
                _ => 0,
            };
            // The first pauses are shorter.
            let most = 3 + 2 * (began.elapsed().as_secs() + 1) + lost;
            let counters = local.counters();
            assert!(
                counters.credential_calls <= most,
                "{adapter:?} {expiry}: {counters:?} in {:?}",
                began.elapsed()
            );
            assert_eq!(counters.logins + counters.refused, 0, "{counters:?}");
        })
        .await;
    }
}

#[tokio::test]
async fn an_expiry_in_a_far_future_is_not_trusted_for_longer_than_a_day() {
    let local = local().await;
    let body = "{\"token\":\"a.b.c\",\"expire_time\":\"2999-12-31T23:59:59Z\"}";
    local.fail(Call::Credential, Fault::json(body));
    let lakebase = lakebase(&local);
    let credential = lakebase.credential().await.expect("a credential");
    assert!(lakebase_core::adapter::is_valid(&lakebase, &credential));
    // Postgres refuses it, and so it goes; what comes next is as bad.
    let error = soon(lakebase.connect())
        .await
        .map(drop)
        .expect_err("no such token");
    assert!(error.is_login(), "{error}");
    assert_eq!(local.counters().credential_calls, 2);
}
