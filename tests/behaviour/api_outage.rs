//! An outage of the workspace API does not affect logins while the current token is valid.

use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use lakebase_local::{Call, Fault, LocalLakebase};
use lakebase_tests::{
    Adapter, App, BETWEEN_LOGINS, PATIENCE, TestClock, TooSlow, all_idle, in_time, lakebase,
    lakebase_on, lakebase_with, local, local_with_tokens_of, logged_in, minted,
    no_expired_token_was_used, soon, too_slow_unless, until,
};

const LIFETIME: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The kinds of outages.
#[derive(Clone, Copy, Debug)]
enum Outage {
    Unreachable,
    Unresponsive,
    Failing,
    HalfReplies,
    Resets,
}

impl Outage {
    const ALL: [Self; 5] = [
        Self::Unreachable,
        Self::Unresponsive,
        Self::Failing,
        Self::HalfReplies,
        Self::Resets,
    ];

    /// The longest time from the end of the outage to the next request. A request without a response is repeated after
    /// three seconds.
    fn recovery(self) -> Duration {
        Duration::from_secs(match self {
            Self::Unresponsive => 4,
            _ => 1,
        })
    }

    fn begin(self, local: &LocalLakebase) {
        let fault = match self {
            Self::Unreachable => return local.set_api_down(true),
            Self::Unresponsive => Fault::Silence,
            Self::Failing => Fault::status(503, "TEMPORARILY_UNAVAILABLE", "later"),
            Self::HalfReplies => Fault::HalfReply,
            Self::Resets => Fault::Reset,
        };
        for call in CALLS {
            local.fail(call, fault.clone());
        }
    }

    fn end(self, local: &LocalLakebase) {
        local.set_api_down(false);
        for call in CALLS {
            local.heal(call);
        }
    }
}

const CALLS: [Call; 3] = [Call::Discovery, Call::Token, Call::Credential];

/// The outage begins before the renewal and ends after the expiry of the token.
async fn survive(adapter: Adapter, outage: Outage) -> Result<(), TooSlow> {
    let local = local_with_tokens_of(LIFETIME).await;
    let lakebase = lakebase(&local).with_connect_timeout(CONNECT_TIMEOUT);
    let starting = Instant::now();
    let patient = lakebase.with_connect_timeout(PATIENCE);
    patient.credential().await.expect("the API answers");
    let app = App::start(adapter, &lakebase).await;
    let is_in_time = app.is_ok() || starting.elapsed() < CONNECT_TIMEOUT;
    too_slow_unless(is_in_time, || format!("{adapter:?} {outage:?}: no start"))?;
    let app = logged_in(&local, app)?;
    let from_cold = starting.elapsed();
    // Without a workspace token, a mint takes more requests.
    local.expire_workspace_tokens();
    outage.begin(&local);
    let newest = || minted(&local.events()).last().expect("a token").expires_at;
    let failure = soon(async {
        loop {
            if let Err(failure) = app.log_in().await {
                return failure;
            }
            tokio::time::sleep(BETWEEN_LOGINS).await;
        }
    })
    .await;
    no_expired_token_was_used(&local)?;
    if SystemTime::now() < newest() - LIFETIME / 10 - Duration::from_millis(100) {
        let is_in_time = !failure.text.contains("still waiting for Postgres");
        too_slow_unless(is_in_time, || format!("{adapter:?} {outage:?}: {failure}"))?;
        panic!("{adapter:?} {outage:?}: failed while the token was valid: {failure}");
    }
    assert!(failure.is_transient, "{adapter:?} {outage:?}: {failure}");

    // The outage lasts for several connect timeouts.
    let mut fastest = Duration::MAX;
    for _ in 0..3 {
        let began = Instant::now();
        let failure = soon(app.log_in()).await.expect_err("an outage");
        fastest = fastest.min(began.elapsed());
        assert!(
            failure.text.contains("127.0.0.1") || failure.text.contains("the workspace"),
            "{adapter:?} {outage:?}: no cause: {failure}"
        );
    }
    let what = format!("{adapter:?} {outage:?}");
    too_slow_unless(fastest < CONNECT_TIMEOUT * 3 / 2, || {
        format!("{what}: {fastest:?} to fail")
    })?;

    outage.end(&local);
    let back = Instant::now();
    soon(async { while app.log_in().await.is_err() {} }).await;
    let took = back.elapsed();
    no_expired_token_was_used(&local)?;
    let is_in_time = took < outage.recovery() + from_cold;
    too_slow_unless(is_in_time, || format!("{what}: recovered after {took:?}"))
}

async fn every_outage(adapter: Adapter) {
    join_all(Outage::ALL.map(|outage| in_time(async move || survive(adapter, outage).await))).await;
}

#[tokio::test]
async fn tokio_postgres_survives_every_outage() {
    every_outage(Adapter::TokioPostgres).await;
}

#[tokio::test]
async fn diesel_survives_every_outage() {
    every_outage(Adapter::DieselBb8).await;
}

#[tokio::test]
async fn diesel_with_deadpool_survives_every_outage() {
    every_outage(Adapter::DieselDeadpool).await;
}

#[tokio::test]
async fn diesel_with_r2d2_survives_every_outage() {
    every_outage(Adapter::DieselR2d2).await;
}

#[tokio::test]
async fn sqlx_survives_every_outage() {
    every_outage(Adapter::Sqlx).await;
}

#[tokio::test]
async fn seaorm_survives_every_outage() {
    every_outage(Adapter::SeaOrm).await;
}

#[tokio::test]
async fn an_unresponsive_api_delays_callers_for_their_connect_timeout_at_most() {
    let local = local().await;
    local.fail(Call::Credential, Fault::Silence);
    let lakebase = lakebase_with(&local, &[("PGCONNECT_TIMEOUT", "0.5")]);
    let error = soon(lakebase.connect())
        .await
        .map(drop)
        .expect_err("silence");
    assert!(
        error.is_timeout() && error.to_string().contains("the workspace"),
        "{error}"
    );
}

#[tokio::test]
async fn a_failed_renewal_is_retried_in_the_background() {
    let local = local_with_tokens_of(LIFETIME).await;
    let lakebase = lakebase(&local);
    lakebase.credential().await.expect("a credential");
    local.fail_times(
        Call::Credential,
        2,
        Fault::status(403, "PERMISSION_DENIED", "for a moment"),
    );
    soon(local.wait_until(|events| minted(events).len() >= 2)).await;
    assert_eq!(
        local.counters().credential_calls,
        4,
        "{:?}",
        local.counters()
    );
}

#[tokio::test]
async fn seaorm_does_not_use_an_expired_token_while_it_holds_idle_connections() {
    let (local, clock) = (local().await, TestClock::default());
    let lakebase = lakebase_on(&local, &clock).with_connect_timeout(CONNECT_TIMEOUT);
    let db = lakebase_seaorm::connect(&lakebase)
        .await
        .expect("a connection");
    db.ping().await.expect("an answer");
    all_idle(&db).await;
    local.set_api_down(true);
    clock.set_ahead_millis(2 * 3_600_000);
    local.expire_tokens();
    // Open connections work after the token has expired.
    db.ping().await.expect("the idle connection");
    all_idle(&db).await;
    local
        .cut_sessions(lakebase_local::Cut::Close)
        .await
        .expect("cut");
    // Until the proxy has noticed the end, it answers a ping itself.
    until(|| lakebase.stats().proxy.sessions == 0).await;
    let error = soon(db.ping()).await.expect_err("no token, no connection");
    assert!(error.to_string().contains("cannot reach"), "{error}");
    assert_eq!(local.counters().refused, 0, "the expired token was used");

    local.set_api_down(false);
    soon(async { while db.ping().await.is_err() {} }).await;
    assert_eq!(local.counters().refused, 0);
}
