//! Changes of the machine's clocks and a held token.

#![allow(clippy::expect_used)] // a test fails by panicking

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use lakebase_core::adapter::Clock;
use lakebase_core::{Config, Credential, CredentialProvider, Error, Lakebase, Refresh};
use support::{Provider, Script, TestClock, lakebase_with};

const MINUTE: i64 = 60;

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_is_set_back_after_a_suspend_does_not_extend_a_token() {
    let clock = TestClock::new();
    let provider = Provider::new(&clock);
    let lakebase = lakebase_with(&provider, Refresh::Lazy);
    let held = lakebase.credential().await.expect("a credential");
    // A suspend of half an hour, then the wall clock is set back by as much.
    clock.step_wall(30 * MINUTE);
    assert!(lakebase_core::adapter::is_valid(&lakebase, &held));
    clock.step_wall(-30 * MINUTE);
    assert!(lakebase_core::adapter::is_valid(&lakebase, &held));
    tokio::time::advance(Duration::from_secs(29 * 60)).await;
    assert!(
        lakebase_core::adapter::is_valid(&lakebase, &held),
        "59 minutes have passed"
    );
    tokio::time::advance(Duration::from_secs(59)).await;
    assert!(
        !lakebase_core::adapter::is_valid(&lakebase, &held),
        "two seconds before its end"
    );
    lakebase.credential().await.expect("a credential");
    assert_eq!(provider.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn every_forward_step_of_the_wall_clock_counts_once() {
    let clock = TestClock::new();
    let provider = Provider::new(&clock);
    let lakebase = lakebase_with(&provider, Refresh::Lazy);
    let held = lakebase.credential().await.expect("a credential");
    for _ in 0..3 {
        clock.step_wall(15 * MINUTE);
        // Repeated readings do not count it again.
        for _ in 0..100 {
            assert!(lakebase_core::adapter::is_valid(&lakebase, &held));
        }
        clock.step_wall(-15 * MINUTE);
        assert!(lakebase_core::adapter::is_valid(&lakebase, &held));
    }
    clock.step_wall(15 * MINUTE);
    assert!(
        !lakebase_core::adapter::is_valid(&lakebase, &held),
        "an hour in all"
    );
}

#[tokio::test(start_paused = true)]
async fn the_pause_after_a_failed_mint_goes_on_during_a_suspend() {
    let clock = TestClock::new();
    let provider = Provider::new(&clock);
    let lakebase = lakebase_with(&provider, Refresh::Lazy);
    let busy = Error::provider("too many requests", true);
    let busy = busy.with_retry_after(Some(Duration::from_secs(60)));
    provider.play(Script::Fail(busy));
    lakebase.credential().await.expect_err("busy");
    provider.play(Script::Mint);
    lakebase.credential().await.expect_err("within the pause");
    clock.step_wall(2 * MINUTE);
    lakebase.credential().await.expect("after the pause");
}

/// The machine is suspended for two hours during each of this many first mints.
#[derive(Debug)]
struct Suspended(Provider, usize);

impl CredentialProvider for Suspended {
    async fn credential(&self) -> Result<Credential, Error> {
        let minted = self.0.credential().await;
        if self.0.calls() <= self.1 {
            self.0.clock.step_wall(120 * MINUTE);
        }
        minted
    }
}

fn suspended(provider: &Provider, suspends: usize) -> Lakebase {
    let config = Config::builder()
        .host("db.example.com")
        .user("app")
        .clock(provider.clock.clone())
        .credential_provider(Suspended(provider.clone(), suspends))
        .refresh(Refresh::Lazy)
        .build();
    Lakebase::new(config.expect("a configuration")).expect("a handle")
}

#[tokio::test(start_paused = true)]
async fn a_suspend_during_a_mint_costs_another_mint_and_no_error() {
    let provider = Provider::new(&TestClock::new());
    let minted = suspended(&provider, 1).credential().await;
    assert_eq!(minted.expect("a credential").expose(), "token-2");
}

#[tokio::test(start_paused = true)]
async fn a_credential_that_always_expires_during_its_mint_is_a_transient_error() {
    let provider = Provider::new(&TestClock::new());
    let lakebase = suspended(&provider, usize::MAX);
    // These mints do not count for the rate limit.
    for mints in (2..=30).step_by(2) {
        let error = lakebase.credential().await.expect_err("never in time");
        assert!(error.is_timeout() && error.is_transient(), "{error}");
        assert_eq!(provider.calls(), mints);
        tokio::time::advance(Duration::from_secs(60)).await;
    }
}

/// Counts how often the clocks are read.
#[derive(Clone, Debug)]
struct Counted {
    clock: TestClock,
    wall: Arc<AtomicUsize>,
    monotonic: Arc<AtomicUsize>,
}

impl Clock for Counted {
    fn wall(&self) -> SystemTime {
        self.wall.fetch_add(1, Ordering::SeqCst);
        self.clock.wall()
    }

    fn monotonic(&self) -> Instant {
        self.monotonic.fetch_add(1, Ordering::SeqCst);
        self.clock.monotonic()
    }
}

#[tokio::test(start_paused = true)]
async fn a_cached_credential_costs_one_reading_of_the_wall_clock_and_both_once_a_second() {
    let clock = TestClock::new();
    let counted = Counted {
        clock: clock.clone(),
        wall: Arc::default(),
        monotonic: Arc::default(),
    };
    let config = Config::builder()
        .host("db.example.com")
        .user("app")
        .clock(counted.clone())
        .credential_provider(Provider::new(&clock))
        .build();
    let lakebase = Lakebase::new(config.expect("a configuration")).expect("a handle");
    lakebase.credential().await.expect("a credential");
    // The refresh task has seen the mint by then.
    tokio::time::advance(Duration::from_millis(1)).await;
    lakebase.credential().await.expect("a credential");
    let [wall, monotonic] = [&counted.wall, &counted.monotonic];
    wall.store(0, Ordering::SeqCst);
    monotonic.store(0, Ordering::SeqCst);
    for _ in 0..100 {
        lakebase.credential().await.expect("a credential");
    }
    assert_eq!(wall.load(Ordering::SeqCst), 100);
    assert_eq!(monotonic.load(Ordering::SeqCst), 0);
    for jump in [1, -1] {
        clock.step_wall(jump);
        monotonic.store(0, Ordering::SeqCst);
        lakebase.credential().await.expect("a credential");
        assert_ne!(monotonic.load(Ordering::SeqCst), 0, "{jump} s");
    }
}
