//! The compute's connection limit is waited out within the budget, and named after it.

use std::time::Duration;

use lakebase_core::Lakebase;
use lakebase_local::{EventKind, LocalLakebase};
use lakebase_tests::{App, lakebase, local, soon, through_every_adapter};

/// One connection is allowed, and it is in use.
async fn full() -> (LocalLakebase, tokio_postgres::Client, Lakebase) {
    let local = local().await;
    let lakebase = lakebase(&local);
    let (client, connection) = soon(lakebase.connect()).await.expect("a login");
    tokio::spawn(connection);
    client.batch_execute("SELECT 1").await.expect("an answer");
    local.set_connection_limit(1);
    (local, client, lakebase)
}

/// Closes it once another login was rejected for it.
async fn give_way(local: &LocalLakebase, client: tokio_postgres::Client) {
    let turned_away = |event: &lakebase_local::Event| matches!(&event.kind, EventKind::Refused { sqlstate, .. } if sqlstate == "53300");
    soon(local.wait_until(|events| events.iter().any(turned_away))).await;
    drop(client);
}

#[tokio::test]
async fn every_adapter_names_the_connection_limit_when_the_budget_is_over() {
    through_every_adapter(async |adapter| {
        let (local, _holder, lakebase) = full().await;
        let before = local.counters().minted;
        let hasty = lakebase.with_connect_timeout(Duration::from_secs(4));
        let failure = soon(App::start(adapter, &hasty)).await;
        let failure = failure.expect_err("full");
        assert!(failure.is_transient, "{adapter:?}: {failure}");
        for part in ["53300", "smaller pools"] {
            assert!(failure.text.contains(part), "{adapter:?}: {failure}");
        }
        let minted = local.counters().minted - before;
        assert_eq!(minted, 0, "{adapter:?}: it is not the token");
    })
    .await;
}

#[tokio::test]
async fn every_adapter_waits_until_a_connection_is_allowed() {
    through_every_adapter(async |adapter| {
        let (local, holder, lakebase) = full().await;
        let starting = App::start(adapter, &lakebase);
        let (started, ()) = tokio::join!(soon(starting), give_way(&local, holder));
        let app = started.unwrap_or_else(|failure| panic!("{adapter:?}: {failure}"));
        soon(app.ask()).await.expect("an answer");
    })
    .await;
}
