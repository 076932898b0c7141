//! The compiler checks that types can be shared between threads, and that futures can be spawned.

#![allow(dead_code, unused_imports)] // each feature uses a part

use lakebase_diesel::{Lakebase, Retry};

fn assert_sent<T: Send + 'static>() {}
fn assert_shared<T: Send + Sync + 'static>() {}
fn assert_cloned<T: Clone + Send + Sync + 'static>() {}
fn assert_spawned(_: impl Future + Send) {}

#[cfg(feature = "bb8")]
#[test]
fn the_bb8_pool_can_be_shared_between_threads() {
    use diesel_async::AsyncPgConnection;
    use lakebase_diesel::bb8::{self, Builder, Manager, Pool, PooledConnection, RunError};

    assert_cloned::<Pool>();
    assert_shared::<Manager>();
    assert_shared::<RunError>();
    assert_sent::<Builder>();
    assert_sent::<PooledConnection<'static, AsyncPgConnection>>();
    let _futures = |lakebase: &Lakebase, pool: &Pool| {
        assert_spawned(lakebase_diesel::connect(lakebase));
        assert_spawned(bb8::connect(lakebase));
        assert_spawned(Builder::new().build(lakebase));
        assert_spawned(pool.get());
        assert_spawned(pool.get_owned());
    };
}

#[cfg(feature = "bb8")]
#[test]
fn a_transaction_with_retry_whose_closures_borrow_can_be_spawned() {
    use diesel::result::Error;
    use diesel_async::RunQueryDsl as _;
    use lakebase_diesel::{bb8::Pool, transaction_with_retry};

    let run = |pool: Pool, statement: String| async move {
        let connect = async || {
            let connection = pool.get().await;
            connection.map_err(|error| Error::QueryBuilderError(error.into()))
        };
        transaction_with_retry(Retry::new(), connect, async |connection| {
            diesel::sql_query(&statement).execute(connection).await
        })
        .await
    };
    let _future = |pool, statement| assert_spawned(run(pool, statement));
}

#[cfg(feature = "deadpool")]
#[test]
fn the_deadpool_pool_can_be_shared_between_threads() {
    use lakebase_diesel::deadpool::{self, Builder, Object, Pool, PoolError};

    assert_cloned::<Pool>();
    assert_shared::<PoolError>();
    assert_sent::<Builder>();
    assert_sent::<Object>();
    let _futures = |lakebase: &Lakebase, pool: &Pool| {
        assert_spawned(deadpool::connect(lakebase));
        assert_spawned(Builder::new().build(lakebase));
        let pool = pool.clone();
        assert_spawned(async move { pool.get().await });
    };
}

#[cfg(feature = "r2d2")]
#[test]
fn the_r2d2_pool_can_be_shared_between_threads() {
    assert_cloned::<lakebase_diesel::r2d2::Pool>();
}

#[cfg(feature = "migrations")]
#[test]
fn migrations_can_be_shared_between_threads() {
    use diesel_migrations::FileBasedMigrations;
    use lakebase_diesel::migrations::run_pending;
    use lakebase_diesel::migrations::{Blocking, MigrationError, Migrations, Progress};

    assert_cloned::<Migrations>();
    assert_cloned::<MigrationError>();
    assert_cloned::<Progress<'static>>();
    assert_shared::<Blocking>();
    let _futures = |lakebase: &Lakebase, run: &Migrations, all: fn() -> FileBasedMigrations| {
        assert_spawned(run_pending(lakebase, all()));
        assert_spawned(run.pending(all()));
        assert_spawned(run.run(all()));
        assert_spawned(run.revert(all(), 1));
        assert_spawned(run.redo(all(), 1));
    };
}
