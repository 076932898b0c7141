//! The compute's connection limit is waited out within the budget, and named after it.

use lakebase_core::Error;
use lakebase_local::{EventKind, LocalLakebase};
use lakebase_tests::{lakebase, lakebase_with, local, soon};
use sea_orm::ConnectionTrait as _;

/// One connection is allowed, and somebody has it.
async fn full() -> (LocalLakebase, tokio_postgres::Client) {
    let local = local().await;
    let (client, connection) = soon(lakebase(&local).connect()).await.expect("a login");
    tokio::spawn(connection);
    client.batch_execute("SELECT 1").await.expect("an answer");
    local.set_connection_limit(1);
    (local, client)
}

fn check(error: &Error) {
    assert!(error.is_transient() && !error.is_auth(), "{error}");
    assert_eq!(error.sqlstate(), Some("53300"), "{error}");
    assert!(error.to_string().contains("smaller pools"), "{error}");
}

/// Gives the place back once somebody was turned away for want of it.
async fn give_way(local: &LocalLakebase, client: tokio_postgres::Client) {
    let turned_away = |event: &lakebase_local::Event| matches!(&event.kind, EventKind::Refused { sqlstate, .. } if sqlstate == "53300");
    soon(local.wait_until(|events| events.iter().any(turned_away))).await;
    drop(client);
}

#[tokio::test]
async fn every_adapter_names_it_when_the_budget_is_over() {
    let (local, _holder) = full().await;
    let hasty = lakebase_with(&local, &[("PGCONNECT_TIMEOUT", "1")]);
    check(&soon(hasty.connect()).await.map(drop).expect_err("full"));
    check(
        &soon(lakebase_diesel::bb8::connect(&hasty))
            .await
            .map(drop)
            .expect_err("full"),
    );
    check(
        &soon(lakebase_seaorm::connect(&hasty))
            .await
            .map(drop)
            .expect_err("full"),
    );
    assert_eq!(
        local.counters().minted,
        2,
        "one for each handle: it is not the token"
    );
}

#[tokio::test]
async fn tokio_postgres_waits_for_a_place() {
    let (local, holder) = full().await;
    let lakebase = lakebase(&local);
    let (outcome, ()) = tokio::join!(soon(lakebase.connect()), give_way(&local, holder));
    outcome.map(drop).expect("a login");
}

#[tokio::test]
async fn diesel_waits_for_a_place() {
    let (local, holder) = full().await;
    let lakebase = lakebase(&local);
    let pool = lakebase_diesel::bb8::connect(&lakebase);
    let (outcome, ()) = tokio::join!(soon(pool), give_way(&local, holder));
    outcome.map(drop).expect("a pool");
}

#[tokio::test]
async fn seaorm_waits_for_a_place() {
    let (local, holder) = full().await;
    let lakebase = lakebase(&local);
    let connected = lakebase_seaorm::connect(&lakebase);
    let (outcome, ()) = tokio::join!(soon(connected), give_way(&local, holder));
    let db = outcome.expect("a connection");
    soon(db.execute_unprepared("SELECT 1"))
        .await
        .expect("an answer");
}
