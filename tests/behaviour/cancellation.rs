//! A caller that gives up, a runtime that ends, a thread without one: no other caller is affected, and nothing
//! is left.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use lakebase_local::{Call, Event, EventKind, Fault, LocalLakebase};
use lakebase_tests::{
    Adapter, App, PATIENCE, SENT_AGAIN, TooSlow, every_adapter_in_time, in_own_process,
    in_time_blocking, lakebase, local, local_with_tokens_of, logged_in, minted,
    no_expired_token_was_used, proxy_threads, soon, through_every_adapter, too_slow_unless,
};
use tokio::runtime::{Builder, Runtime};

const TASKS: usize = 20;

fn runtime() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).enable_all();
    builder.build().expect("a runtime")
}

fn has_signed_in(events: &[Event]) -> bool {
    let calls = |event: &Event| matches!(event.kind, EventKind::WorkspaceToken { .. });
    events.iter().any(calls)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_give_up_during_a_mint_do_not_affect_the_others() {
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
        // The sign-in is done, the mint is under way.
        soon(local.wait_until(has_signed_in)).await;
        for given_up in &starting[..TASKS / 2] {
            given_up.abort();
        }
        for (number, started) in soon(join_all(starting)).await.into_iter().enumerate() {
            match started {
                Ok(outcome) => outcome.unwrap_or_else(|failure| panic!("{adapter:?}: {failure}")),
                Err(given_up) => assert!(given_up.is_cancelled() && number < TASKS / 2),
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
async fn logins_that_are_given_up_leave_no_session_open() {
    through_every_adapter(async |adapter| {
        let local = local().await;
        let lakebase = lakebase(&local);
        let app = App::start(adapter, &lakebase).await.expect("started");
        for millis in 0..30 {
            let patience = Duration::from_millis(millis);
            let _ = tokio::time::timeout(patience, app.log_in()).await;
        }
        soon(app.log_in()).await.expect("unimpressed");
        drop((app, lakebase));
        // Every session that was opened ends.
        let open = |event: &Event| match event.kind {
            EventKind::LoggedIn(_) => 1,
            EventKind::Ended { .. } => -1,
            _ => 0,
        };
        soon(local.wait_until(|events| events.iter().map(open).sum::<i32>() == 0)).await;
    })
    .await;
}

/// A runtime that is dropped while it mints, with a caller on another one that waits for it; then others.
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
    servers.block_on(async { soon(local.wait_until(has_signed_in)).await });
    let (joined, is_waiting) = std::sync::mpsc::channel();
    let waiting = std::thread::spawn({
        let lakebase = lakebase.clone();
        move || {
            runtime().block_on(async {
                let mut credential = std::pin::pin!(lakebase.credential());
                // From its first poll on it waits for the mint of the other runtime.
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

    // The pool of r2d2 has a runtime of its own, which ends a moment after it.
    servers.block_on(soon(async {
        while proxy_threads() > threads {
            tokio::task::yield_now().await;
        }
    }));
    // The one that renewed has ended as well; tokens are renewed all the same.
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
        for adapter in lakebase_tests::ADAPTERS {
            in_time_blocking(|| {
                let local = servers.block_on(local_with_tokens_of(Duration::from_secs(3)));
                let survived = survives_its_runtime(adapter, &servers, &local);
                servers.block_on(local.stop());
                survived
            });
        }
    };
    in_own_process(
        "cancellation::a_runtime_that_ends_does_not_affect_callers_on_others",
        prove,
    );
}

#[test]
fn one_handle_serves_many_runtimes_at_once() {
    let servers = runtime();
    let local = Arc::new(servers.block_on(local()));
    let lakebase = lakebase(&local);
    std::thread::scope(|scope| {
        for adapter in lakebase_tests::ADAPTERS {
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
    assert_eq!(local.counters().minted, 1, "one for all of them");
}

#[test]
fn without_a_runtime_there_is_an_error_at_once() {
    let servers = runtime();
    let local = servers.block_on(local());
    let lakebase = lakebase(&local);
    // Synchronous diesel needs none.
    let mut connection = lakebase_diesel::r2d2::establish(&lakebase).expect("a login");
    let answer = diesel::RunQueryDsl::execute(diesel::sql_query("SELECT 1"), &mut connection);
    answer.expect("an answer");
    let asynchronous = lakebase_tests::ADAPTERS.into_iter();
    for adapter in asynchronous.filter(|adapter| *adapter != Adapter::DieselR2d2) {
        let outcome = App::start(adapter, &lakebase).now_or_never();
        let failure = outcome.expect("at once").expect_err("no runtime");
        assert!(failure.text.contains("runtime"), "{adapter:?}: {failure}");
    }
    let error = lakebase.credential().now_or_never().expect("at once");
    let error = error.expect_err("no runtime");
    assert!(error.to_string().contains("runtime"), "{error}");
    // And then there is one.
    servers.block_on(async { soon(lakebase.credential()).await.expect("a credential") });
}
