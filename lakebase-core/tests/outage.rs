//! While no token can be minted, the held one is used until its expiry, and a rejected one is a last resort. Time is paused.

#![allow(clippy::expect_used)] // a test fails by panicking

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use lakebase_core::adapter::LoginFailure;
use lakebase_core::{Error, Lakebase};
use support::{HOUR, Provider, Script, TestClock, lakebase};
use tokio::time::{Instant, sleep, sleep_until};

const SECOND: Duration = Duration::from_secs(1);

fn down() -> Script {
    Script::Fail(Error::provider("the workspace is down", true))
}

/// Logs in at a Postgres that rejects a token if `rejects` returns true.
async fn log_in(lakebase: &Lakebase, rejects: impl Fn(&str) -> bool) -> Result<String, Error> {
    lakebase_core::adapter::login(lakebase, |login| {
        let token = login.credential.expose().to_owned();
        let outcome = match rejects(&token) {
            true => Err(LoginFailure::postgres(
                "28P01",
                "password authentication failed",
                "no",
            )),
            false => Ok(token),
        };
        async move { outcome }
    })
    .await
}

async fn accepted(lakebase: &Lakebase) -> Result<String, Error> {
    log_in(lakebase, |_| false).await
}

#[tokio::test(start_paused = true)]
async fn no_login_fails_or_waits_until_two_seconds_before_the_expiry_of_the_token() {
    let provider = Provider::new(&TestClock::new());
    let lakebase = lakebase(&provider);
    accepted(&lakebase).await.expect("the first");
    let end = Instant::now() + HOUR;
    provider.play(down());
    while Instant::now() + Duration::from_millis(2_100) < end {
        let began = Instant::now();
        accepted(&lakebase).await.expect("the token is valid");
        let took = began.elapsed();
        assert!(
            took < SECOND,
            "waited {took:?}, {:?} before the end",
            end - Instant::now()
        );
        sleep(Duration::from_millis(700)).await;
    }
    sleep_until(end - Duration::from_millis(1_900)).await;
    let error = lakebase
        .credential()
        .await
        .expect_err("too close to its expiry");
    assert!(
        error.to_string().contains("the workspace is down"),
        "{error}"
    );
    provider.play(Script::Mint);
    let back = Instant::now();
    accepted(&lakebase).await.expect("back");
    assert!(back.elapsed() < SECOND, "{:?}", back.elapsed());
}

#[tokio::test(start_paused = true)]
async fn no_login_fails_while_the_workspace_is_unresponsive_and_the_token_is_valid() {
    let provider = Provider::gated(&TestClock::new());
    provider.open();
    let lakebase = lakebase(&provider);
    accepted(&lakebase).await.expect("the first");
    let end = Instant::now() + HOUR;
    provider.close();
    while Instant::now() + Duration::from_millis(2_900) < end {
        let began = Instant::now();
        accepted(&lakebase).await.expect("the token is valid");
        assert!(began.elapsed() < SECOND, "waited {:?}", began.elapsed());
        sleep(Duration::from_millis(1_300)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn shortly_before_its_expiry_a_login_waits_a_moment_for_a_new_token() {
    let provider = Provider::new(&TestClock::new());
    let lakebase = lakebase(&provider);
    accepted(&lakebase).await.expect("the first");
    provider.play(down());
    sleep(HOUR - 20 * SECOND).await;
    provider.play(Script::Mint);
    // Callers share the last failure for half a second.
    sleep(SECOND).await;
    assert_ne!(accepted(&lakebase).await.expect("the next"), "token-1");
}

#[tokio::test(start_paused = true)]
async fn a_token_that_was_rejected_by_mistake_is_used_again_while_none_can_be_minted() {
    let provider = Provider::new(&TestClock::new());
    let lakebase = lakebase(&provider);
    accepted(&lakebase).await.expect("the first");
    provider.play(down());
    let rejections = AtomicUsize::new(0);
    let once = |_: &str| rejections.fetch_add(1, Ordering::SeqCst) == 0;
    let token = log_in(&lakebase, once)
        .await
        .expect("a login with the rejected token");
    assert_eq!(token, "token-1");
    let held = lakebase.credential().now_or_never().expect("at hand");
    let held = held.expect("a credential");
    assert!(
        lakebase_core::adapter::is_current(&lakebase, &held),
        "{held:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_earlier_mistaken_rejection_does_not_count_against_the_next_token() {
    let provider = Provider::new(&TestClock::new());
    let lakebase = lakebase(&provider);
    accepted(&lakebase).await.expect("the first");
    provider.play(down());
    let rejections = AtomicUsize::new(0);
    let once = |_: &str| rejections.fetch_add(1, Ordering::SeqCst) == 0;
    log_in(&lakebase, once)
        .await
        .expect("a login with the rejected token");
    provider.play(Script::Mint);
    sleep(50 * 60 * SECOND).await;
    // The next one is revoked before its first use, and replaced like any revoked token.
    let next = lakebase.credential().await.expect("renewed");
    let revoked = next.expose().to_owned();
    let token = log_in(&lakebase, |token| token == revoked).await;
    assert_ne!(token.expect("the one after it"), revoked);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_was_revoked_during_an_outage_is_used_once_per_failed_mint() {
    let provider = Provider::new(&TestClock::new());
    let lakebase = lakebase(&provider).with_connect_timeout(10 * SECOND);
    accepted(&lakebase).await.expect("the first");
    provider.play(down());
    let logins = AtomicUsize::new(0);
    let revoked = |token: &str| {
        logins.fetch_add(1, Ordering::SeqCst);
        token == "token-1"
    };
    let before = provider.calls();
    let errors = join_all((0..20).map(|_| log_in(&lakebase, &revoked))).await;
    for error in errors {
        let error = error.expect_err("revoked");
        let text = error.chain();
        assert!(error.is_timeout() && error.is_transient(), "{text}");
        assert!(text.contains("the workspace is down"), "{text}");
    }
    let (logins, mints) = (logins.load(Ordering::SeqCst), provider.calls() - before);
    assert!(
        logins <= 20 + mints,
        "{logins} logins with {mints} attempts to mint"
    );
    assert!(mints <= 40, "{mints} attempts to mint in ten seconds");
    provider.play(Script::Mint);
    let back = Instant::now();
    let token = log_in(&lakebase, &revoked).await.expect("a new one");
    assert_ne!(token, "token-1");
    assert!(back.elapsed() < SECOND, "{:?}", back.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_token_that_arrives_during_a_login_with_the_last_resort_is_used() {
    let provider = Provider::new(&TestClock::new());
    let lakebase = lakebase(&provider);
    accepted(&lakebase).await.expect("the first");
    provider.play(down());
    let logins = AtomicUsize::new(0);
    let login = lakebase_core::adapter::login(&lakebase, |login| {
        let token = login.credential.expose().to_owned();
        let number = logins.fetch_add(1, Ordering::SeqCst);
        let (provider, lakebase) = (provider.clone(), lakebase.clone());
        async move {
            if number == 1 {
                // The workspace is back, and another caller gets a token.
                provider.play(Script::Mint);
                sleep(SECOND).await;
                while lakebase.credential().await.is_err() {}
            }
            match token.as_str() {
                "token-1" => Err(LoginFailure::postgres(
                    "28P01",
                    "Invalid authorization",
                    "no",
                )),
                _ => Ok(token),
            }
        }
    });
    assert_ne!(login.await.expect("the new one"), "token-1");
}

#[tokio::test(start_paused = true)]
async fn a_login_late_in_an_outage_uses_the_token_while_it_waits_for_a_new_one() {
    let provider = Provider::gated(&TestClock::new());
    provider.open();
    let lakebase = lakebase(&provider);
    accepted(&lakebase).await.expect("the first");
    provider.close();
    // The wait for a new one would end within its last two seconds.
    sleep(HOUR - Duration::from_millis(2_300)).await;
    let began = Instant::now();
    accepted(&lakebase).await.expect("the token is valid");
    assert!(began.elapsed() < SECOND, "waited {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_new_token_never_leads_to_a_login_with_an_expired_one() {
    let mut provider = Provider::gated(&TestClock::new());
    provider.lifetime = 3 * SECOND;
    provider.open();
    let lakebase = lakebase(&provider);
    accepted(&lakebase).await.expect("the first");
    let end = Instant::now() + 3 * SECOND;
    provider.close();
    let hasty = lakebase.with_connect_timeout(SECOND);
    while Instant::now() < end + SECOND {
        let login = lakebase_core::adapter::login(&hasty, |_| async {
            assert!(
                Instant::now() + Duration::from_millis(290) < end,
                "too late"
            );
            Ok(())
        });
        let _ = login.await;
        sleep(Duration::from_millis(7)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_is_not_used_again_if_the_mint_fails_permanently() {
    let provider = Provider::new(&TestClock::new());
    let lakebase = lakebase(&provider);
    accepted(&lakebase).await.expect("the first");
    provider.play(Script::Fail(Error::provider("no permission", false)));
    let logins = AtomicUsize::new(0);
    let revoked = |_: &str| {
        logins.fetch_add(1, Ordering::SeqCst);
        true
    };
    let error = log_in(&lakebase, revoked).await.expect_err("revoked");
    assert!(error.to_string().contains("no permission"), "{error}");
    assert_eq!(logins.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_is_used_again_after_three_seconds_without_a_reply_to_the_mint() {
    let provider = Provider::gated(&TestClock::new());
    provider.open();
    let lakebase = lakebase(&provider);
    accepted(&lakebase).await.expect("the first");
    provider.close();
    let rejections = AtomicUsize::new(0);
    let once = |_: &str| rejections.fetch_add(1, Ordering::SeqCst) == 0;
    let began = Instant::now();
    log_in(&lakebase, once)
        .await
        .expect("a login with the rejected token");
    assert!(began.elapsed() <= 4 * SECOND, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn after_a_login_with_the_rejected_token_the_waiting_logins_use_it_too() {
    let provider = Provider::gated(&TestClock::new());
    provider.open();
    let lakebase = lakebase(&provider);
    accepted(&lakebase).await.expect("the first");
    provider.close();
    let attempts = AtomicUsize::new(0);
    let log_in = || {
        lakebase_core::adapter::login(&lakebase, |_| {
            let is_first = attempts.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                if is_first {
                    return Err(LoginFailure::postgres("28P01", "a mistake", "no"));
                }
                sleep(SECOND / 10).await;
                Ok(())
            }
        })
    };
    let began = Instant::now();
    for login in join_all((0..10).map(|_| log_in())).await {
        login.expect("a login with the rejected token");
    }
    assert!(began.elapsed() <= 5 * SECOND, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_tls_error_ends_a_login_only_if_it_is_about_certificates_or_the_configuration() {
    use rustls::{AlertDescription, CertificateError, Error as Tls};

    let lakebase = lakebase(&Provider::new(&TestClock::new()));
    for (tls, is_permanent) in [
        (Tls::AlertReceived(AlertDescription::InternalError), false),
        (Tls::AlertReceived(AlertDescription::UserCanceled), false),
        (
            Tls::AlertReceived(AlertDescription::UnrecognisedName),
            false,
        ),
        (Tls::DecryptError, false),
        (
            Tls::InvalidMessage(rustls::InvalidMessage::MessageTooShort),
            false,
        ),
        (Tls::AlertReceived(AlertDescription::UnknownCA), true),
        (Tls::AlertReceived(AlertDescription::ProtocolVersion), true),
        (Tls::InvalidCertificate(CertificateError::Expired), true),
        (Tls::NoCertificatesPresented, true),
    ] {
        let attempts = AtomicUsize::new(0);
        let login = lakebase_core::adapter::login(&lakebase, |_| {
            let is_first = attempts.fetch_add(1, Ordering::SeqCst) == 0;
            let failure = LoginFailure::transport(std::io::Error::other(tls.clone()));
            async move { if is_first { Err(failure) } else { Ok(()) } }
        });
        match login.await {
            Ok(()) => assert!(!is_permanent, "{tls}"),
            Err(error) => {
                let text = error.to_string();
                assert!(is_permanent && !error.is_transient(), "{tls}: {text}");
                assert!(text.contains("no trusted TLS connection"), "{tls}: {text}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn alternating_rejections_and_successes_mint_at_most_one_token_a_second() {
    let provider = Provider::new(&TestClock::new());
    let lakebase = lakebase(&provider);
    accepted(&lakebase).await.expect("the first");
    let end = Instant::now() + 30 * SECOND;
    let logins = AtomicUsize::new(0);
    while Instant::now() < end {
        let every_second = |_: &str| logins.fetch_add(1, Ordering::SeqCst).is_multiple_of(2);
        let _ = log_in(&lakebase, every_second).await;
        sleep(Duration::from_millis(10)).await;
    }
    let mints = provider.calls();
    assert!(mints <= 10 + 31, "{mints} mints in 30 s");
}

#[tokio::test(start_paused = true)]
async fn a_login_to_a_fresh_branch_that_rejects_valid_tokens_is_retried_with_new_ones() {
    let provider = Provider::new(&TestClock::new());
    let lakebase = lakebase(&provider);
    let ready = Instant::now() + 20 * SECOND;
    let tokens = Mutex::new(Vec::new());
    let login = lakebase_core::adapter::login(&lakebase, |login| {
        tokens
            .lock()
            .expect("not poisoned")
            .push(login.credential.expose().to_owned());
        let is_ready = Instant::now() >= ready;
        async move {
            match is_ready {
                true => Ok(()),
                false => Err(LoginFailure::postgres(
                    "XX000",
                    "External authorization failed",
                    "no",
                )),
            }
        }
    });
    login.await.expect("a login");
    assert!(Instant::now() < ready + 6 * SECOND);
    let mut tokens = tokens.into_inner().expect("not poisoned");
    let logins = tokens.len();
    tokens.dedup();
    assert!((3..=10).contains(&tokens.len()), "{tokens:?}");
    assert!(logins <= 20, "{logins} logins");
    let never = lakebase.with_connect_timeout(5 * SECOND);
    let login = lakebase_core::adapter::login(&never, |_| async {
        Err::<(), _>(LoginFailure::postgres(
            "28000",
            "External authorization failed",
            "no",
        ))
    });
    let error = login.await.expect_err("never ready");
    assert!(error.is_timeout() && error.is_transient(), "{error}");
    assert!(error.to_string().contains("new branch"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_cannot_authorize_after_a_login_costs_at_most_one_token_a_minute() {
    let provider = Provider::new(&TestClock::new());
    let lakebase = lakebase(&provider).with_connect_timeout(600 * SECOND);
    accepted(&lakebase).await.expect("the first");
    let ready = Instant::now() + 300 * SECOND;
    let logins = (0..10).map(|_| {
        lakebase_core::adapter::login(&lakebase, |_| async move {
            match Instant::now() >= ready {
                true => Ok(()),
                false => Err(LoginFailure::postgres(
                    "XX000",
                    "External authorization failed",
                    "no",
                )),
            }
        })
    });
    let sometimes = async {
        while Instant::now() < ready {
            accepted(&lakebase).await.expect("a login");
            sleep(10 * SECOND).await;
        }
    };
    let (logins, ()) = tokio::join!(join_all(logins), sometimes);
    for login in logins {
        login.expect("a login");
    }
    let mints = provider.calls();
    assert!(mints <= 1 + 6, "{mints} mints in 5 minutes");
}

#[tokio::test(start_paused = true)]
async fn the_last_failure_of_a_handle_is_not_that_of_another_database() {
    let lakebase = lakebase(&Provider::new(&TestClock::new()));
    let missing = lakebase.with_database("missing").expect("a name");
    let login = lakebase_core::adapter::login(&missing, |_| async {
        Err::<(), _>(LoginFailure::postgres(
            "3D000",
            "database does not exist",
            "no",
        ))
    });
    login.await.expect_err("no such database");
    let sqlstate = |error: Option<Error>| error?.sqlstate().map(str::to_owned);
    assert_eq!(
        sqlstate(missing.clone().last_failure()).as_deref(),
        Some("3D000")
    );
    assert_eq!(sqlstate(lakebase.last_failure()), None);
}

/// A subscriber that uses the handle at each event, as an exporter of logs may do.
struct UsesHandle;

static HANDLE: OnceLock<Lakebase> = OnceLock::new();

impl tracing::Subscriber for UsesHandle {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        if let Some(lakebase) = HANDLE.get() {
            let _ = lakebase.credential().now_or_never();
            let _ = lakebase.last_failure();
        }
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn a_subscriber_that_uses_the_same_handle_does_not_deadlock() {
    let (done, outcome) = std::sync::mpsc::channel();
    // On a thread of its own, so that a deadlock fails the test.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let _nosy = tracing::subscriber::set_default(UsesHandle);
        runtime.block_on(async {
            let provider = Provider::new(&TestClock::new());
            let lakebase = HANDLE.get_or_init(|| lakebase(&provider)).clone();
            provider.play(down());
            lakebase.credential().await.expect_err("down");
            provider.play(Script::Mint);
            sleep(SECOND).await;
            accepted(&lakebase).await.expect("a login");
            let rejected = log_in(&lakebase, |token| token == "token-2").await;
            rejected.expect("renewed");
        });
        let _ = done.send(());
    });
    let limit = Duration::from_secs(60);
    outcome.recv_timeout(limit).expect("no deadlock");
}

#[test]
fn an_overdue_mint_that_completes_late_does_not_replace_a_newer_credential() {
    let provider = Provider::gated(&TestClock::new());
    let lakebase = lakebase(&provider);
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime")
    };
    // The first mint hangs, and then its runtime stops.
    let stopped = runtime();
    let first = {
        let lakebase = lakebase.clone();
        stopped.spawn(async move { lakebase.credential().await })
    };
    stopped.block_on(async {
        while provider.calls() == 0 {
            tokio::task::yield_now().await;
        }
    });
    let second = runtime().block_on(async {
        sleep(60 * SECOND).await;
        provider.open();
        lakebase.credential().await.expect("minted here")
    });
    // The first runtime continues, and its caller gets the same credential.
    let late = stopped
        .block_on(first)
        .expect("no panic")
        .expect("a credential");
    assert_eq!(late.generation(), second.generation());
    assert!(
        lakebase_core::adapter::is_current(&lakebase, &late),
        "{late:?}"
    );
}
