//! The workspace token: when it is reused, when it is renewed in the background, and when a call waits for a new one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use lakebase_core::adapter::{Clock, SystemClock};
use lakebase_core::{Lakebase, Refresh};
use lakebase_tests::soon;
use tokio::sync::Semaphore;

use crate::builder;
use crate::stub::{Answer, CREDENTIALS, ME, Seen, Stub, TOKEN, token};

/// Both clocks; they move only by [`advance`](Self::advance).
#[derive(Clone, Debug)]
struct Ahead {
    wall: SystemTime,
    monotonic: Instant,
    by: Arc<AtomicU64>,
}

impl Ahead {
    fn new() -> Self {
        Self {
            wall: SystemClock.wall(),
            monotonic: SystemClock.monotonic(),
            by: Arc::default(),
        }
    }

    fn advance(&self, seconds: u64) {
        self.by.fetch_add(seconds, Ordering::SeqCst);
    }

    fn by(&self) -> Duration {
        Duration::from_secs(self.by.load(Ordering::SeqCst))
    }
}

impl Clock for Ahead {
    fn wall(&self) -> SystemTime {
        self.wall + self.by()
    }

    fn monotonic(&self) -> Instant {
        self.monotonic + self.by()
    }
}

struct Bench {
    stub: Stub,
    clock: Ahead,
    lakebase: Lakebase,
}

impl Bench {
    /// A workspace whose n-th authentication gets `answer(n)`, or else a token that lives for `seconds`.
    async fn new(
        seconds: u64,
        answer: impl Fn(usize) -> Option<Answer> + Send + Sync + 'static,
        explicit: &[(&str, &str)],
    ) -> Self {
        let stub = Stub::start(move |seen| match seen.path.as_str() {
            TOKEN => {
                Some(answer(seen.count).unwrap_or_else(|| Answer::json(token(seen.count, seconds))))
            }
            _ => None,
        })
        .await;
        Self::of(stub, explicit)
    }

    fn of(stub: Stub, explicit: &[(&str, &str)]) -> Self {
        let mut all = stub.service_principal().to_vec();
        all.extend(explicit);
        let clock = Ahead::new();
        let config = builder(&all, &[])
            .clock(clock.clone())
            .refresh(Refresh::Lazy);
        let config = config.build().expect("a configuration");
        let lakebase = Lakebase::new(config).expect("a handle");
        Self {
            stub,
            clock,
            lakebase,
        }
    }

    /// Makes one call, and returns the workspace token that signed it.
    async fn call(&self) -> String {
        self.try_call().await.expect("an answer")
    }

    async fn try_call(&self) -> Result<String, lakebase_core::Error> {
        self.lakebase.identity().await?;
        let sent = self.stub.last(ME);
        Ok(sent.header("authorization").replace("Bearer ", ""))
    }

    async fn until_authenticated(&self, times: usize) {
        soon(async {
            while self.stub.seen(TOKEN).len() < times {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    fn authentications(&self) -> usize {
        self.stub.seen(TOKEN).len()
    }
}

#[tokio::test]
async fn a_token_is_stale_in_its_second_half_or_its_last_twenty_minutes() {
    for (lifetime, stale) in [(3600, 2400), (600, 300), (90, 45)] {
        let bench = Bench::new(lifetime, |_| None, &[]).await;
        assert_eq!(bench.call().await, "workspace-1");
        bench.clock.advance(stale - 2);
        assert_eq!(bench.call().await, "workspace-1");
        assert_eq!(bench.authentications(), 1, "{lifetime}: fresh");
        bench.clock.advance(4);
        assert_eq!(bench.call().await, "workspace-1", "no caller waits");
        bench.until_authenticated(2).await;
        soon(async { while bench.call().await != "workspace-2" {} }).await;
        assert_eq!(bench.authentications(), 2, "{lifetime}");
    }
}

#[tokio::test]
async fn calls_with_a_stale_token_use_it_and_renew_it_once() {
    let gate = Arc::new(Semaphore::new(0));
    let hold = Arc::clone(&gate);
    let answer = move |n| (n == 2).then(|| Answer::json(token(n, 3600)).behind(&hold));
    let bench = Bench::new(3600, answer, &[]).await;
    bench.call().await;
    bench.clock.advance(41 * 60);
    for _ in 0..5 {
        assert_eq!(bench.call().await, "workspace-1");
    }
    bench.until_authenticated(2).await;
    gate.add_permits(1);
    soon(async { while bench.call().await != "workspace-2" {} }).await;
    assert_eq!(bench.authentications(), 2);
}

#[tokio::test]
async fn a_failed_renewal_is_retried_after_a_minute() {
    let refused = |n| (n == 2 || n == 3).then(|| Answer::new(400, "{}"));
    let bench = Bench::new(3600, refused, &[]).await;
    bench.call().await;
    bench.clock.advance(41 * 60);
    bench.call().await;
    bench.until_authenticated(2).await;
    bench.clock.advance(50);
    for _ in 0..20 {
        assert_eq!(bench.call().await, "workspace-1");
    }
    assert_eq!(bench.authentications(), 2, "within a minute");
    bench.clock.advance(70);
    bench.call().await;
    bench.until_authenticated(3).await;
    for _ in 0..20 {
        assert_eq!(bench.call().await, "workspace-1");
    }
    assert_eq!(bench.authentications(), 3, "one more, not one each");
}

#[tokio::test]
async fn a_late_reply_to_a_renewal_changes_nothing() {
    let late_reply = async |late_status| {
        let gate = Arc::new(Semaphore::new(0));
        let hold = Arc::clone(&gate);
        let answer = move |n| match n {
            2 => Some(Answer::new(late_status, token(n, 3600)).behind(&hold)),
            3 => Some(Answer::json(token(n, 90))),
            _ => None,
        };
        let bench = Bench::new(3600, answer, &[]).await;
        bench.call().await;
        bench.clock.advance(41 * 60);
        bench.call().await;
        bench.until_authenticated(2).await;
        bench.clock.advance(25 * 60);
        assert_eq!(bench.call().await, "workspace-3", "the old one has expired");
        gate.add_permits(1);
        for _ in 0..30 {
            assert_eq!(bench.call().await, "workspace-3");
        }
        // Its failure does not delay the next renewal.
        bench.clock.advance(46);
        bench.call().await;
        bench.until_authenticated(4).await;
    };
    // Together, because each waits 3 s until the request is repeated.
    tokio::join!(late_reply(200), late_reply(400));
}

#[tokio::test]
async fn without_background_renewal_a_token_is_used_to_its_end() {
    let off = ("disable_async_token_refresh", "true");
    let bench = Bench::new(3600, |_| None, &[off]).await;
    bench.call().await;
    bench.clock.advance(59 * 60);
    for _ in 0..20 {
        assert_eq!(bench.call().await, "workspace-1");
    }
    assert_eq!(bench.authentications(), 1);
    bench.clock.advance(60);
    assert_eq!(bench.call().await, "workspace-2");
}

#[tokio::test]
async fn an_almost_expired_workspace_token_never_mints() {
    for left in [39, 20, 1] {
        let bench = Bench::new(3600, |_| None, &[]).await;
        bench.call().await;
        bench.clock.advance(3600 - left);
        assert_eq!(bench.call().await, "workspace-2", "{left} s left");
    }
}

#[tokio::test]
async fn a_token_with_a_lifetime_below_forty_seconds_is_fetched_for_each_call() {
    let stub = Stub::start(|seen| {
        let expires = SystemClock.wall() + Duration::from_secs(10);
        let expires = expires
            .duration_since(SystemTime::UNIX_EPOCH)
            .expect("after 1970");
        (seen.path == "/ms/key").then(|| {
            Answer::json(format!(
                "{{\"access_token\":\"token-{}\",\"token_type\":\"Bearer\",\"expires_on\":{}}}",
                seen.count,
                expires.as_secs()
            ))
        })
    })
    .await;
    let url = format!("{}/ms/key", stub.url);
    let explicit = [("host", stub.url.as_str()), ("metadata_service_url", &url)];
    let lakebase = crate::handle(&explicit, &[]);
    for number in 1..=3 {
        let held = lakebase.credential().await.expect("a credential");
        let sent = stub.last(CREDENTIALS);
        assert_eq!(
            sent.header("authorization"),
            format!("Bearer token-{number}")
        );
        let request = stub.last("/ms/key");
        assert_eq!(request.header("x-databricks-metadata-version"), "1");
        assert_eq!(request.header("x-databricks-host"), stub.url);
        lakebase_core::adapter::accept(&held);
        lakebase_core::adapter::reject(&lakebase, &held);
    }
}

#[tokio::test]
async fn a_look_up_and_a_mint_at_the_same_time_authenticate_once() {
    let stub = Stub::start(|seen| match seen.path.as_str() {
        ME => None,
        path if path.ends_with("/endpoints/primary") => Some(Answer::json(
            "{\"status\": {\"hosts\": {\"host\": \"localhost\"}}}",
        )),
        _ => None,
    })
    .await;
    let explicit = stub.service_principal();
    let lakebase = crate::handle(&explicit, &[]);
    let (target, credential) = tokio::join!(lakebase.target(), lakebase.credential());
    target.expect("a target");
    credential.expect("a credential");
    assert_eq!(stub.seen(TOKEN).len(), 1, "{:?}", stub.paths());
}

#[tokio::test]
async fn a_rejected_token_is_not_used_again_even_if_the_next_authentication_fails() {
    let stub = Stub::start(|seen| match (seen.path.as_str(), seen.count) {
        (CREDENTIALS, 1) => Some(Answer::new(401, "")),
        (TOKEN, 2) => Some(Answer::new(400, "{}")),
        _ => None,
    })
    .await;
    let explicit = stub.service_principal();
    crate::handle(&explicit, &[])
        .credential()
        .await
        .expect_err("rejected");
    let lakebase = crate::handle(&explicit, &[]);
    lakebase.credential().await.expect("a credential");
    let used = stub.seen(CREDENTIALS);
    let used = used
        .iter()
        .filter(|seen| seen.header("authorization") == "Bearer workspace-1");
    assert_eq!(used.count(), 1);
}

#[test]
fn an_authentication_on_a_stopped_runtime_does_not_block_others() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
    };
    let (mine, frozen, living) = (runtime(), runtime(), runtime());
    let gate = Arc::new(Semaphore::new(0));
    let hold = Arc::clone(&gate);
    let stub = mine.block_on(Stub::start(move |seen| {
        (seen.path == TOKEN && seen.count == 1).then(|| Answer::json(token(1, 3600)).behind(&hold))
    }));
    let lakebase = crate::handle(&stub.service_principal(), &[]);
    // The server has a thread of its own. No thread drives the first authentication's runtime after this.
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = std::thread::spawn(move || mine.block_on(stopped));
    frozen.block_on(async {
        let credential = lakebase.credential();
        tokio::pin!(credential);
        soon(async {
            while stub.seen(TOKEN).is_empty() {
                tokio::select! {
                    _ = &mut credential => panic!("the server holds the reply back"),
                    () = tokio::task::yield_now() => {}
                }
            }
        })
        .await;
    });
    living.block_on(async {
        // Past the limits of its mint and its authentication.
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(60)).await;
        tokio::time::resume();
        soon(lakebase.credential()).await.expect("a credential");
    });
    assert_eq!(
        stub.last(CREDENTIALS).header("authorization"),
        "Bearer workspace-2"
    );
    stop.send(()).expect("it runs");
    server.join().expect("no panic").expect("stopped");
}

#[tokio::test]
async fn a_token_that_the_workspace_rejects_is_replaced_once_per_call() {
    for (rejections, expected) in [(1, Ok("workspace-2")), (9, Err("HTTP 401"))] {
        let stub = Stub::start(move |seen| {
            (seen.path == CREDENTIALS && seen.count <= rejections).then(|| Answer::new(401, ""))
        })
        .await;
        let explicit = stub.service_principal();
        let outcome = crate::handle(&explicit, &[]).credential().await;
        match (outcome, expected) {
            (Ok(_), Ok(bearer)) => {
                let sent = stub.last(CREDENTIALS);
                assert_eq!(sent.header("authorization"), format!("Bearer {bearer}"));
            }
            (Err(error), Err(text)) => {
                assert!(
                    error.to_string().contains(text) && error.is_sign_in(),
                    "{error}"
                );
                assert_eq!(stub.seen(TOKEN).len(), 2, "{error}");
            }
            (outcome, _) => panic!("{outcome:?}"),
        }
    }
}

const EXPIRED: &str = "{\"error_code\":\"BAD_REQUEST\",\"message\":\"io.jsonwebtoken.ExpiredJwtException: JWT expired\"}";
const MISSING: &str =
    "{\"error_code\":\"INVALID_PARAMETER_VALUE\",\"message\":\"Field 'endpoint' is required\"}";

#[tokio::test]
async fn a_token_that_may_be_revoked_is_replaced_if_it_is_older_than_a_minute() {
    for (status, body, is_replaced) in [
        (403, "{\"message\":\"Invalid access token\"}", true),
        (400, EXPIRED, true),
        (400, MISSING, false),
        (404, "", false),
    ] {
        let is_rejected = move |seen: &Seen| {
            seen.path == ME
                && seen.count > 1
                && seen.header("authorization") == "Bearer workspace-1"
        };
        let rejection = move |seen: &Seen| is_rejected(seen).then(|| Answer::new(status, body));
        let bench = Bench::of(Stub::start(rejection).await, &[]);
        bench.call().await;
        let error = bench
            .try_call()
            .await
            .expect_err("a new token is not revoked");
        assert_eq!(error.status(), Some(status), "{error}");
        assert_eq!(bench.stub.seen(ME).len(), 2, "{body}");
        bench.clock.advance(61);
        for called in join_all((0..10).map(|_| bench.try_call())).await {
            assert_eq!(called.is_ok(), is_replaced, "{body}: {called:?}");
        }
        assert_eq!(
            bench.authentications(),
            1 + usize::from(is_replaced),
            "{body}"
        );
    }
}

#[tokio::test]
async fn a_permission_error_costs_one_authentication_a_minute_and_no_valid_token() {
    let stub = Stub::start(|seen| match (seen.path.as_str(), seen.count) {
        (ME, 2..) => Some(Answer::new(403, "{\"message\":\"no permission\"}")),
        (TOKEN, 3) => Some(Answer::new(400, "{}")),
        _ => None,
    })
    .await;
    let bench = Bench::of(stub, &[]);
    let denied = async || {
        let error = bench.try_call().await.expect_err("no permission");
        assert_eq!(error.status(), Some(403), "{error}");
        assert!(error.to_string().contains("no permission"), "{error}");
    };
    bench.call().await;
    bench.clock.advance(61);
    for _ in 0..5 {
        denied().await;
    }
    assert_eq!(bench.authentications(), 2);
    bench.clock.advance(61);
    denied().await;
    assert_eq!(bench.authentications(), 3, "it fails");
    denied().await;
    assert_eq!(bench.authentications(), 3, "after a pause only");
    bench.lakebase.credential().await.expect("a credential");
    let sent = bench.stub.last(CREDENTIALS);
    assert_eq!(sent.header("authorization"), "Bearer workspace-2");
}
