//! A cold start of many callers signs in once and mints once.

use futures_util::future::join_all;
use lakebase_local::{Call, Fault};
use lakebase_tests::{in_time, lakebase, local, soon};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_tasks_on_a_cold_handle_cause_one_workspace_token_and_one_mint() {
    in_time(async || {
        let local = local().await;
        let lakebase = lakebase(&local);
        let asking = (0..100).map(|_| {
            let lakebase = lakebase.clone();
            tokio::spawn(async move { lakebase.credential().await })
        });
        let answers = soon(join_all(asking)).await;
        let tokens: Vec<_> = answers
            .into_iter()
            .map(|answer| {
                answer
                    .expect("no panic")
                    .expect("a credential")
                    .expose()
                    .to_owned()
            })
            .collect();
        assert!(tokens.iter().all(|token| token == &tokens[0]));
        let counters = local.counters();
        assert_eq!(
            (counters.workspace_tokens, counters.minted),
            (1, 1),
            "{counters:?}"
        );
        assert_eq!(
            (counters.token_calls, counters.credential_calls),
            (1, 1),
            "{counters:?}"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_tasks_share_a_failed_mint() {
    in_time(async || {
        let local = local().await;
        local.fail(
            Call::Credential,
            Fault::status(403, "PERMISSION_DENIED", "not you"),
        );
        let lakebase = lakebase(&local);
        let asking = (0..100).map(|_| {
            let lakebase = lakebase.clone();
            tokio::spawn(async move { lakebase.credential().await })
        });
        for answer in soon(join_all(asking)).await {
            let error = answer.expect("no panic").expect_err("refused");
            assert_eq!(error.error_code(), Some("PERMISSION_DENIED"), "{error}");
        }
        assert_eq!(
            local.counters().credential_calls,
            1,
            "{:?}",
            local.counters()
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_logins_on_a_cold_handle_share_one_token() {
    in_time(async || {
        let local = local().await;
        let lakebase = lakebase(&local);
        let connecting = (0..100).map(|_| {
            let lakebase = lakebase.clone();
            tokio::spawn(async move { lakebase.connect().await.map(drop) })
        });
        for answer in soon(join_all(connecting)).await {
            answer.expect("no panic").expect("a connection");
        }
        let counters = local.counters();
        assert_eq!(
            (counters.minted, counters.logins, counters.refused),
            (1, 100, 0),
            "{counters:?}"
        );
    })
    .await;
}
