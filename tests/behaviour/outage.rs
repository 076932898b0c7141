//! The workspace API may be down: as long as the held token lives, nobody notices.

use std::time::Duration;

use lakebase_local::{Call, Fault};
use lakebase_tests::{lakebase, lakebase_with, local_with_tokens_of, minted, soon};

const LIFETIME: Duration = Duration::from_secs(2);

#[tokio::test]
async fn logins_go_on_while_the_api_is_down_and_the_token_lives() {
    let local = local_with_tokens_of(LIFETIME).await;
    let lakebase = lakebase_with(&local, &[("PGCONNECT_TIMEOUT", "1")]);
    lakebase.credential().await.expect("a credential");
    local.set_api_down(true);
    let failure = soon(async {
        loop {
            if let Err(error) = lakebase.connect().await.map(drop) {
                return error;
            }
        }
    })
    .await;
    let dies_at = minted(&local.events())[0].expires_at - LIFETIME / 10;
    assert!(
        std::time::SystemTime::now() >= dies_at,
        "a login failed too early: {}",
        failure.chain()
    );
    assert!(
        failure.chain().contains("cannot reach"),
        "{}",
        failure.chain()
    );
    assert_eq!(local.counters().refused, 0, "nobody tried the dead token");

    local.set_api_down(false);
    soon(lakebase.connect()).await.map(drop).expect("healed");
}

#[tokio::test]
async fn a_silent_api_costs_callers_their_budget_and_no_more() {
    let local = lakebase_tests::local().await;
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
async fn a_port_where_nobody_listens_is_named_with_a_hint_when_the_budget_is_over() {
    let local = lakebase_tests::local().await;
    let changes = [("PGPORT", "1"), ("PGCONNECT_TIMEOUT", "0.3")];
    let lakebase = lakebase_with(&local, &changes);
    let error = soon(lakebase.connect())
        .await
        .map(drop)
        .expect_err("nobody");
    let text = error.to_string();
    assert!(error.is_timeout() && error.is_transient(), "{text}");
    for part in [
        "no login within 0.3 s",
        "localhost:1/",
        "PGPORT",
        &local.endpoint(),
    ] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

#[tokio::test]
async fn a_renewal_that_fails_is_repeated_until_it_works_without_a_caller() {
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
async fn a_platform_whose_clock_is_wrong_by_15_minutes_changes_nothing() {
    for skew in [15 * 60 * 1000, -15 * 60 * 1000] {
        let local = local_with_tokens_of(Duration::from_secs(3)).await;
        local.set_clock_skew_millis(skew);
        let lakebase = lakebase(&local);
        soon(async {
            while minted(&local.events()).len() < 3 {
                lakebase.connect().await.map(drop).expect("a login");
            }
        })
        .await;
        let counters = local.counters();
        assert_eq!(counters.refused, 0, "{skew} ms: {counters:?}");
    }
}

#[tokio::test]
async fn seaorm_does_not_try_a_dead_token_even_while_it_holds_idle_connections() {
    let local = local_with_tokens_of(LIFETIME).await;
    let lakebase = lakebase_with(&local, &[("PGCONNECT_TIMEOUT", "2")]);
    let db = lakebase_seaorm::connect(&lakebase)
        .await
        .expect("a connection");
    db.ping().await.expect("an idle connection from now on");
    local.set_api_down(true);
    let credential = lakebase.credential().await.expect("held");
    soon(async {
        while lakebase.is_valid(&credential) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // Living connections go on serving, whatever became of the token.
    db.ping().await.expect("the idle connection");
    lakebase_tests::all_idle(&db).await;
    local
        .cut_sessions(lakebase_local::Cut::Close)
        .await
        .expect("cut");
    tokio::time::sleep(Duration::from_millis(1_050)).await; // now they are asked before use
    let error = soon(db.ping()).await.expect_err("no token, no connection");
    assert!(error.to_string().contains("cannot reach"), "{error}");
    assert_eq!(local.counters().refused, 0, "nobody tried the dead token");

    local.set_api_down(false);
    soon(db.ping()).await.expect("healed");
    assert_eq!(local.counters().refused, 0);
}
