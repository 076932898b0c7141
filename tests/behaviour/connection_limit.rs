//! The compute's connection limit is waited out within the budget, and named after it.

use lakebase_local::{EventKind, LocalLakebase};
use lakebase_tests::{App, lakebase, lakebase_with, local, soon, through_every_adapter};

/// One connection is allowed, and somebody has it.
async fn full() -> (LocalLakebase, tokio_postgres::Client) {
    let local = local().await;
    let (client, connection) = soon(lakebase(&local).connect()).await.expect("a login");
    tokio::spawn(connection);
    client.batch_execute("SELECT 1").await.expect("an answer");
    local.set_connection_limit(1);
    (local, client)
}

/// Gives the place back once somebody was turned away for want of it.
async fn give_way(local: &LocalLakebase, client: tokio_postgres::Client) {
    let turned_away = |event: &lakebase_local::Event| matches!(&event.kind, EventKind::Refused { sqlstate, .. } if sqlstate == "53300");
    soon(local.wait_until(|events| events.iter().any(turned_away))).await;
    drop(client);
}

#[tokio::test]
async fn every_adapter_names_it_when_the_budget_is_over() {
    through_every_adapter(async |adapter| {
        let (local, _holder) = full().await;
        let before = local.counters().minted;
        let hasty = lakebase_with(&local, &[("PGCONNECT_TIMEOUT", "1")]);
        let failure = soon(App::start(adapter, &hasty)).await;
        let failure = failure.expect_err("full");
        assert!(failure.is_transient, "{adapter:?}: {failure}");
        for part in ["53300", "smaller pools"] {
            assert!(failure.text.contains(part), "{adapter:?}: {failure}");
        }
        let minted = local.counters().minted - before;
        assert_eq!(minted, 1, "{adapter:?}: it is not the token");
    })
    .await;
}

#[tokio::test]
async fn every_adapter_waits_for_a_place() {
    through_every_adapter(async |adapter| {
        let (local, holder) = full().await;
        let lakebase = lakebase(&local);
        let starting = App::start(adapter, &lakebase);
        let (started, ()) = tokio::join!(soon(starting), give_way(&local, holder));
        let app = started.unwrap_or_else(|failure| panic!("{adapter:?}: {failure}"));
        soon(app.ask()).await.expect("an answer");
    })
    .await;
}
