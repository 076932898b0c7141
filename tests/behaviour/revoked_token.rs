//! A token that Postgres rejects before its expiry, because it was revoked or the signing key changed, is replaced by one
//! mint for all logins. The application gets no error.

use futures_util::future::join_all;
use lakebase_local::LocalLakebase;
use lakebase_tests::{App, lakebase, local, soon, through_every_adapter};

const TASKS: usize = 5;
/// Possible rejections: the platform does not document them.
const REJECTIONS: &[(&str, &str)] = &[("28P01", "FATAL"), ("28000", "ERROR"), ("XX000", "ERROR")];

#[tokio::test]
async fn one_mint_replaces_a_rejected_token_for_all_logins() {
    through_every_adapter(async |adapter| {
        let local = local().await;
        let app = App::start(adapter, &lakebase(&local)).await;
        let app = app.expect("started");
        for (cause, invalidate) in [
            ("revoked", LocalLakebase::revoke_tokens as fn(&_)),
            ("another key", LocalLakebase::rotate_signing_key),
        ] {
            for (sqlstate, severity) in REJECTIONS {
                let what = format!("{adapter:?} {cause} {sqlstate} {severity}");
                local.set_refusal(sqlstate, severity);
                invalidate(&local);
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
    })
    .await;
}
