//! A cold start of many callers signs in once and mints once.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use lakebase_core::Lakebase;
use lakebase_local::{Call, EventKind, Fault, LocalLakebase};
use lakebase_tests::{in_time, lakebase, lakebase_with, local, soon};

const ALL_CALLS: [Call; 5] = [
    Call::Discovery,
    Call::Token,
    Call::Credential,
    Call::Endpoint,
    Call::Me,
];

/// Only the endpoint is set: host and user have to be looked up.
fn bare(local: &LocalLakebase) -> Lakebase {
    let service_principal = [
        ("DATABRICKS_CLIENT_ID", ""),
        ("DATABRICKS_CLIENT_SECRET", ""),
        ("DATABRICKS_TOKEN", local.user_token()),
    ];
    let mut changes = vec![("PGHOST", ""), ("PGUSER", "")];
    changes.extend(service_principal);
    lakebase_with(local, &changes)
}

/// The same for a service principal, whose name is its client id.
fn bare_service_principal(local: &LocalLakebase) -> Lakebase {
    lakebase_with(local, &[("PGHOST", ""), ("PGUSER", "")])
}

async fn log_in_a_hundred_times(lakebase: &Lakebase) -> Vec<Result<(), lakebase_core::Error>> {
    let connecting = (0..100).map(|_| {
        let lakebase = lakebase.clone();
        tokio::spawn(async move { lakebase.connect().await.map(drop) })
    });
    let answers = soon(join_all(connecting)).await;
    answers
        .into_iter()
        .map(|answer| answer.expect("no panic"))
        .collect()
}

fn calls(local: &LocalLakebase, wanted: &[Call]) -> usize {
    let is_wanted =
        |kind: &EventKind| matches!(kind, EventKind::Api { call, .. } if wanted.contains(call));
    let events = local.events();
    events.iter().filter(|event| is_wanted(&event.kind)).count()
}

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_cold_logins_with_only_an_endpoint_look_everything_up_once() {
    let local = local().await;
    for (lakebase, tokens, me) in [(bare_service_principal(&local), 1, 0), (bare(&local), 0, 1)] {
        let before = ALL_CALLS.map(|call| calls(&local, &[call]));
        for answer in log_in_a_hundred_times(&lakebase).await {
            answer.expect("a connection");
        }
        let made: Vec<usize> = ALL_CALLS
            .iter()
            .zip(before)
            .map(|(call, before)| calls(&local, &[*call]) - before)
            .collect();
        // Token, mint, endpoint, user.
        assert_eq!(made[1..], [tokens, 1, 1, me], "{:?}", local.counters());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_logins_at_a_workspace_that_is_down_make_two_requests_a_second_in_all() {
    let local = local().await;
    for call in ALL_CALLS {
        local.fail(call, Fault::status(503, "TEMPORARILY_UNAVAILABLE", "later"));
    }
    let budget = Duration::from_secs(4);
    let herds = [bare_service_principal(&local), bare(&local)].map(|lakebase| {
        let lakebase = lakebase.with_connect_timeout(budget);
        let local = &local;
        async move {
            let (began, before) = (Instant::now(), calls(local, &ALL_CALLS));
            for answer in log_in_a_hundred_times(&lakebase).await {
                let error = answer.expect_err("down");
                assert!(error.is_timeout() && error.status() == Some(503), "{error}");
            }
            let seconds = began.elapsed().as_secs_f64();
            let made = calls(local, &ALL_CALLS) - before;
            // Cold, all look-ups begin at once; from then on they take turns.
            let most = 2.0 * seconds + 3.0;
            assert!((made as f64) <= most, "{made} requests in {seconds:.1} s");
            assert!(made >= 4, "{made} requests in {seconds:.1} s");
        }
    });
    // One after the other: the requests are counted at the workspace.
    for herd in herds {
        herd.await;
    }
}

#[tokio::test]
async fn logins_in_a_loop_repeat_a_rejected_look_up_twice_a_second() {
    let local = local().await;
    for (call, lakebase) in [
        (Call::Endpoint, bare_service_principal(&local)),
        (Call::Me, bare(&local)),
    ] {
        local.fail(call, Fault::status(403, "PERMISSION_DENIED", "not you"));
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(2) {
            let answer = soon(lakebase.connect()).await.map(drop);
            let error = answer.expect_err("rejected");
            assert_eq!(error.status(), Some(403), "{error}");
        }
        let seconds = began.elapsed().as_secs_f64();
        let made = calls(&local, &[call]);
        let most = 2.0 * seconds + 3.0;
        assert!((made as f64) <= most, "{call:?}: {made} in {seconds:.1} s");
        local.heal(call);
    }
}

#[tokio::test]
async fn callers_that_are_told_to_wait_all_wait_and_nobody_asks_meanwhile() {
    let local = local().await;
    local.fail(Call::Endpoint, Fault::rate_limited("60"));
    let lakebase = bare_service_principal(&local).with_connect_timeout(Duration::from_secs(2));
    for _ in 0..3 {
        for answer in log_in_a_hundred_times(&lakebase).await {
            let error = answer.expect_err("rate limited");
            assert_eq!(error.status(), Some(429), "{error}");
        }
    }
    assert_eq!(calls(&local, &[Call::Endpoint]), 1);
}
