//! A cold start of many callers signs in once and mints once.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use lakebase_core::{Error, Lakebase};
use lakebase_local::{Call, EventKind, Fault, LocalLakebase};
use lakebase_tests::{lakebase, lakebase_with, local, soon};

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

/// What a hundred tasks get that run at the same time.
async fn a_hundred<T: Send + 'static, F>(lakebase: &Lakebase, run: impl Fn(Lakebase) -> F) -> Vec<T>
where
    F: Future<Output = T> + Send + 'static,
{
    let tasks = (0..100).map(|_| tokio::spawn(run(lakebase.clone())));
    let answers = soon(join_all(tasks)).await.into_iter();
    answers.map(|answer| answer.expect("no panic")).collect()
}

async fn log_in_a_hundred_times(lakebase: &Lakebase) -> Vec<Result<(), Error>> {
    a_hundred(lakebase, async |lakebase| {
        lakebase.connect().await.map(drop)
    })
    .await
}

fn calls(local: &LocalLakebase, wanted: &[Call]) -> usize {
    let is_wanted =
        |kind: &EventKind| matches!(kind, EventKind::Api { call, .. } if wanted.contains(call));
    let events = local.events();
    events.iter().filter(|event| is_wanted(&event.kind)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_tasks_share_one_workspace_token_and_one_mint() {
    let local = local().await;
    let answers = a_hundred(&lakebase(&local), async |lakebase| {
        lakebase.credential().await
    })
    .await;
    let tokens = answers
        .into_iter()
        .map(|answer| answer.expect("a credential"));
    let tokens: BTreeSet<_> = tokens.map(|token| token.expose().to_owned()).collect();
    assert_eq!(tokens.len(), 1);
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
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_tasks_share_a_failed_mint() {
    let local = local().await;
    local.fail(
        Call::Credential,
        Fault::status(403, "PERMISSION_DENIED", "not you"),
    );
    let answers = a_hundred(&lakebase(&local), async |lakebase| {
        lakebase.credential().await
    })
    .await;
    for answer in answers {
        let error = answer.expect_err("refused");
        assert_eq!(error.error_code(), Some("PERMISSION_DENIED"), "{error}");
    }
    let counters = local.counters();
    assert_eq!(counters.credential_calls, 1, "{counters:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_logins_look_everything_up_once() {
    let local = local().await;
    let branch = local.branch();
    let of_branch = [
        ("PGHOST", ""),
        ("PGUSER", ""),
        ("LAKEBASE_ENDPOINT", &branch),
    ];
    // Documents (OAuth and host), token, mint, endpoints, user.
    for (lakebase, expected) in [
        (lakebase(&local), [2, 1, 1, 0, 0]),
        (bare_service_principal(&local), [2, 1, 1, 1, 0]),
        // The list of its endpoints has two pages.
        (lakebase_with(&local, &of_branch), [2, 1, 1, 3, 0]),
        (bare(&local), [0, 0, 1, 1, 1]),
    ] {
        let made = || ALL_CALLS.map(|call| calls(&local, &[call]));
        let (before, logins) = (made(), local.counters().logins);
        for answer in log_in_a_hundred_times(&lakebase).await {
            answer.expect("a connection");
        }
        let counters = local.counters();
        assert_eq!((counters.logins - logins, counters.refused), (100, 0));
        let made: Vec<_> = made()
            .iter()
            .zip(before)
            .map(|(all, before)| all - before)
            .collect();
        assert_eq!(made, expected, "{lakebase:?}");
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
async fn a_wait_that_the_workspace_asks_for_holds_for_all_callers() {
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
