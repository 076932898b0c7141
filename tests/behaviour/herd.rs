//! A cold start of many callers costs one authentication and one mint.

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

/// A user with only the endpoint set, so that host and user are looked up.
fn bare(local: &LocalLakebase) -> Lakebase {
    let changes = [
        ("DATABRICKS_CLIENT_ID", ""),
        ("DATABRICKS_CLIENT_SECRET", ""),
        ("DATABRICKS_TOKEN", local.user_token()),
        ("PGHOST", ""),
        ("PGUSER", ""),
    ];
    lakebase_with(local, &changes)
}

/// A service principal with only the endpoint set. Its role is its client id.
fn bare_service_principal(local: &LocalLakebase) -> Lakebase {
    lakebase_with(local, &[("PGHOST", ""), ("PGUSER", "")])
}

/// Returns the results of a hundred concurrent tasks.
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
        let error = answer.expect_err("rejected");
        assert_eq!(error.error_code(), Some("PERMISSION_DENIED"), "{error}");
    }
    let counters = local.counters();
    assert_eq!(counters.credential_calls, 1, "{counters:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_logins_make_each_request_to_the_workspace_once() {
    let local = local().await;
    let branch = local.branch();
    let of_branch = [
        ("PGHOST", ""),
        ("PGUSER", ""),
        ("LAKEBASE_ENDPOINT", &branch),
    ];
    // Requests by call: documents of OAuth and of the host, token, mint, endpoints, user.
    for (lakebase, expected) in [
        (lakebase(&local), [2, 1, 1, 0, 0]),
        (bare_service_principal(&local), [2, 1, 1, 1, 0]),
        // The list of the branch's endpoints has two pages.
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
async fn a_hundred_logins_during_an_outage_make_two_requests_a_second_together() {
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
            // The first requests of all look-ups begin at once.
            let most = 2.0 * seconds + 3.0;
            assert!((made as f64) <= most, "{made} requests in {seconds:.1} s");
            assert!(made >= 4, "{made} requests in {seconds:.1} s");
        }
    });
    // One after the other, because both use the counters of the workspace.
    for herd in herds {
        herd.await;
    }
}

#[tokio::test]
async fn logins_in_a_loop_repeat_a_rejected_look_up_at_most_twice_a_second() {
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
async fn retry_after_applies_to_all_callers() {
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
