//! At the connection limit of the compute, logins are retried within the connect timeout. After it, the error names the limit.

use std::time::Duration;

use lakebase_core::Lakebase;
use lakebase_local::{EventKind, LocalLakebase};
use lakebase_tests::{App, lakebase, local, session, soon, through_every_adapter};

/// The only connection is in use.
async fn full() -> (LocalLakebase, tokio_postgres::Client, Lakebase) {
    let local = local().await;
    let lakebase = lakebase(&local);
    let client = session(&lakebase).await;
    client.batch_execute("SELECT 1").await.expect("an answer");
    local.set_connection_limit(1);
    (local, client, lakebase)
}

/// Closes the connection after another login was rejected.
async fn close_after_a_rejection(local: &LocalLakebase, client: tokio_postgres::Client) {
    let is_rejection = |event: &lakebase_local::Event| matches!(&event.kind, EventKind::Refused { sqlstate, .. } if sqlstate == "53300");
    soon(local.wait_until(|events| events.iter().any(is_rejection))).await;
    drop(client);
}

#[tokio::test]
async fn every_adapter_names_the_connection_limit_after_the_connect_timeout() {
    let (local, _holder, lakebase) = full().await;
    let before = local.counters().minted;
    let hasty = lakebase.with_connect_timeout(Duration::from_secs(4));
    through_every_adapter(async |adapter| {
        let failure = soon(App::start(adapter, &hasty)).await;
        let failure = failure.expect_err("full");
        assert!(failure.is_transient, "{adapter:?}: {failure}");
        for part in ["53300", "smaller pools"] {
            assert!(failure.text.contains(part), "{adapter:?}: {failure}");
        }
    })
    .await;
    assert_eq!(local.counters().minted, before, "the token is valid");
}

#[tokio::test]
async fn every_adapter_waits_for_a_free_connection() {
    through_every_adapter(async |adapter| {
        let (local, holder, lakebase) = full().await;
        let starting = App::start(adapter, &lakebase);
        let (started, ()) = tokio::join!(soon(starting), close_after_a_rejection(&local, holder));
        let app = started.unwrap_or_else(|failure| panic!("{adapter:?}: {failure}"));
        soon(app.ask()).await.expect("an answer");
    })
    .await;
}
