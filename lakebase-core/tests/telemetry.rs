//! The log and the numbers of `stats` while the workspace or Postgres fails. Time is paused.

#![allow(clippy::expect_used)] // a test fails by panicking

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use lakebase_core::adapter::LoginFailure;
use lakebase_core::{Error, Lakebase};
use support::{HOUR, Provider, Script, TestClock, lakebase};
use tokio::time::sleep;
use tracing::subscriber::DefaultGuard;
use tracing::{Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

const SECOND: Duration = Duration::from_secs(1);

/// The names of all events above DEBUG.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(Level, &'static str)>>>);

impl<S: Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let data = event.metadata();
        if *data.level() <= Level::INFO && data.target().starts_with("lakebase") {
            let line = (*data.level(), data.name());
            self.0.lock().expect("not poisoned").push(line);
        }
    }
}

impl Log {
    /// Records the events of this thread, on which the whole test runs.
    fn start() -> (Self, DefaultGuard) {
        let log = Self::default();
        let subscriber = tracing_subscriber::registry().with(log.clone());
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn take(&self) -> Vec<(Level, &'static str)> {
        std::mem::take(&mut *self.0.lock().expect("not poisoned"))
    }
}

fn down() -> Script {
    Script::Fail(Error::provider("the workspace is down", true))
}

async fn log_in(lakebase: &Lakebase, sqlstate: Option<&str>) -> Result<(), Error> {
    lakebase_core::adapter::login(lakebase, |_| {
        let outcome = match sqlstate {
            Some(sqlstate) => Err(LoginFailure::postgres(sqlstate, "no", "no")),
            None => Ok(()),
        };
        async move { outcome }
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_workspace_logs_one_line_at_its_start_and_one_at_its_end() {
    let (log, _guard) = Log::start();
    let provider = Provider::new(&TestClock::new());
    let lakebase = lakebase(&provider);
    log_in(&lakebase, None).await.expect("the first");
    provider.play(down());
    sleep(2 * HOUR).await;
    let logins = (0..100).map(|_| log_in(&lakebase, None));
    let failures = join_all(logins).await;
    assert!(failures.iter().all(Result::is_err));
    assert_eq!(log.take(), [(Level::WARN, "lakebase.workspace.failed")]);
    let stats = lakebase.stats();
    let token = stats.token.expect("it uses tokens");
    assert!(token.failures > 10, "{token:?}");
    assert_eq!(token.mints.count, token.failures + 1);
    let why = token.last_error.expect("it fails");
    assert!(why.contains("the workspace is down"), "{why}");
    assert_eq!(token.usable_for, Some(Duration::ZERO));
    provider.play(Script::Mint);
    sleep(SECOND).await;
    log_in(&lakebase, None).await.expect("back");
    assert_eq!(log.take(), [(Level::INFO, "lakebase.workspace.recovered")]);
    let token = lakebase.stats().token.expect("it uses tokens");
    assert_eq!(token.last_error, None);
    assert!(token.usable_for > Some(HOUR / 2), "{token:?}");
    assert!(token.renewal_in > Some(HOUR / 30), "{token:?}");
}

#[tokio::test(start_paused = true)]
async fn failing_logins_log_one_line_until_a_login_succeeds() {
    let (log, _guard) = Log::start();
    let lakebase = lakebase(&Provider::new(&TestClock::new()));
    for _ in 0..50 {
        let logins = (0..4).map(|_| log_in(&lakebase, Some("53300")));
        let failures = join_all(logins).await;
        assert!(failures.iter().all(Result::is_err));
    }
    assert_eq!(log.take(), [(Level::WARN, "lakebase.login.failed")]);
    let logins = lakebase.stats().logins;
    assert_eq!(logins.failures.get("timeout"), Some(&200), "{logins:?}");
    assert_eq!(logins.succeeded.count, 0);
    assert!(logins.attempts > 1000, "{logins:?}");
    log_in(&lakebase, None).await.expect("back");
    log_in(&lakebase, None).await.expect("still");
    assert_eq!(log.take(), [(Level::INFO, "lakebase.login.recovered")]);
    let logins = lakebase.stats().logins;
    assert_eq!((logins.succeeded.count, logins.under_way), (2, 0));
    assert_eq!(logins.last_error, None);
}

#[tokio::test(start_paused = true)]
async fn another_cause_in_the_same_outage_logs_another_line() {
    let (log, _guard) = Log::start();
    let lakebase = lakebase(&Provider::new(&TestClock::new()));
    let failed = [(Level::WARN, "lakebase.login.failed")];
    log_in(&lakebase, Some("3D000"))
        .await
        .expect_err("no database");
    assert_eq!(log.take(), failed);
    sleep(60 * SECOND).await;
    log_in(&lakebase, Some("3D000"))
        .await
        .expect_err("the same");
    assert_eq!(log.take(), []);
    log_in(&lakebase, Some("42501")).await.expect_err("another");
    assert_eq!(log.take(), failed);
}

#[tokio::test(start_paused = true)]
async fn alternating_failures_and_successes_log_one_line_in_30_seconds_at_most() {
    let (log, _guard) = Log::start();
    let lakebase = lakebase(&Provider::new(&TestClock::new()));
    for _ in 0..120 {
        log_in(&lakebase, Some("3D000")).await.expect_err("no");
        log_in(&lakebase, None).await.expect("yes");
        sleep(SECOND).await;
    }
    let (warnings, recoveries): (Vec<_>, Vec<_>) = log
        .take()
        .into_iter()
        .partition(|line| line.0 == Level::WARN);
    assert_eq!((warnings.len(), recoveries.len()), (4, 4));
}

#[tokio::test(start_paused = true)]
async fn a_second_outage_within_30_seconds_is_logged_if_it_continues() {
    let (log, _guard) = Log::start();
    let lakebase = lakebase(&Provider::new(&TestClock::new()));
    log_in(&lakebase, Some("3D000")).await.expect_err("no");
    log_in(&lakebase, None).await.expect("yes");
    log.take();
    log_in(&lakebase, Some("3D000")).await.expect_err("no");
    assert_eq!(log.take(), []);
    sleep(31 * SECOND).await;
    log_in(&lakebase, Some("3D000")).await.expect_err("still");
    assert_eq!(log.take(), [(Level::WARN, "lakebase.login.failed")]);
}

#[tokio::test(start_paused = true)]
async fn a_handle_of_another_database_has_its_own_counts_of_logins_and_shares_those_of_mints() {
    let main = lakebase(&Provider::new(&TestClock::new()));
    let other = main.with_database("other").expect("a name");
    log_in(&main, None).await.expect("a login");
    log_in(&other, None).await.expect("a login");
    log_in(&other, Some("42501")).await.expect_err("rejected");
    let (main, other) = (main.stats(), other.clone().stats());
    assert_eq!((main.logins.attempts, other.logins.attempts), (1, 2));
    assert_eq!(main.logins.failures.len(), 0, "{:?}", main.logins);
    assert_eq!(other.logins.failures.len(), 1, "{:?}", other.logins);
    let minted = |stats: lakebase_core::telemetry::Stats| stats.token.expect("a token").mints.count;
    assert_eq!((minted(main), minted(other)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn stats_serialize_with_times_in_seconds() {
    let provider = Provider::new(&TestClock::new());
    let lakebase = lakebase(&provider);
    log_in(&lakebase, None).await.expect("a login");
    log_in(&lakebase, Some("42501"))
        .await
        .expect_err("rejected");
    sleep(90 * SECOND).await;
    let json = serde_json::to_value(lakebase.stats()).expect("serialises");
    assert_eq!(json["token"]["age"], 90.0);
    assert_eq!(json["token"]["usable_for"], 3508.0);
    assert_eq!(json["token"]["mints"]["count"], 1);
    assert_eq!(json["logins"]["failures"]["database"], 1);
    assert_eq!(json["logins"]["succeeded"]["count"], 1);
    assert_eq!(json["proxy"]["sessions"], 0);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_login_is_not_counted_as_running() {
    let lakebase = lakebase(&Provider::gated(&TestClock::new()));
    let mut login = Box::pin(log_in(&lakebase, None));
    assert!((&mut login).now_or_never().is_none());
    assert_eq!(lakebase.stats().logins.under_way, 1);
    drop(login);
    assert_eq!(lakebase.stats().logins.under_way, 0);
}
