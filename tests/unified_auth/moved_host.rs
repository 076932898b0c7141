//! An endpoint that is created again has another host. Its old host may still answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lakebase_core::adapter::LoginFailure;
use lakebase_core::{Error, Lakebase};
use lakebase_tests::{PATIENCE, soon};

use crate::ENDPOINT;
use crate::stub::{Answer, CREDENTIALS, Stub};

const OLD: &str = "old.example.com";

/// A workspace whose endpoint can move to another host, and a handle without `PGHOST`.
struct Bench {
    stub: Stub,
    has_moved: Arc<AtomicBool>,
    lakebase: Lakebase,
}

impl Bench {
    async fn new() -> Self {
        Self::with_failed_mint(0).await
    }

    /// The endpoint is unknown to the mint of this number.
    async fn with_failed_mint(number: usize) -> Self {
        let has_moved = Arc::new(AtomicBool::new(false));
        let moved = Arc::clone(&has_moved);
        let stub = Stub::start(move |seen| {
            let host = match moved.load(Ordering::SeqCst) {
                false => OLD,
                true => "new.example.com",
            };
            let endpoint = format!("{{\"status\": {{\"hosts\": {{\"host\": \"{host}\"}}}}}}");
            match seen.path.ends_with(ENDPOINT) {
                true => Some(Answer::json(endpoint)),
                false if seen.path == CREDENTIALS && seen.count == number => {
                    Some(Answer::new(404, ""))
                }
                false => None,
            }
        })
        .await;
        let lakebase = crate::handle(&stub.service_principal(), &[]);
        Self {
            stub,
            has_moved,
            lakebase: lakebase.with_connect_timeout(Duration::from_millis(500)),
        }
    }

    /// Logs in. Only the new host accepts the login.
    async fn log_in(&self, failure: impl Fn() -> LoginFailure) -> Result<(), Error> {
        lakebase_core::adapter::login(&self.lakebase, |login| {
            let outcome = match login.target.host() {
                OLD => Err(failure()),
                _ => Ok(()),
            };
            async move { outcome }
        })
        .await
    }

    fn lookups(&self) -> usize {
        let seen = self.stub.seen("");
        seen.iter()
            .filter(|seen| seen.path.ends_with(ENDPOINT))
            .count()
    }
}

/// Lets time pass that is longer than the test.
async fn pass(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

fn answer(sqlstate: &str, message: &str) -> LoginFailure {
    LoginFailure::postgres(sqlstate, message, "no")
}

#[tokio::test]
async fn a_host_that_answers_for_another_endpoint_is_looked_up_again() {
    let failures: [fn() -> LoginFailure; 4] = [
        || answer("XX000", "the endpoint could not be found"),
        || answer("08006", "the endpoint could not be found"),
        || answer("28000", "no such endpoint"),
        || LoginFailure::closed("closed"),
    ];
    for failure in failures {
        let bench = Bench::new().await;
        bench.lakebase.target().await.expect("looked up");
        pass(61).await;
        bench.has_moved.store(true, Ordering::SeqCst);
        let mut last = None;
        for _ in 0..10 {
            last = bench.log_in(failure).await.err();
        }
        assert!(last.is_none(), "{last:?}");
        assert_eq!(bench.lookups(), 2, "{}", failure());
    }
}

#[tokio::test]
async fn a_host_is_kept_while_the_endpoints_postgres_answers() {
    let bench = Bench::new().await;
    for _ in 0..2 {
        for sqlstate in ["53300", "57P03", "42501", "3D000"] {
            let login = bench.log_in(|| answer(sqlstate, "no session")).await;
            login.expect_err("no session");
            pass(61).await;
        }
    }
    assert_eq!(bench.lookups(), 1);
}

#[tokio::test]
async fn a_role_that_can_never_log_in_causes_one_look_up_a_minute() {
    let mut bench = Bench::new().await;
    bench.lakebase = bench.lakebase.with_connect_timeout(PATIENCE);
    for _ in 0..120 {
        let login = bench.log_in(|| answer("28P01", "no such role")).await;
        login.expect_err("no such role");
        pass(2).await;
    }
    assert!(
        (2..=5).contains(&bench.lookups()),
        "{} in 4 minutes",
        bench.lookups()
    );
}

#[tokio::test]
async fn after_a_mint_for_an_unknown_endpoint_its_host_is_looked_up_again() {
    let bench = Bench::with_failed_mint(2).await;
    bench.lakebase.target().await.expect("looked up");
    let held = bench.lakebase.credential().await.expect("a credential");
    lakebase_core::adapter::accept(&held);
    pass(6).await;
    lakebase_core::adapter::reject(&bench.lakebase, &held);
    bench.has_moved.store(true, Ordering::SeqCst);
    let error = bench.lakebase.credential().await.expect_err("404");
    assert_eq!(error.status(), Some(404), "{error}");
    // A call waits for the look-up for a moment only.
    soon(async { while bench.lakebase.target().await.expect("a host").host() == OLD {} }).await;
}
