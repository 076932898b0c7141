//! A wrong clock on this machine or on the platform leads to no login with an expired token and to no storm of mints.

use std::time::{Duration, Instant};

use lakebase_core::Lakebase;
use lakebase_local::{Call, Fault, LocalLakebase};
use lakebase_tests::{
    Adapter, App, BETWEEN_LOGINS, TestClock, TooSlow, in_time, lakebase, lakebase_on, local,
    local_with_tokens_of, logged_in, minted, no_expired_token_was_used, soon,
    through_every_adapter,
};

const LIFETIME: Duration = Duration::from_secs(3);
const QUARTER: i64 = 15 * 60 * 1000;
/// Renewal at three quarters of the lifetime is 4 mints in 9 s. A step of the clock may cause one more.
const MOST_MINTS: u64 = 8;

/// Logs in during three renewals, and calls `midway` after the first one.
async fn logs_in_across_renewals(
    adapter: Adapter,
    local: &LocalLakebase,
    lakebase: &Lakebase,
    mut midway: impl FnMut(),
) -> Result<(), TooSlow> {
    let app = logged_in(local, App::start(adapter, lakebase).await)?;
    let mut done = false;
    soon(async {
        loop {
            let tokens = minted(&local.events()).len();
            if tokens >= 2 && !std::mem::replace(&mut done, true) {
                midway();
            }
            if tokens >= 4 {
                return Ok(());
            }
            logged_in(local, app.log_in().await)?;
            tokio::time::sleep(BETWEEN_LOGINS).await;
        }
    })
    .await?;
    let counters = local.counters();
    assert!(counters.minted <= MOST_MINTS, "{adapter:?}: {counters:?}");
    no_expired_token_was_used(local)
}

/// Runs a test with each adapter and each of these numbers of milliseconds.
async fn with_each(
    millis: &[i64],
    prove: impl AsyncFn(Adapter, LocalLakebase, i64) -> Result<(), TooSlow>,
) {
    through_every_adapter(async |adapter| {
        for &millis in millis {
            in_time(async || prove(adapter, local_with_tokens_of(LIFETIME).await, millis).await)
                .await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_platform_clock_that_is_wrong_by_15_minutes_has_no_effect() {
    with_each(&[QUARTER, -QUARTER], async |adapter, local, skew| {
        local.set_clock_skew_millis(skew);
        logs_in_across_renewals(adapter, &local, &lakebase(&local), || {}).await
    })
    .await;
}

#[tokio::test]
async fn a_machine_clock_that_is_wrong_by_15_minutes_has_no_effect() {
    with_each(&[QUARTER, -QUARTER], async |adapter, local, ahead| {
        let clock = TestClock::default();
        clock.set_ahead_millis(ahead);
        logs_in_across_renewals(adapter, &local, &lakebase_on(&local, &clock), || {}).await
    })
    .await;
}

#[tokio::test]
async fn a_clock_that_is_set_while_the_application_runs_has_no_effect() {
    with_each(
        &[QUARTER, -QUARTER, 2_000, -2_000],
        async |adapter, local, step| {
            let clock = TestClock::default();
            let lakebase = lakebase_on(&local, &clock);
            logs_in_across_renewals(adapter, &local, &lakebase, || clock.set_ahead_millis(step))
                .await
        },
    )
    .await;
}

#[tokio::test]
async fn an_invalid_expiry_is_an_error_and_causes_no_request_storm() {
    const ATTEMPTS: usize = 20;
    through_every_adapter(async |adapter| {
        let local = local().await;
        for expiry in ["2001-01-01T00:00:00Z", "NaN"] {
            let before = local.counters().credential_calls;
            let body = format!("{{\"token\":\"a.b.c\",\"expire_time\":\"{expiry}\"}}");
            local.fail(Call::Credential, Fault::json(&body));
            let lakebase = lakebase(&local);
            let began = Instant::now();
            for _ in 0..ATTEMPTS {
                let failure = soon(App::start(adapter, &lakebase)).await;
                let failure = failure.expect_err("invalid");
                assert!(
                    failure.text.contains("expire_time"),
                    "{adapter:?} {expiry}: {failure}"
                );
            }
            // At most two a second. Each pool of r2d2 has its own runtime, and a mint may end with it.
            let lost = match adapter {
                Adapter::DieselR2d2 => ATTEMPTS as u64 / 2,
                _ => 0,
            };
            // The first pauses are shorter.
            let most = 3 + 2 * (began.elapsed().as_secs() + 1) + lost;
            let counters = local.counters();
            let calls = counters.credential_calls - before;
            assert!(
                calls <= most,
                "{adapter:?} {expiry}: {calls} in {:?}",
                began.elapsed()
            );
            assert_eq!(counters.logins + counters.refused, 0, "{counters:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_expiry_in_the_far_future_is_trusted_for_a_day_at_most() {
    let local = local().await;
    let body = "{\"token\":\"a.b.c\",\"expire_time\":\"2999-12-31T23:59:59Z\"}";
    local.fail(Call::Credential, Fault::json(body));
    let lakebase = lakebase(&local);
    let credential = lakebase.credential().await.expect("a credential");
    assert!(lakebase_core::adapter::is_valid(&lakebase, &credential));
    // Postgres rejects this token and the next one.
    let error = soon(lakebase.connect())
        .await
        .map(drop)
        .expect_err("no such token");
    assert!(error.is_login(), "{error}");
    assert_eq!(local.counters().credential_calls, 2);
}
