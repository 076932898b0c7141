//! Migrations in SQL, for both ORMs.

use diesel_migrations::FileBasedMigrations;
use lakebase_local::LocalLakebase;
use lakebase_tests::{LEFT_BEHIND, has_table};
use sea_orm_migration::prelude::*;
use tempfile::TempDir;

/// A migration of SeaORM that ends with this comment returns an error after its SQL.
pub(crate) const GIVE_UP: &str = "-- give up";

/// A migration in a transaction, without a down migration.
#[derive(Clone, Copy)]
pub(crate) struct Migration {
    name: &'static str,
    up: &'static str,
    down: &'static str,
    in_transaction: bool,
}

impl Migration {
    pub(crate) const fn new(name: &'static str, up: &'static str) -> Self {
        Self {
            name,
            up,
            down: "",
            in_transaction: true,
        }
    }

    pub(crate) const fn down(mut self, sql: &'static str) -> Self {
        self.down = sql;
        self
    }

    pub(crate) const fn in_transaction(mut self, in_transaction: bool) -> Self {
        self.in_transaction = in_transaction;
        self
    }
}

/// Writes migrations into a folder for diesel.
pub(crate) fn folder(migrations: &[Migration]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for migration in migrations {
        let path = folder.path().join(migration.name);
        std::fs::create_dir(&path).expect("a folder");
        let metadata = format!("run_in_transaction = {}", migration.in_transaction);
        for (file, text) in [
            ("up.sql", migration.up),
            ("down.sql", migration.down),
            ("metadata.toml", &metadata),
        ] {
            std::fs::write(path.join(file), text).expect("written");
        }
    }
    folder
}

pub(crate) fn read(folder: &TempDir) -> FileBasedMigrations {
    FileBasedMigrations::from_path(folder.path()).expect("readable")
}

tokio::task_local! {
    /// The migrations of [`Sql`].
    pub(crate) static MIGRATIONS: Vec<Migration>;
}

/// A migrator of SeaORM.
pub(crate) struct Sql;

impl MigratorTrait for Sql {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        let boxed = |one| Box::new(one) as Box<dyn MigrationTrait>;
        MIGRATIONS.get().into_iter().map(boxed).collect()
    }
}

impl MigrationName for Migration {
    fn name(&self) -> &str {
        self.name
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let connection = manager.get_connection();
        connection.execute_unprepared(self.up).await?;
        match self.up.ends_with(GIVE_UP) {
            true => Err(DbErr::Custom("gave up".to_owned())),
            false => Ok(()),
        }
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let connection = manager.get_connection();
        connection.execute_unprepared(self.down).await.map(drop)
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(self.in_transaction)
    }
}

/// Migrations that leave settings in effect, each followed by one that those settings would break.
pub(crate) fn leave_settings_behind(in_transaction: bool) -> Vec<Migration> {
    let create = Migration::new("2026-01-01-000000_create", "CREATE TABLE books (id int)");
    let mut migrations = vec![create.down("DROP TABLE books")];
    for (number, left_behind) in (0..).zip(LEFT_BEHIND) {
        let name = |second: u32| format!("2026-01-02-00{number:02}{second:02}_step").leak();
        let left = Migration::new(name(0), left_behind).down(left_behind);
        migrations.push(left.in_transaction(in_transaction));
        // Longer than a statement timeout that was left.
        let pause = 0.2 * f64::from(u8::from(left_behind.contains("timeout")));
        let next = format!(
            "INSERT INTO books VALUES ({number}); CREATE TABLE table_{number} (); SELECT pg_sleep({pause})"
        );
        let next = Migration::new(name(1), next.leak());
        migrations.push(next.down(format!("DROP TABLE table_{number}").leak()));
    }
    migrations
}

/// Asserts that the rows, tables and history of [`leave_settings_behind`] are in a schema.
pub(crate) async fn assert_all_in_schema(local: &LocalLakebase, schema: &str, history: &str) {
    let settings = LEFT_BEHIND.len();
    let sql = format!(
        "SELECT 1 / ((SELECT count(*) FROM \"{schema}\".books) = {settings} \
         AND (SELECT count(*) FROM \"{schema}\".{history}) = 1 + 2 * {settings} \
         AND (SELECT count(*) FROM pg_tables WHERE schemaname = '{schema}') = 2 + {settings})::int"
    );
    local.sql(&sql).await.expect("all of it");
    for table in ["public.books", &format!("public.{history}")] {
        assert!(!has_table(local, table).await, "{table}");
    }
}
