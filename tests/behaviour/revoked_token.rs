//! An unexpired token that Postgres refuses, because it was taken back or the signing key changed, is
//! replaced before the application notices, by one mint for all logins.

use futures_util::future::join_all;
use lakebase_local::LocalLakebase;
use lakebase_tests::{App, lakebase, local, soon, through_every_adapter};

const TASKS: usize = 10;
/// What the platform may send with a refusal; it documents nothing.
const VARIANTS: &[(&str, &str)] = &[("28P01", "FATAL"), ("28000", "ERROR"), ("XX000", "ERROR")];

/// All tasks log in after `spoil`.
async fn one_mint_for_all(app: &App, local: &LocalLakebase, spoil: impl Fn(&LocalLakebase)) {
    for (sqlstate, severity) in VARIANTS {
        let what = format!("{app:?} {sqlstate} {severity}");
        local.set_refusal(sqlstate, severity);
        spoil(local);
        let before = local.counters();
        let logging_in = (0..TASKS).map(|_| app.log_in());
        for outcome in soon(join_all(logging_in)).await {
            outcome.unwrap_or_else(|failure| panic!("{what}: {failure}"));
        }
        let after = local.counters();
        assert_eq!(after.minted - before.minted, 1, "{what}: {after:?}");
        assert!(after.refused > before.refused, "{what}: {after:?}");
    }
}

#[tokio::test]
async fn a_revoked_token_is_replaced_before_any_adapter_fails() {
    through_every_adapter(async |adapter| {
        let local = local().await;
        let app = App::start(adapter, &lakebase(&local))
            .await
            .expect("started");
        one_mint_for_all(&app, &local, LocalLakebase::revoke_tokens).await;
    })
    .await;
}

#[tokio::test]
async fn a_changed_signing_key_is_replaced_before_any_adapter_fails() {
    through_every_adapter(async |adapter| {
        let local = local().await;
        let app = App::start(adapter, &lakebase(&local))
            .await
            .expect("started");
        one_mint_for_all(&app, &local, LocalLakebase::rotate_signing_key).await;
    })
    .await;
}
