//! One mint serves all waiting callers, and no caller disturbs the others.

#![allow(clippy::expect_used)] // a test fails by panicking

mod support;

use std::time::Duration;

use futures_util::future::join_all;
use lakebase_core::{Error, Lakebase};
use support::{Provider, Script, TestClock, lakebase};
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// The tokens of many tasks that wait for the first credential.
async fn herd(lakebase: &Lakebase, size: usize) -> Vec<Result<String, Error>> {
    let tasks = (0..size).map(|_| {
        let lakebase = lakebase.clone();
        tokio::spawn(async move {
            let credential = lakebase.credential().await?;
            Ok(credential.expose().to_owned())
        })
    });
    let credentials = join_all(tasks).await;
    credentials
        .into_iter()
        .map(|credential| credential.expect("no panic"))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_hundred_tasks_with_a_new_handle_share_one_mint() {
    let provider = Provider::gated(&TestClock::new());
    let lakebase = lakebase(&provider);
    let (answers, ()) = tokio::join!(herd(&lakebase, 100), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        provider.open();
    });
    assert!(
        answers
            .iter()
            .all(|answer| answer.as_deref().is_ok_and(|token| token == "token-1"))
    );
    assert_eq!(provider.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_tasks_share_one_failed_mint() {
    let provider = Provider::gated(&TestClock::new());
    provider.play(Script::Fail(Error::provider("no permission", false)));
    let lakebase = lakebase(&provider);
    let (answers, ()) = tokio::join!(herd(&lakebase, 100), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        provider.open();
    });
    for answer in answers {
        let error = answer.expect_err("the mint failed");
        assert!(error.to_string().contains("no permission"), "{error}");
    }
    assert_eq!(provider.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_caller_neither_cancels_nor_repeats_the_mint() {
    let provider = Provider::gated(&TestClock::new());
    let lakebase = lakebase(&provider);
    let impatient = tokio::time::timeout(Duration::from_millis(10), lakebase.credential());
    impatient.await.expect_err("the mint hangs");
    let (patient, ()) = tokio::join!(lakebase.credential(), async { provider.open() });
    assert_eq!(patient.expect("minted").expose(), "token-1");
    assert_eq!(provider.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_panics_is_an_error_and_not_a_hang() {
    let provider = Provider::new(&TestClock::new());
    provider.play(Script::Panic);
    let lakebase = lakebase(&provider);
    let error = lakebase.credential().await.expect_err("it panicked");
    assert!(error.to_string().contains("without an answer"), "{error}");
    assert!(provider.calls() <= 3, "{} calls", provider.calls());
    provider.play(Script::Mint);
    lakebase.credential().await.expect("a credential");
}

#[tokio::test(start_paused = true)]
async fn a_provider_may_return_the_longest_retry_after() {
    let provider = Provider::new(&TestClock::new());
    let down = Error::provider("the sidecar is down", true);
    provider.play(Script::Fail(down.with_retry_after(Some(Duration::MAX))));
    let error = lakebase(&provider).credential().await.expect_err("down");
    assert!(error.to_string().contains("the sidecar is down"), "{error}");
}

#[test]
fn a_runtime_that_ends_during_a_mint_does_not_block_callers_on_another() {
    let provider = Provider::gated(&TestClock::new());
    let lakebase = lakebase(&provider);
    let (first, second) = (runtime(), runtime());
    let first_caller = {
        let lakebase = lakebase.clone();
        first.spawn(async move { lakebase.credential().await })
    };
    while provider.calls() == 0 {
        std::thread::yield_now();
    }
    let second_caller = {
        let lakebase = lakebase.clone();
        second.spawn(async move { lakebase.credential().await })
    };
    first.shutdown_background();
    provider.open();
    let credential = second
        .block_on(async { tokio::time::timeout(Duration::from_secs(20), second_caller).await });
    credential
        .expect("no hang")
        .expect("no panic")
        .expect("minted on the second runtime");
    drop(first_caller);
}

#[test]
fn a_handle_can_be_used_on_one_runtime_after_the_other() {
    let provider = Provider::new(&TestClock::new());
    let lakebase = lakebase(&provider);
    for _ in 0..3 {
        let runtime = runtime();
        runtime
            .block_on(lakebase.credential())
            .expect("a credential");
        // The task of the mint ends shortly after the caller has its credential.
        while runtime.metrics().num_alive_tasks() > 1 {
            std::thread::yield_now();
        }
        assert_eq!(runtime.metrics().num_alive_tasks(), 1, "the refresh task");
    }
    assert_eq!(provider.calls(), 1);
}

#[test]
fn a_mint_on_a_stopped_runtime_is_replaced() {
    let provider = Provider::gated(&TestClock::new());
    let lakebase = lakebase(&provider);
    let stopped = Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let impatient =
        async { tokio::time::timeout(Duration::from_millis(10), lakebase.credential()).await };
    stopped.block_on(impatient).expect_err("the mint hangs");
    // Its tasks and timers no longer run.
    let running = Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build();
    provider.open();
    let credential = running.expect("a runtime").block_on(lakebase.credential());
    assert_eq!(credential.expect("minted here").expose(), "token-2");
    drop(stopped);
}
