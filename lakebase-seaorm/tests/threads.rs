//! The compiler checks that types can be shared between threads, and that futures can be spawned.

use lakebase_seaorm::{Lakebase, Retry, connect, connect_with, options, transaction_with_retry};
use sea_orm::{ConnectionTrait as _, DatabaseConnection, DbErr};

fn assert_cloned<T: Clone + Send + Sync + 'static>() {}
fn assert_spawned(_: impl Future + Send) {}

#[test]
fn futures_can_be_spawned() {
    let _futures = |lakebase: &Lakebase| {
        assert_spawned(connect(lakebase));
        assert_spawned(connect_with(lakebase, options()));
    };
    let run = |db: DatabaseConnection, statement: String| async move {
        transaction_with_retry(&db, Retry::new(), async |transaction| {
            transaction.execute_unprepared(&statement).await?;
            Ok::<_, DbErr>(())
        })
        .await
    };
    let _future = |db, statement| assert_spawned(run(db, statement));
}

#[cfg(feature = "migrations")]
#[test]
fn migrations_can_be_shared_between_threads() {
    use lakebase_seaorm::migrations::{MigrationError, Migrations, up};
    use sea_orm_migration::{MigrationTrait, MigratorTrait};

    struct Migrator;

    impl MigratorTrait for Migrator {
        fn migrations() -> Vec<Box<dyn MigrationTrait>> {
            Vec::new()
        }
    }

    assert_cloned::<Migrations>();
    assert_cloned::<MigrationError>();
    let _futures = |lakebase: &Lakebase, run: &Migrations| {
        assert_spawned(up::<Migrator>(lakebase));
        assert_spawned(run.up::<Migrator>(None));
        assert_spawned(run.down::<Migrator>(None));
        assert_spawned(run.fresh::<Migrator>());
        assert_spawned(run.refresh::<Migrator>());
        assert_spawned(run.reset::<Migrator>());
        assert_spawned(run.status::<Migrator>());
    };
}
