//! Pools of deadpool: the default one with our manager, and ours with their settings.

use std::time::Duration;

use diesel_async::pooled_connection::deadpool::Pool;
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use lakebase_diesel::deadpool::Builder;
use lakebase_diesel::is_transient;
use lakebase_local::{Call, Fault};
use lakebase_tests::{lakebase, local, no_session, soon};

#[tokio::test]
async fn the_default_pool_of_deadpool_accepts_our_manager() {
    let local = local().await;
    let manager = lakebase_diesel::manager(&lakebase(&local));
    let pool: Pool<AsyncPgConnection> = Pool::builder(manager).build().expect("a pool");
    let mut connection = soon(pool.get()).await.expect("a connection");
    let answer = diesel::sql_query("SELECT 1").execute(&mut connection).await;
    answer.expect("an answer");
}

#[tokio::test]
async fn the_error_of_an_exhausted_pool_is_transient() {
    let local = local().await;
    let builder = Builder::new().max_size(1);
    let builder = builder.wait_timeout(Duration::from_millis(200));
    let pool = builder.build(&lakebase(&local)).await.expect("a pool");
    let _busy = pool.get().await.expect("a connection");
    let error = soon(pool.get())
        .await
        .map(drop)
        .expect_err("the only one is busy");
    assert!(is_transient(&error), "{error}");
}

#[tokio::test]
async fn a_pool_whose_create_timeout_ends_the_first_login_names_the_cause() {
    let local = local().await;
    local.fail(Call::Credential, Fault::status(503, "UNAVAILABLE", "no"));
    let limit = Some(Duration::from_secs(3));
    let builder = Builder::new().configure(move |pool| pool.create_timeout(limit));
    let pool = soon(builder.build(&lakebase(&local))).await;
    let error = pool.map(drop).expect_err("the workspace is down");
    assert_eq!(error.status(), Some(503), "{error}");
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_the_idle_timeout_without_a_checkout() {
    let local = local().await;
    let builder = Builder::new().idle_timeout(Duration::from_millis(200));
    let pool = builder.build(&lakebase(&local)).await.expect("a pool");
    assert_eq!(pool.status().size, 1);
    no_session(&local).await;
    assert_eq!(pool.status().size, 0);
}

#[tokio::test]
async fn a_connection_older_than_the_maximum_lifetime_is_replaced() {
    let local = local().await;
    let builder = Builder::new().max_lifetime(Duration::from_millis(100));
    let pool = builder.build(&lakebase(&local)).await.expect("a pool");
    let held = pool.get().await.expect("a connection");
    // The lifetime has to pass on the machine's clock, which deadpool reads.
    tokio::time::sleep(Duration::from_millis(120)).await;
    drop(held);
    let before = local.counters().logins;
    drop(soon(pool.get()).await.expect("another connection"));
    assert_eq!(local.counters().logins, before + 1);
}
