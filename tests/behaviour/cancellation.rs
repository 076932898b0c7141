//! A caller that gives up, a runtime that goes away, a thread without one: nobody else notices, and nothing
//! is left.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use lakebase_core::Lakebase;
use lakebase_local::{Call, Event, EventKind, Fault, LocalLakebase};
use lakebase_tests::{
    Adapter, App, PATIENCE, lakebase, local, local_with_tokens_of, minted, soon,
    through_every_adapter,
};
use tokio::runtime::{Builder, Runtime};

const TASKS: usize = 20;

fn runtime() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).enable_all();
    builder.build().expect("a runtime")
}

fn has_called(events: &[Event]) -> bool {
    let calls = |event: &Event| matches!(event.kind, EventKind::WorkspaceToken { .. });
    events.iter().any(calls)
}

/// Starts it on a runtime of its own, which is dropped with all it runs in the middle of `program`.
fn on_a_runtime_that_goes_away<F>(lakebase: &Lakebase, program: impl FnOnce(Lakebase) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let runtime = runtime();
    runtime.block_on(async {
        let _ = tokio::time::timeout(PATIENCE, program(lakebase.clone())).await;
    });
    runtime.shutdown_timeout(PATIENCE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_give_up_while_minting_leave_the_others_alone() {
    through_every_adapter(async |adapter| {
        let local = local().await;
        local.fail(Call::Credential, Fault::Slow(Duration::from_millis(500)));
        let lakebase = lakebase(&local);
        let starting: Vec<_> = (0..TASKS)
            .map(|_| {
                let lakebase = lakebase.clone();
                tokio::spawn(async move { App::start(adapter, &lakebase).await.map(drop) })
            })
            .collect();
        // The sign-in is done, the mint is under way.
        soon(local.wait_until(has_called)).await;
        for given_up in &starting[..TASKS / 2] {
            given_up.abort();
        }
        for (number, started) in soon(join_all(starting)).await.into_iter().enumerate() {
            match started {
                Ok(outcome) => outcome.unwrap_or_else(|failure| panic!("{adapter:?}: {failure}")),
                Err(given_up) => assert!(given_up.is_cancelled() && number < TASKS / 2),
            }
        }
        assert_eq!(local.counters().minted, 1, "{adapter:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_give_up_again_and_again_leave_nothing_behind() {
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

/// Before this one is dropped, while a mint is under way, and after.
fn survives_its_runtime(adapter: Adapter, servers: &Runtime, local: &LocalLakebase) {
    let lakebase = lakebase(local);
    let watch = lakebase.clone();
    servers.block_on(async { local.fail(Call::Credential, Fault::Slow(PATIENCE)) });
    on_a_runtime_that_goes_away(&lakebase, move |lakebase| async move {
        let starting = tokio::spawn(async move { App::start(adapter, &lakebase).await.map(drop) });
        // Long enough to be in the middle of it; it cannot be over.
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!starting.is_finished());
    });
    assert!(
        watch.last_failure().is_none(),
        "{adapter:?}: a fault of ours"
    );
    local.heal(Call::Credential);

    let second = runtime();
    second.block_on(async {
        let app = soon(App::start(adapter, &lakebase)).await;
        let app = app.unwrap_or_else(|failure| panic!("{adapter:?}: {failure}"));
        soon(app.ask()).await.expect("an answer");
    });
    second.shutdown_timeout(PATIENCE);

    // The one that renewed is gone as well; tokens are renewed all the same.
    let before = local.counters().minted;
    let third = runtime();
    third.block_on(async {
        let app = soon(App::start(adapter, &lakebase)).await.expect("started");
        soon(local.wait_until(|events| minted(events).len() as u64 > before)).await;
        soon(app.log_in()).await.expect("a login");
    });
    third.shutdown_timeout(PATIENCE);
    assert_eq!(local.counters().refused, 0, "{adapter:?}");
}

#[test]
fn a_runtime_that_goes_away_takes_nothing_along() {
    let servers = runtime();
    for adapter in lakebase_tests::ADAPTERS {
        let local = servers.block_on(local_with_tokens_of(Duration::from_secs(3)));
        survives_its_runtime(adapter, &servers, &local);
        servers.block_on(local.stop());
    }
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
fn without_a_runtime_there_is_an_error_and_no_hang() {
    let servers = runtime();
    let local = servers.block_on(local());
    let lakebase = lakebase(&local);
    for adapter in lakebase_tests::ADAPTERS {
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
