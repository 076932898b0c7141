//! SeaORM migrations: run once however many replicas start together, reverted and run again, in a schema of
//! choice, with errors that name the migration.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use lakebase_local::{EventKind, LocalLakebase};
use lakebase_seaorm::migrations::{Migrations, up};
use lakebase_tests::{
    LEFT_BEHIND, SCHEMA, lakebase, lakebase_with, local, local_with_schema, logins,
    native_superuser, soon,
};
use sea_orm::{ConnectionTrait as _, Statement};
use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_query::Alias;
use sea_orm_migration::{MigrationStatus, MigratorTrait};

const BOOKS: &str = "m20260101_000000_create_books";
const AUTHORS: &str = "m20260102_000000_create_authors";
const BROKEN: &str = "m20260103_000000_broken";

/// Creates a table, and drops it again.
struct Create {
    name: &'static str,
    table: &'static str,
}

impl MigrationName for Create {
    fn name(&self) -> &str {
        self.name
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Create {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut table = Table::create();
        let mut id = ColumnDef::new(Alias::new("id"));
        table
            .table(Alias::new(self.table))
            .col(id.big_integer().primary_key());
        manager.create_table(table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut table = Table::drop();
        manager
            .drop_table(table.table(Alias::new(self.table)).take())
            .await
    }
}

fn books() -> Box<dyn MigrationTrait> {
    Box::new(Create {
        name: BOOKS,
        table: "books",
    })
}

fn authors() -> Box<dyn MigrationTrait> {
    Box::new(Create {
        name: AUTHORS,
        table: "authors",
    })
}

struct Library;

impl MigratorTrait for Library {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![books(), authors()]
    }
}

/// The same with one that does not work.
struct WithBroken;

impl MigratorTrait for WithBroken {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![books(), Box::new(Broken)]
    }
}

struct Broken;

impl MigrationName for Broken {
    fn name(&self) -> &str {
        BROKEN
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Broken {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let sql = "ALTER TABLE shelf ADD x int";
        manager.get_connection().execute_unprepared(sql).await?;
        Ok(())
    }
}

/// In the service principal's own schema, if `table` names no other.
async fn exists(local: &LocalLakebase, table: &str) -> bool {
    let table = match table.contains('.') {
        true => table.to_owned(),
        false => format!("{SCHEMA}.{table}"),
    };
    let sql = format!("SELECT 1 / (to_regclass('{table}') IS NOT NULL)::int");
    local.sql(&sql).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_replicas_that_start_together_run_each_migration_once() {
    let local = local_with_schema().await;
    let replicas = (0..16).map(|_| {
        // Each replica is a process of its own: its own handle.
        let migrations = Migrations::new(&lakebase(&local));
        tokio::spawn(async move { migrations.up::<Library>(None).await })
    });
    let runs = soon(join_all(replicas)).await.into_iter();
    let ran: Vec<String> = runs
        .flat_map(|run| run.expect("no panic").expect("migrated"))
        .collect();
    assert_eq!(ran, [BOOKS, AUTHORS]);
}

#[tokio::test]
async fn the_short_form_runs_under_the_lock_as_well() {
    let local = local_with_schema().await;
    let replicas = (0..4).map(|_| {
        let lakebase = lakebase(&local);
        async move { up::<Library>(&lakebase).await }
    });
    for run in soon(join_all(replicas)).await {
        run.expect("migrated");
    }
    let db = lakebase_seaorm::connect(&lakebase(&local)).await;
    let db = db.expect("connected");
    let sql = "SELECT count(*) FROM seaql_migrations";
    let count = Statement::from_string(db.get_database_backend(), sql);
    let row = db.query_one_raw(count).await.expect("an answer");
    let count = row.expect("a row").try_get_by_index::<i64>(0);
    assert_eq!(count.expect("a number"), 2);
}

#[tokio::test]
async fn a_migrators_own_up_takes_the_connection() {
    let local = local_with_schema().await;
    let db = lakebase_seaorm::connect(&lakebase(&local)).await;
    let db = db.expect("connected");
    Library::up(&db, None).await.expect("migrated");
    let pending = Library::get_pending_migrations(&db).await.expect("a list");
    assert!(pending.is_empty());
}

#[tokio::test]
async fn steps_go_up_and_down_and_the_status_follows() {
    let local = local_with_schema().await;
    let migrations = Migrations::new(&lakebase(&local));
    let status = async || {
        let status = migrations.status::<Library>().await.expect("a list");
        status
            .into_iter()
            .map(|(_, status)| status)
            .collect::<Vec<_>>()
    };
    let (applied, pending) = (MigrationStatus::Applied, MigrationStatus::Pending);
    assert_eq!(status().await, [pending, pending]);
    let history = "seaql_migrations";
    assert!(!exists(&local, history).await, "looking changes nothing");

    let ran = migrations.up::<Library>(Some(1)).await.expect("migrated");
    assert_eq!(ran, [BOOKS]);
    assert_eq!(status().await, [applied, pending]);
    assert_eq!(
        migrations.up::<Library>(None).await.expect("more"),
        [AUTHORS]
    );
    let reverted = migrations.down::<Library>(Some(1)).await.expect("reverted");
    assert_eq!(reverted, [AUTHORS]);
    assert!(exists(&local, "books").await && !exists(&local, "authors").await);

    migrations.refresh::<Library>().await.expect("refreshed");
    assert_eq!(status().await, [applied, applied]);
    let reverted = migrations.down::<Library>(None).await.expect("reverted");
    assert_eq!(reverted, [AUTHORS, BOOKS]);
    migrations.up::<Library>(None).await.expect("migrated");
    migrations.reset::<Library>().await.expect("reset");
    assert!(!exists(&local, "books").await && !exists(&local, history).await);
}

#[tokio::test]
async fn a_schema_of_choice_holds_tables_and_history_and_fresh_stays_in_it() {
    let local = local_with_schema().await;
    let elsewhere = Migrations::new(&lakebase(&local));
    elsewhere.up::<Library>(None).await.expect("migrated");

    let migrations = Migrations::new(&lakebase(&local)).schema("My \"App\"");
    let error = migrations.up::<Library>(None).await.expect_err("missing");
    assert!(error.to_string().contains("create_schema"), "{error}");
    let migrations = migrations.create_schema(true);
    // Though the same was run elsewhere on the search path.
    let status = migrations.status::<Library>().await.expect("a list");
    assert!(
        status
            .iter()
            .all(|(_, status)| *status == MigrationStatus::Pending)
    );
    assert_eq!(migrations.up::<Library>(None).await.expect("ran").len(), 2);
    let table = |name: &str| format!("\"My \"\"App\"\"\".{name}");
    for name in ["books", "authors", "seaql_migrations"] {
        assert!(exists(&local, &table(name)).await, "{name}");
    }

    let own = format!("CREATE TABLE {} (id int)", table("by_hand"));
    let db = lakebase_seaorm::connect(&lakebase(&local)).await;
    let db = db.expect("connected");
    db.execute_unprepared(&own).await.expect("made");
    migrations.fresh::<Library>().await.expect("fresh");
    assert!(
        !exists(&local, &table("by_hand")).await,
        "all of it is gone"
    );
    assert!(exists(&local, &table("books")).await);
    assert!(exists(&local, "mine.books").await, "and nothing else");
}

#[tokio::test]
async fn a_schema_that_may_not_be_used_is_not_silently_another() {
    let local = local_with_schema().await;
    local.sql("CREATE SCHEMA locked").await.expect("a schema");
    let migrations = Migrations::new(&lakebase(&local)).schema("locked");
    let error = migrations.up::<Library>(None).await.expect_err("no right");
    assert!(error.to_string().contains("GRANT USAGE"), "{error}");
    assert!(!exists(&local, "mine.books").await);

    // A role that may log in and nothing else.
    let (id, secret) = local.add_service_principal();
    local.create_role(&id).await.expect("a role");
    let reader = [
        ("DATABRICKS_CLIENT_ID", id.as_str()),
        ("DATABRICKS_CLIENT_SECRET", &secret),
        ("PGUSER", &id),
    ];
    let migrations = Migrations::new(&lakebase_with(&local, &reader)).schema("missing");
    let error = migrations.create_schema(true).up::<Library>(None).await;
    let error = error.expect_err("no right to create a schema");
    assert_eq!(error.sqlstate(), Some("42501"), "{error}");
    assert!(!error.is_transient());
    assert!(error.to_string().contains("--deploy"), "{error}");
}

#[tokio::test]
async fn an_error_names_migration_and_sqlstate_and_leaves_what_was_done() {
    let local = local_with_schema().await;
    let migrations = Migrations::new(&lakebase(&local));
    let error = migrations.up::<WithBroken>(None).await;
    let error = error.expect_err("no shelf");
    assert_eq!(error.migration(), Some(BROKEN));
    assert_eq!(error.sqlstate(), Some("42P01"));
    assert!(!error.is_transient());
    for part in [BROKEN, "42P01", "\"shelf\" does not exist"] {
        assert!(error.chain().contains(part), "{part:?}: {error:?}");
    }
    assert!(exists(&local, "books").await);
    let text = DbErr::from(error).to_string();
    assert!(text.contains(BROKEN), "{text}");
    // The lock is free.
    soon(migrations.up::<Library>(None))
        .await
        .expect("migrated");
}

/// A table, and slowly an index on it that is built while others write.
struct Concurrent;

impl MigratorTrait for Concurrent {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![books(), Box::new(Index)]
    }
}

struct Index;

impl MigrationName for Index {
    fn name(&self) -> &str {
        AUTHORS
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Index {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let connection = manager.get_connection();
        connection.execute_unprepared("SELECT pg_sleep(1)").await?;
        let sql = "CREATE INDEX CONCURRENTLY by_id ON books (id)";
        connection.execute_unprepared(sql).await?;
        Ok(())
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(false)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_wait_do_not_hold_up_an_index_that_is_built_concurrently() {
    let local = local_with_schema().await;
    let replicas = (0..4).map(|_| {
        let migrations = Migrations::new(&lakebase(&local));
        tokio::spawn(async move { migrations.up::<Concurrent>(None).await })
    });
    for run in soon(join_all(replicas)).await {
        run.expect("no panic").expect("migrated");
    }
    let is_valid =
        "SELECT 1 / indisvalid::int FROM pg_index WHERE indexrelid = 'mine.by_id'::regclass";
    local.sql(is_valid).await.expect("it is whole");
}

/// Until a statement of a migration runs.
async fn migrates(local: &LocalLakebase) {
    let sql = "DO $$ BEGIN WHILE NOT EXISTS (SELECT FROM pg_stat_activity \
         WHERE state = 'active' AND query LIKE '%/* migrates */%' AND pid <> pg_backend_pid()) \
         LOOP PERFORM pg_sleep(0.01); PERFORM pg_stat_clear_snapshot(); END LOOP; END $$";
    soon(local.sql(sql)).await.expect("it is there");
}

#[tokio::test]
async fn a_replica_that_is_killed_in_the_middle_frees_the_lock() {
    let local = local_with_schema().await;
    let mut replica = std::process::Command::new(env!("CARGO_BIN_EXE_shelves"))
        .env_clear()
        .envs(local.env())
        .env("SHELVES_SQL", "SELECT pg_sleep(1000) /* migrates */")
        .spawn()
        .expect("it starts");
    migrates(&local).await;
    replica.kill().expect("killed");
    replica.wait().expect("gone");
    let next = Migrations::new(&lakebase(&local));
    let ran = soon(next.up::<Library>(None)).await.expect("migrated");
    assert_eq!(ran, [BOOKS, AUTHORS]);
}

#[tokio::test]
async fn one_that_is_given_up_is_waited_for_as_long_as_its_statement_runs() {
    let local = local_with_schema().await;
    let first = Migrations::new(&lakebase(&local));
    let migrating = tokio::spawn(async move { first.up::<Slow>(None).await });
    migrates(&local).await;
    migrating.abort();
    let next = Migrations::new(&lakebase(&local));
    soon(next.up::<Slow>(None)).await.expect("migrated");
    assert_eq!(AT_ONCE.load(Ordering::SeqCst), 1, "never two at once");
}

static AT_ONCE: AtomicUsize = AtomicUsize::new(0);

struct Slow;

impl MigratorTrait for Slow {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(Sleeps)]
    }
}

struct Sleeps;

impl MigrationName for Sleeps {
    fn name(&self) -> &str {
        BOOKS
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Sleeps {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let sql = "SELECT count(*), pg_sleep(2) FROM pg_stat_activity \
             WHERE state = 'active' AND query LIKE '%/* migrates */%' AND query NOT LIKE 'DO %' \
             /* migrates */";
        let statement = Statement::from_string(manager.get_database_backend(), sql.to_owned());
        let row = manager.get_connection().query_one_raw(statement).await?;
        let active: i64 = row.map_or(Ok(0), |row| row.try_get_by_index(0))?;
        AT_ONCE.fetch_max(
            usize::try_from(active).unwrap_or_default(),
            Ordering::SeqCst,
        );
        Ok(())
    }
}

#[tokio::test]
async fn a_lost_lock_is_an_error_and_no_panic() {
    let local = local_with_schema().await;
    let first = Migrations::new(&lakebase(&local));
    let migrating = tokio::spawn(async move { first.up::<Forever>(None).await });
    migrates(&local).await;
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'";
    local.sql(cut).await.expect("cut");
    let error = soon(migrating).await.expect("no panic");
    let error = error.expect_err("the lock is lost");
    assert!(
        error.to_string().contains("lost the advisory lock"),
        "{error}"
    );
    assert!(error.is_transient(), "the next run has a lock of its own");
}

struct Forever;

impl MigratorTrait for Forever {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(SleepsForever)]
    }
}

struct SleepsForever;

impl MigrationName for SleepsForever {
    fn name(&self) -> &str {
        BOOKS
    }
}

#[async_trait::async_trait]
impl MigrationTrait for SleepsForever {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let sql = "SELECT pg_sleep(1000) /* migrates */";
        manager.get_connection().execute_unprepared(sql).await?;
        Ok(())
    }
}

#[tokio::test]
async fn behind_a_pooler_they_go_past_it() {
    let local = local_with_schema().await;
    local
        .create_native_role("native", "a-password")
        .await
        .expect("a role");
    // The first schema on its search path.
    local
        .sql("CREATE SCHEMA native AUTHORIZATION native")
        .await
        .expect("a schema");
    let certificate = [
        ("LAKEBASE_ENDPOINT", ""),
        ("PGUSER", "native"),
        ("PGPASSWORD", "a-password"),
        ("PGHOST", local.pooled_host()),
        ("PGHOSTADDR", "127.0.0.1"),
    ];
    let pooled = lakebase_with(&local, &certificate);
    let ran = Migrations::new(&pooled).up::<Library>(None).await;
    assert_eq!(ran.expect("migrated").len(), 2);
    let hosts: Vec<_> = logins(&local.events())
        .into_iter()
        .filter_map(|(_, login)| login.host)
        .collect();
    assert!(!hosts.is_empty() && hosts.iter().all(|host| !host.contains("-pooler")));
    let ended = |event: &lakebase_local::Event| matches!(event.kind, EventKind::Ended { .. });
    soon(local.wait_until(|events| events.iter().any(ended))).await;
}

/// Runs the program of a migration crate: exit status, output, errors.
async fn migration_crate(vars: &[(String, String)], arguments: &[&str]) -> (bool, String, String) {
    let mut program = tokio::process::Command::new(env!("CARGO_BIN_EXE_shelves"));
    program.args(arguments).env_clear();
    program.envs(vars.iter().map(|(name, value)| (name, value)));
    let output = soon(program.output()).await.expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    let (out, err) = (text(output.stdout), text(output.stderr));
    (output.status.success(), out, err)
}

#[tokio::test]
async fn a_migration_crate_drops_nothing_if_the_database_url_names_another_database() {
    let local = local_with_schema().await;
    let mut vars = local.env();
    let (is_good, out, err) = migration_crate(&vars, &["up"]).await;
    assert!(is_good, "{out} {err}");
    // What `sea-orm-cli migrate -u` hands on, or what was left behind in a file.
    let port = local.postgres_port();
    let socket = format!("postgres://me:sekrit@%2Ftmp:{port}/databricks_postgres");
    vars.push(("PGHOST".to_owned(), "localhost".to_owned()));
    vars.push(("DATABASE_URL".to_owned(), socket));
    let (is_good, _, err) = migration_crate(&vars, &["fresh"]).await;
    assert!(!is_good && err.contains("DATABASE_URL"), "{err}");
    vars.pop();
    let elsewhere = "postgres://me:sekrit@127.0.0.1:1/scratch".to_owned();
    vars.push(("DATABASE_URL".to_owned(), elsewhere));
    for command in ["fresh", "refresh", "reset", "down"] {
        let (is_good, _, err) = migration_crate(&vars, &[command]).await;
        assert!(!is_good && err.contains("DATABASE_URL"), "{command}: {err}");
        assert!(!err.contains("sekrit"), "{err}");
    }
    assert!(exists(&local, "mine.shelves").await);
    // What changes nothing that was there goes on, and says so.
    let (is_good, out, err) = migration_crate(&vars, &["up"]).await;
    assert!(is_good && err.contains("DATABASE_URL"), "{out} {err}");

    let same = format!("postgres://me@localhost:{port}/databricks_postgres?sslmode=require");
    for url in [same, String::new()] {
        vars.retain(|(name, _)| name != "DATABASE_URL");
        vars.push(("DATABASE_URL".to_owned(), url));
        let (is_good, out, err) = migration_crate(&vars, &["fresh"]).await;
        assert!(is_good, "{out} {err}");
        assert!(!err.contains("DATABASE_URL"), "{err}");
    }
}

#[tokio::test]
async fn a_migration_crate_names_the_file_that_its_database_url_is_from() {
    let local = local().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join(".env");
    let line = "DATABASE_URL=postgres://me:sekrit@old.example.com/old\n";
    std::fs::write(&file, line).expect("written");
    for command in ["down", "fresh", "reset"] {
        let mut program = tokio::process::Command::new(env!("CARGO_BIN_EXE_shelves"));
        program.arg(command).env_clear().envs(local.env());
        program
            .env("LAKEBASE_SCHEMA", "app")
            .current_dir(folder.path());
        let output = soon(program.output()).await.expect("it runs");
        let err = String::from_utf8(output.stderr).expect("text");
        assert!(!output.status.success(), "{err}");
        let file = file.canonicalize().expect("a path");
        for part in [
            file.to_str().expect("text"),
            "old.example.com",
            "remove the line",
        ] {
            assert!(err.contains(part), "{command}: {part}: {err}");
        }
        assert!(!err.contains("sekrit"), "{err}");
    }
}

#[tokio::test]
async fn the_migrator_of_a_migration_crate_may_be_a_value() {
    let local = local_with_schema().await;
    let mut vars = local.env();
    vars.push(("SHELVES_CHOSEN".to_owned(), "1".to_owned()));
    let (is_good, out, err) = migration_crate(&vars, &["up"]).await;
    assert!(is_good && out == "applied one\napplied two\n", "{out}{err}");
    let (_, out, err) = migration_crate(&vars, &["status"]).await;
    assert_eq!(out, "Applied  one\nApplied  two\n", "{err}");
}

#[tokio::test]
async fn a_migration_crate_needs_one_changed_line_and_no_database_url() {
    let local = local_with_schema().await;
    let vars = local.env();
    let name = "m20260101_000000_create_shelves";
    let steps: &[(&[&str], String)] = &[
        (&["status"], format!("Pending  {name}\n")),
        (&[], format!("applied {name}\n")),
        (&["up"], "nothing pending\n".to_owned()),
        (&["refresh"], "done: 1 applied\n".to_owned()),
        (&["down"], format!("reverted {name}\n")),
        (&["up", "-n", "1", "-s", "app"], format!("applied {name}\n")),
        (&["status", "-s", "app"], format!("Applied  {name}\n")),
    ];
    for (arguments, expected) in steps {
        let (is_good, out, err) = migration_crate(&vars, arguments).await;
        assert!(is_good, "{arguments:?}: {out} {err}");
        assert_eq!(&out, expected, "{arguments:?}");
    }
    assert!(exists(&local, "app.shelves").await);
    assert!(!exists(&local, "mine.shelves").await);

    let mut in_schema = vars.clone();
    in_schema.push(("LAKEBASE_SCHEMA".to_owned(), "made".to_owned()));
    let (is_good, out, err) = migration_crate(&in_schema, &["up"]).await;
    assert!(is_good, "{out} {err}");
    assert!(exists(&local, "made.shelves").await, "the schema was made");

    let sql = format!(
        "CREATE ROLE app_owner; GRANT app_owner TO \"{}\"; CREATE SCHEMA shared AUTHORIZATION app_owner",
        local.client_id()
    );
    local.sql(&sql).await.expect("a shared owner");
    let arguments = ["up", "-s", "shared", "--owner", "app_owner"];
    let (is_good, out, err) = migration_crate(&vars, &arguments).await;
    assert!(is_good, "{out} {err}");
    let owned = "SELECT 1 / (relowner = 'app_owner'::regrole)::int FROM pg_class \
                 WHERE oid = 'shared.shelves'::regclass";
    local.sql(owned).await.expect("the shared owner's");

    let mut wrong = vars.clone();
    wrong.push(("PGUSER".to_owned(), "stranger".to_owned()));
    let (is_good, _, err) = migration_crate(&wrong, &["up"]).await;
    assert!(!is_good && err.contains("SQLSTATE 28000)"), "{err}");
    assert_eq!(err.lines().count(), 1, "once, and nothing else: {err}");
    assert!(
        !err.contains('\x1b') && !err.contains("communicating"),
        "{err}"
    );

    let (is_good, _, err) = migration_crate(&[], &["up"]).await;
    assert!(!is_good && err.contains("LAKEBASE_ENDPOINT"), "{err}");
}

/// Any SQL, as the task says.
struct Sql;

tokio::task_local! {
    static SQL: (String, bool);
}

impl MigratorTrait for Sql {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        let (sql, in_transaction) = SQL.get();
        // Longer than a timeout that is left behind.
        let pause = 0.2 * f64::from(u8::from(sql.contains("timeout")));
        let insert = format!(
            "INSERT INTO books VALUES (1) ON CONFLICT DO NOTHING; SELECT pg_sleep({pause})"
        );
        vec![
            Box::new(RunsSql(BOOKS, sql, in_transaction)),
            Box::new(Create {
                name: AUTHORS,
                table: "books",
            }),
            Box::new(RunsSql(BROKEN, insert, true)),
        ]
    }
}

struct RunsSql(&'static str, String, bool);

impl MigrationName for RunsSql {
    fn name(&self) -> &str {
        self.0
    }
}

#[async_trait::async_trait]
impl MigrationTrait for RunsSql {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let connection = manager.get_connection();
        connection.execute_unprepared(&self.1).await.map(drop)
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        self.up(manager).await
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(self.2)
    }
}

/// In a schema of its own: what a migration leaves in its session, and two that follow it.
#[tokio::test]
async fn what_a_migration_leaves_in_its_session_ends_with_it() {
    let local = local().await;
    let superuser = native_superuser(&local).await;
    for (number, left_behind) in LEFT_BEHIND.iter().enumerate() {
        for in_transaction in [true, false] {
            let schema = format!("Läden {number} {in_transaction}");
            let migrations = Migrations::new(&superuser)
                .schema(&schema)
                .create_schema(true);
            let sql = ((*left_behind).to_owned(), in_transaction);
            let outcome = SQL.scope(sql.clone(), migrations.up::<Sql>(None)).await;
            let ran = outcome.unwrap_or_else(|error| panic!("{sql:?}: {error}"));
            assert_eq!(ran.len(), 3, "{sql:?}");
            let right = format!(
                "SELECT 1 / ((SELECT count(*) FROM \"{schema}\".books) = 1 \
                 AND (SELECT count(*) FROM \"{schema}\".seaql_migrations) = 3)::int"
            );
            let found = local.sql(&right).await;
            found.unwrap_or_else(|error| panic!("{sql:?}: {error}"));
            assert!(!exists(&local, "public.books").await, "{sql:?}");
            assert!(!exists(&local, "public.seaql_migrations").await, "{sql:?}");
            let reverting = SQL.scope(sql.clone(), migrations.down::<Sql>(None));
            let reverted = reverting.await;
            let reverted = reverted.unwrap_or_else(|error| panic!("{sql:?}: {error}"));
            assert_eq!(reverted, [BROKEN, AUTHORS, BOOKS], "{sql:?}");
        }
    }
}

#[tokio::test]
async fn the_sessions_of_the_application_stay_as_they_are() {
    let local = local().await;
    local
        .sql("CREATE SCHEMA app; GRANT ALL ON SCHEMA app TO PUBLIC")
        .await
        .expect("a schema");
    let mut options = lakebase_seaorm::options();
    options.max_connections(1).set_schema_search_path("app");
    let db = lakebase_seaorm::connect_with(&lakebase(&local), options).await;
    let db = db.expect("connected");
    for in_transaction in [true, false] {
        let sql = "SET search_path TO nowhere; SET application_name = 'migration'".to_owned();
        let migrations = Migrations::new(&lakebase(&local)).schema("app");
        let running = SQL.scope((sql, in_transaction), migrations.up::<Sql>(None));
        soon(running).await.expect("migrated");
        let ask = "SELECT current_setting('search_path') || current_setting('application_name')";
        let ask = Statement::from_string(db.get_database_backend(), ask);
        let row = db
            .query_one_raw(ask)
            .await
            .expect("an answer")
            .expect("a row");
        let settings: String = row.try_get_by_index(0).expect("text");
        assert!(
            settings.starts_with("app") && !settings.contains("migration"),
            "{settings}"
        );
    }
    assert!(exists(&local, "app.books").await && exists(&local, "app.seaql_migrations").await);
}

#[tokio::test]
async fn a_role_whose_idle_sessions_are_ended_keeps_the_lock() {
    let local = local().await;
    let sql = format!(
        "ALTER ROLE \"{}\" SET idle_session_timeout = '1s'",
        local.client_id()
    );
    local.sql(&sql).await.expect("set");
    let migrations = Migrations::new(&lakebase(&local))
        .schema("app")
        .create_schema(true);
    let sql = ("SELECT pg_sleep(3)".to_owned(), true);
    let ran = SQL.scope(sql, migrations.up::<Sql>(None)).await;
    assert_eq!(ran.expect("migrated").len(), 3);
}

/// As seen by something between us and the server that ends connections which send nothing.
#[tokio::test]
async fn the_session_that_holds_the_lock_sends_something_now_and_then() {
    let local = local().await;
    let migrations = Migrations::new(&lakebase(&local))
        .schema("app")
        .create_schema(true);
    let until_it_does = "DO $$ BEGIN WHILE NOT EXISTS (SELECT FROM pg_stat_activity \
         JOIN pg_locks USING (pid) WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' \
         AND state_change > transaction_timestamp() + interval '1 s') \
         LOOP PERFORM pg_sleep(0.05); PERFORM pg_stat_clear_snapshot(); END LOOP; END $$";
    let sql = (until_it_does.to_owned(), true);
    let running = SQL.scope(sql, migrations.up::<Sql>(None));
    assert_eq!(soon(running).await.expect("migrated").len(), 3);
}

#[tokio::test]
async fn waiting_for_the_lock_ends_and_says_who_has_it() {
    let local = local().await;
    let other = native_superuser(&local).await;
    let (holder, connection) = other.connect().await.expect("a login");
    tokio::spawn(connection);
    let lock = format!(
        "SELECT pg_advisory_lock({})",
        lakebase_core::adapter::migration::MIGRATION_LOCK
    );
    holder.batch_execute(&lock).await.expect("held");
    let migrations = Migrations::new(&lakebase(&local))
        .schema("app")
        .create_schema(true);
    let waiting = migrations.clone().lock_timeout(Duration::from_millis(400));
    let error = soon(waiting.up::<Library>(None)).await;
    let error = error.expect_err("somebody else has it");
    assert!(error.is_transient(), "{error}");
    for part in ["migration lock", "lock_timeout", "pg_locks"] {
        assert!(error.to_string().contains(part), "{part:?}: {error}");
    }
    drop(holder);
    let ran = soon(migrations.up::<Library>(None)).await;
    assert_eq!(ran.expect("migrated").len(), 2);
}

#[tokio::test]
async fn a_missing_schema_is_named_with_the_statement_that_creates_it() {
    let local = local().await;
    let configured = lakebase_with(&local, &[("LAKEBASE_SCHEMA", "app")]);
    let migrations = Migrations::new(&configured);
    let short = up::<Library>(&configured).await;
    for outcome in [short, migrations.up::<Library>(None).await.map(drop)] {
        let error = outcome.expect_err("no such schema");
        assert_eq!(error.sqlstate(), Some("3F000"), "{error}");
        for part in ["CREATE SCHEMA \"app\"", "create_schema"] {
            assert!(error.to_string().contains(part), "{part:?}: {error}");
            assert!(format!("{error:?}").contains(part), "{part:?}: {error:?}");
        }
    }
    let list = migrations.schema("app,public").create_schema(true);
    let error = list.up::<Library>(None).await.expect_err("not a schema");
    assert!(
        error.to_string().contains("schema: \"app,public\""),
        "{error}"
    );
}

#[tokio::test]
async fn each_session_that_migrates_holds_the_lock_that_outlives_its_replica() {
    let local = local_with_schema().await;
    let check = "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_locks WHERE pid = pg_backend_pid() \
                 AND locktype = 'advisory' AND mode = 'ShareLock' AND granted) \
                 THEN RAISE EXCEPTION 'nothing holds up the next replica'; END IF; END $$";
    for in_transaction in [true, false] {
        let sql = (check.to_owned(), in_transaction);
        let schema = format!("app_{in_transaction}");
        let migrations = Migrations::new(&lakebase(&local))
            .schema(&schema)
            .create_schema(true);
        let outcome = SQL.scope(sql, migrations.up::<Sql>(None)).await;
        outcome.expect("migrated");
    }
}

#[tokio::test]
async fn a_transaction_that_a_migration_without_one_leaves_open_is_committed() {
    let local = local_with_schema().await;
    let migrations = Migrations::new(&lakebase(&local));
    let sql = ("BEGIN; CREATE TABLE left_open (id int)".to_owned(), false);
    let outcome = SQL.scope(sql, migrations.up::<Sql>(None)).await;
    outcome.expect("migrated");
    assert!(exists(&local, "left_open").await);
}

#[tokio::test]
async fn a_fresh_start_drops_nothing_of_another_schema() {
    let local = local_with_schema().await;
    // Tables of the same name: an application that has moved left them there.
    let owner = format!("\"{}\"", local.client_id());
    let sql = format!(
        "CREATE TABLE public.events_2024 (id int); ALTER TABLE public.events_2024 OWNER TO {owner}; \
         SET ROLE {owner}; CREATE TABLE {SCHEMA}.events (id int) PARTITION BY LIST (id); \
         CREATE TABLE {SCHEMA}.events_2024 PARTITION OF {SCHEMA}.events FOR VALUES IN (2024)"
    );
    local.sql(&sql).await.expect("tables");
    let migrations = Migrations::new(&lakebase(&local)).schema(SCHEMA);
    migrations.fresh::<Library>().await.expect("migrated");
    assert!(exists(&local, "books").await);
    assert!(!exists(&local, "events").await);
    assert!(exists(&local, "public.events_2024").await);
}

#[tokio::test]
async fn a_history_that_is_a_view_counts() {
    let local = local_with_schema().await;
    let lakebase = lakebase(&local);
    up::<Library>(&lakebase).await.expect("migrated");
    let sql = format!(
        "ALTER TABLE {SCHEMA}.seaql_migrations RENAME TO kept; \
         CREATE VIEW {SCHEMA}.seaql_migrations AS SELECT * FROM {SCHEMA}.kept; \
         GRANT ALL ON {SCHEMA}.seaql_migrations TO PUBLIC"
    );
    local.sql(&sql).await.expect("a view");
    let ran = Migrations::new(&lakebase).up::<Library>(None).await;
    assert_eq!(ran.expect("nothing to do"), [""; 0]);
}
