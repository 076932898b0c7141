//! Users' pools, with time that is paused.

#![allow(clippy::expect_used)] // a test fails by panicking

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lakebase_core::users::UserPoolsBuilder;
use lakebase_core::{Config, Error, Lakebase, User};
use tokio::time::sleep;

#[tokio::test(start_paused = true)]
async fn a_user_gets_a_pool_within_about_a_second_after_an_outage() {
    let config = Config::builder()
        .endpoint("projects/shop/branches/production/endpoints/primary")
        .workspace_host("https://dbc-1.cloud.databricks.com")
        .service_principal("id", "secret");
    let lakebase = Lakebase::new(config.build().expect("a configuration")).expect("a handle");
    let is_down = Arc::new(AtomicBool::new(true));
    let down = Arc::clone(&is_down);
    let open = move |_, _| {
        let is_down = down.load(Ordering::SeqCst);
        async move {
            if is_down {
                Err(Error::network("no network"))
            } else {
                Ok(())
            }
        }
    };
    let pools = UserPoolsBuilder::new(&lakebase, open, |()| false, |()| async {}).build();
    let user = User::new("ana@example.com", "a-token");
    for _ in 0..8 {
        pools.get(&user).await.expect_err("no network");
        sleep(Duration::from_secs(31)).await;
    }
    pools.get(&user).await.expect_err("no network");
    is_down.store(false, Ordering::SeqCst);
    sleep(Duration::from_millis(1_100)).await;
    pools.get(&user).await.expect("the network is back");
}
