//! A dropped future or a runtime that ends affects no other caller and leaves nothing behind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use lakebase_local::{Call, Event, EventKind, Fault, LocalLakebase};
use lakebase_tests::{
    ADAPTERS, Adapter, App, PATIENCE, SENT_AGAIN, TooSlow, every_adapter_in_time, in_own_process,
    in_time_blocking, lakebase, local, local_with_tokens_of, logged_in, minted,
    no_expired_token_was_used, no_session, proxy_threads, soon, statements_run,
    through_every_adapter, too_slow_unless, until,
};
use tokio::runtime::{Builder, Runtime};

const TASKS: usize = 10;

fn runtime() -> Runtime {
    Runtime::new().expect("a runtime")
}

fn has_authenticated(events: &[Event]) -> bool {
    let calls = |event: &Event| matches!(event.kind, EventKind::WorkspaceToken { .. });
    events.iter().any(calls)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_are_dropped_during_a_mint_do_not_affect_the_others() {
    every_adapter_in_time(async |adapter| {
        let local = local().await;
        let began = Instant::now();
        local.fail(Call::Credential, Fault::Slow(Duration::from_millis(500)));
        let lakebase = lakebase(&local);
        let starting: Vec<_> = (0..TASKS)
            .map(|_| {
                let lakebase = lakebase.clone();
                tokio::spawn(async move { App::start(adapter, &lakebase).await.map(drop) })
            })
            .collect();
        // From then on, the mint is under way.
        soon(local.wait_until(has_authenticated)).await;
        for dropped in &starting[..TASKS / 2] {
            dropped.abort();
        }
        for (number, started) in soon(join_all(starting)).await.into_iter().enumerate() {
            match started {
                Ok(outcome) => outcome.unwrap_or_else(|failure| panic!("{adapter:?}: {failure}")),
                Err(aborted) => assert!(aborted.is_cancelled() && number < TASKS / 2),
            }
        }
        let minted = local.counters().minted;
        too_slow_unless(minted == 1 || began.elapsed() < SENT_AGAIN, || {
            format!("{adapter:?}: minted again")
        })?;
        assert_eq!(minted, 1, "{adapter:?}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_logins_leave_no_session_open() {
    through_every_adapter(async |adapter| {
        let local = local().await;
        let lakebase = lakebase(&local);
        let app = App::start(adapter, &lakebase).await.expect("started");
        for millis in (0..30).step_by(2) {
            let patience = Duration::from_millis(millis);
            let _ = tokio::time::timeout(patience, app.log_in()).await;
        }
        soon(app.log_in()).await.expect("a login");
        drop((app, lakebase));
        no_session(&local).await;
    })
    .await;
}

/// A runtime ends while it mints for a caller on another one. Then others do the same work.
fn survives_its_runtime(
    adapter: Adapter,
    servers: &Runtime,
    local: &LocalLakebase,
) -> Result<(), TooSlow> {
    let threads = proxy_threads();
    let lakebase = lakebase(local);
    let start = || {
        let lakebase = lakebase.clone();
        async move { App::start(adapter, &lakebase).await.map(drop) }
    };
    local.fail(Call::Credential, Fault::Slow(PATIENCE * 10));
    let first = runtime();
    let minting = first.spawn(start());
    servers.block_on(async { soon(local.wait_until(has_authenticated)).await });
    let (joined, is_waiting) = std::sync::mpsc::channel();
    let waiting = std::thread::spawn({
        let lakebase = lakebase.clone();
        move || {
            runtime().block_on(async {
                let mut credential = std::pin::pin!(lakebase.credential());
                // From its first poll, it waits for the mint of the other runtime.
                assert!(futures_util::poll!(&mut credential).is_pending());
                joined.send(()).expect("the test listens");
                soon(credential).await.map(drop)
            })
        }
    });
    is_waiting.recv().expect("it waits");
    assert!(!minting.is_finished() && !waiting.is_finished());
    local.heal(Call::Credential);
    first.shutdown_timeout(PATIENCE);
    logged_in(local, waiting.join().expect("no panic"))?;

    let second = runtime();
    second.block_on(async {
        let app = logged_in(local, soon(App::start(adapter, &lakebase)).await)?;
        soon(app.ask()).await.expect("an answer");
        Ok(())
    })?;
    second.shutdown_timeout(PATIENCE);

    if adapter == Adapter::DieselR2d2 {
        // The thread of its proxy ends a moment after the pool.
        servers.block_on(until(|| proxy_threads() <= threads));
    }
    // The runtime that renewed has ended, and another one renews.
    let before = local.counters().minted;
    let third = runtime();
    third.block_on(async {
        let app = logged_in(local, soon(App::start(adapter, &lakebase)).await)?;
        soon(local.wait_until(|events| minted(events).len() as u64 > before)).await;
        logged_in(local, soon(app.log_in()).await)
    })?;
    third.shutdown_timeout(PATIENCE);
    no_expired_token_was_used(local)
}

#[test]
fn a_runtime_that_ends_does_not_affect_callers_on_others() {
    let prove = || {
        let servers = runtime();
        let prove = |adapter| {
            in_time_blocking(|| {
                let local = servers.block_on(local_with_tokens_of(Duration::from_secs(3)));
                let survived = survives_its_runtime(adapter, &servers, &local);
                servers.block_on(local.stop());
                survived
            });
        };
        std::thread::scope(|scope| {
            for adapter in ADAPTERS {
                scope.spawn(move || prove(adapter));
            }
        });
    };
    in_own_process(
        "cancellation::a_runtime_that_ends_does_not_affect_callers_on_others",
        prove,
    );
}

#[test]
fn one_handle_serves_many_runtimes_at_the_same_time() {
    let servers = runtime();
    let local = Arc::new(servers.block_on(local()));
    let lakebase = lakebase(&local);
    std::thread::scope(|scope| {
        for adapter in ADAPTERS {
            for _ in 0..3 {
                let lakebase = &lakebase;
                scope.spawn(move || {
                    let mut builder = Builder::new_current_thread();
                    let runtime = builder.enable_all().build().expect("a runtime");
                    runtime.block_on(async {
                        let app = soon(App::start(adapter, lakebase)).await.expect("started");
                        soon(app.log_in()).await.expect("a login");
                    });
                });
            }
        }
    });
    assert_eq!(local.counters().minted, 1, "one for all runtimes");
}

#[test]
fn a_call_without_a_runtime_fails_at_once() {
    let servers = runtime();
    let local = servers.block_on(local());
    let lakebase = lakebase(&local);
    // Synchronous diesel needs no runtime.
    let mut connection = lakebase_diesel::r2d2::establish(&lakebase).expect("a login");
    let answer = diesel::RunQueryDsl::execute(diesel::sql_query("SELECT 1"), &mut connection);
    answer.expect("an answer");
    let asynchronous = ADAPTERS.into_iter();
    for adapter in asynchronous.filter(|adapter| *adapter != Adapter::DieselR2d2) {
        let outcome = App::start(adapter, &lakebase).now_or_never();
        let failure = outcome.expect("at once").expect_err("no runtime");
        assert!(failure.text.contains("runtime"), "{adapter:?}: {failure}");
    }
    let error = lakebase.credential().now_or_never().expect("at once");
    let error = error.expect_err("no runtime");
    assert!(error.to_string().contains("runtime"), "{error}");
    // The same handle works on a runtime.
    servers.block_on(async { soon(lakebase.credential()).await.expect("a credential") });
}

#[tokio::test]
async fn with_diesel_a_connection_whose_statement_was_dropped_before_its_end_serves_nobody_else() {
    let prove = async |adapter: Adapter| {
        let local = local().await;
        let app = soon(App::start_with(adapter, &lakebase(&local), 1)).await;
        let app = app.expect("started");
        tokio::select! {
            outcome = app.run("SELECT pg_sleep(1000) /* dropped */") => panic!("{outcome:?}"),
            () = statements_run(&local, "%/* dropped */%", 1) => {}
        }
        soon(app.ask()).await.expect("an answer");
    };
    tokio::join!(prove(Adapter::DieselBb8), prove(Adapter::DieselDeadpool));
}
