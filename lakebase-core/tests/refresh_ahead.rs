//! Credentials are renewed in the background, and an outage affects callers only after the expiry. Time is paused.

#![allow(clippy::expect_used)] // a test fails by panicking

mod support;

use std::time::Duration;

use futures_util::FutureExt as _;
use lakebase_core::{Error, Lakebase, Refresh};
use support::{HOUR, Provider, Script, TestClock, lakebase, lakebase_with};
use tokio::time::{Instant, advance, sleep};

const MINUTE: Duration = Duration::from_secs(60);

/// Returns the token. Panics if the caller would wait.
fn at_hand(lakebase: &Lakebase) -> String {
    let credential = lakebase.credential().now_or_never().expect("at hand");
    credential.expect("a credential").expose().to_owned()
}

fn outage() -> Script {
    Script::Fail(Error::provider("the workspace is down", true))
}

#[tokio::test(start_paused = true)]
async fn in_a_day_only_the_first_caller_waits() {
    let provider = Provider::new(&TestClock::new());
    let lakebase = lakebase(&provider);
    lakebase.credential().await.expect("the first");
    for _ in 0..24 * 60 {
        sleep(MINUTE).await;
        let credential = lakebase
            .credential()
            .now_or_never()
            .expect("no caller waits");
        assert!(lakebase_core::adapter::is_current(
            &lakebase,
            &credential.expect("a credential")
        ));
    }
    // The first renewal comes within 48 minutes, the others every 41 to 48.
    let mints = provider.calls();
    assert!((30..=36).contains(&mints), "{mints} mints in a day");
}

#[tokio::test(start_paused = true)]
async fn a_failed_renewal_keeps_a_valid_credential() {
    let provider = Provider::new(&TestClock::new());
    let lakebase = lakebase(&provider);
    lakebase.credential().await.expect("the first");
    provider.play(outage());
    sleep(59 * MINUTE).await;
    assert_eq!(at_hand(&lakebase), "token-1");
    assert!(provider.calls() > 2, "renewals have failed");
    sleep(MINUTE).await;
    let error = lakebase.credential().await.expect_err("expired");
    assert!(error.is_transient(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_ten_hours_causes_no_request_storm_and_callers_succeed_after_it() {
    let provider = Provider::new(&TestClock::new());
    let lakebase = lakebase(&provider);
    lakebase.credential().await.expect("the first");
    provider.play(outage());
    // Only the refresh task mints, with pauses of up to 30 s (37 with jitter).
    sleep(10 * HOUR).await;
    let calls = provider.calls();
    assert!((500..=1700).contains(&calls), "{calls} attempts in 9 hours");
    provider.play(Script::Mint);
    let began = Instant::now();
    while lakebase.credential().await.is_err() {
        sleep(Duration::from_millis(50)).await;
    }
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "took {:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn callers_that_retry_all_the_time_in_an_outage_cause_at_most_two_mints_a_second() {
    let provider = Provider::new(&TestClock::new());
    provider.play(outage());
    let lakebase = lakebase(&provider);
    for _ in 0..1_000 {
        lakebase.credential().await.expect_err("down");
        sleep(Duration::from_millis(10)).await;
    }
    // Ten seconds, with pauses that grow to half a second.
    assert!(provider.calls() <= 30, "{} attempts", provider.calls());
}

#[tokio::test(start_paused = true)]
async fn a_permanent_failure_is_retried_so_that_a_grant_needs_no_restart() {
    let provider = Provider::new(&TestClock::new());
    let lakebase = lakebase(&provider);
    lakebase.credential().await.expect("the first");
    provider.play(Script::Fail(Error::provider("no permission", false)));
    sleep(50 * MINUTE).await;
    provider.play(Script::Mint);
    // While the held credential is valid, a pause is at most three quarters of its remaining time.
    sleep(9 * MINUTE).await;
    assert_ne!(at_hand(&lakebase), "token-1");
}

#[tokio::test(start_paused = true)]
async fn a_credential_that_expired_during_a_suspend_is_not_used() {
    let clock = TestClock::new();
    let provider = Provider::new(&clock);
    let lakebase = lakebase(&provider);
    let first = lakebase.credential().await.expect("the first");
    clock.step_wall(2 * 3600); // timers and the monotonic clock stop in a suspend
    assert!(!lakebase_core::adapter::is_current(&lakebase, &first));
    let second = lakebase.credential().await.expect("a new one");
    assert_eq!(second.expose(), "token-2");
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_is_set_back_does_not_extend_a_credential() {
    let clock = TestClock::new();
    let provider = Provider::new(&clock);
    let lakebase = lakebase_with(&provider, Refresh::Lazy);
    let first = lakebase.credential().await.expect("the first");
    advance(HOUR).await;
    clock.step_wall(-7200);
    assert!(!lakebase_core::adapter::is_current(&lakebase, &first));
    assert_eq!(
        lakebase.credential().await.expect("a new one").expose(),
        "token-2"
    );
}

#[tokio::test(start_paused = true)]
async fn wall_clock_steps_cause_no_renewal_storm() {
    let clock = TestClock::new();
    let provider = Provider::new(&clock);
    let lakebase = lakebase(&provider);
    for step in [900, -900, 900, -1800, 900] {
        lakebase.credential().await.expect("a credential");
        clock.step_wall(step);
        sleep(MINUTE).await;
    }
    assert!(
        provider.calls() <= 6,
        "{} mints in five minutes",
        provider.calls()
    );
}

#[tokio::test(start_paused = true)]
async fn lazy_renewal_starts_with_the_first_caller_after_three_quarters_of_the_lifetime() {
    let provider = Provider::new(&TestClock::new());
    let lakebase = lakebase_with(&provider, Refresh::Lazy);
    lakebase.credential().await.expect("the first");
    sleep(49 * MINUTE).await;
    // The first one of a handle may be due earlier.
    lakebase.credential().await.expect("renewed");
    assert_eq!(provider.calls(), 2);
    sleep(40 * MINUTE).await;
    assert_eq!(at_hand(&lakebase), "token-2");
    sleep(9 * MINUTE).await;
    assert_eq!(provider.calls(), 2, "no caller");
    assert_eq!(
        lakebase.credential().await.expect("renewed").expose(),
        "token-3"
    );
}

#[tokio::test(start_paused = true)]
async fn on_demand_the_first_caller_after_three_quarters_of_the_lifetime_renews_without_waiting() {
    let provider = Provider::new(&TestClock::new());
    let lakebase = lakebase_with(&provider, Refresh::OnDemand);
    let first = lakebase.credential().await.expect("the first");
    sleep(49 * MINUTE).await;
    assert_eq!(provider.calls(), 1, "no caller");
    assert!(!lakebase_core::adapter::is_current(&lakebase, &first));
    assert_eq!(at_hand(&lakebase), "token-1");
    sleep(MINUTE).await;
    assert_eq!(at_hand(&lakebase), "token-2");
    provider.play(outage());
    sleep(50 * MINUTE).await;
    assert_eq!(at_hand(&lakebase), "token-2", "renewal fails");
    provider.play(Script::Mint);
    sleep(20 * MINUTE).await;
    let next = lakebase.credential().await.expect("nothing valid is held");
    assert_eq!(next.expose(), format!("token-{}", provider.calls()));
}

#[tokio::test(start_paused = true)]
async fn a_failed_lazy_renewal_returns_the_valid_credential() {
    let provider = Provider::new(&TestClock::new());
    let lakebase = lakebase_with(&provider, Refresh::Lazy);
    lakebase.credential().await.expect("the first");
    provider.play(outage());
    sleep(50 * MINUTE).await;
    assert_eq!(
        lakebase.credential().await.expect("still valid").expose(),
        "token-1"
    );
}

#[tokio::test(start_paused = true)]
async fn a_provider_of_expired_credentials_is_an_error_and_is_not_called_in_a_loop() {
    let mut provider = Provider::new(&TestClock::new());
    provider.lifetime = Duration::ZERO;
    let lakebase = lakebase(&provider);
    let error = lakebase.credential().await.expect_err("expired");
    assert!(error.to_string().contains("expired"), "{error}");
    sleep(MINUTE).await;
    assert_eq!(provider.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_provider_with_a_cache_is_not_called_in_a_loop() {
    #[derive(Debug)]
    struct Caching(support::Provider, std::time::SystemTime);

    impl lakebase_core::CredentialProvider for Caching {
        async fn credential(&self) -> Result<lakebase_core::Credential, Error> {
            self.0.credential().await?;
            Ok(lakebase_core::Credential::new(
                "the same for an hour",
                self.1,
            ))
        }
    }

    let clock = TestClock::new();
    let provider = Provider::new(&clock);
    let expiry = lakebase_core::adapter::Clock::wall(&clock) + HOUR;
    let config = lakebase_core::Config::builder()
        .host("db.example.com")
        .user("app")
        .credential_provider(Caching(provider.clone(), expiry))
        .clock(clock)
        .build()
        .expect("a configuration");
    let lakebase = Lakebase::new(config).expect("a handle");
    lakebase.credential().await.expect("the first");
    sleep(59 * MINUTE).await;
    // Once it is due, the provider returns the same credential; a second passes between two calls.
    assert!(provider.calls() < 3600, "{} calls", provider.calls());
    at_hand(&lakebase);
}
