//! SeaORM migrations: one replica runs them, in the chosen schema, with errors that name the migration.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use lakebase_core::adapter::migration::MIGRATION_LOCK;
use lakebase_local::LocalLakebase;
use lakebase_seaorm::migrations::{Migrations, up};
use lakebase_tests::{
    SCHEMA, has_table, lakebase, lakebase_with, local, local_with_schema, logins, native,
    native_superuser, no_session, service_principal, session, soon, statements_run,
};
use sea_orm::{ConnectionTrait as _, Statement};
use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_query::Alias;
use sea_orm_migration::{MigrationStatus, MigratorTrait};

use crate::sql_migrations::{
    MIGRATIONS, Migration, Sql, assert_all_in_schema, leave_settings_behind,
};

const BOOKS: &str = "m20260101_000000_create_books";
const AUTHORS: &str = "m20260102_000000_create_authors";
const BROKEN: &str = "m20260103_000000_broken";
const CREATE_BOOKS: Migration = Migration::new(BOOKS, "CREATE TABLE books (id int)");

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_replicas_that_start_together_run_each_migration_once() {
    let local = local_with_schema().await;
    let replicas = (0..16).map(|_| {
        // A handle for each replica, as in a process.
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
async fn the_function_up_takes_the_lock() {
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
async fn the_up_of_a_migrator_runs_on_our_connection() {
    let local = local_with_schema().await;
    let db = lakebase_seaorm::connect(&lakebase(&local)).await;
    let db = db.expect("connected");
    Library::up(&db, None).await.expect("migrated");
    let pending = Library::get_pending_migrations(&db).await.expect("a list");
    assert!(pending.is_empty());
}

#[tokio::test]
async fn migrations_are_applied_and_reverted_in_steps_and_the_status_shows_it() {
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
    assert!(!has_table(&local, history).await, "nothing is created");

    let ran = migrations.up::<Library>(Some(1)).await.expect("migrated");
    assert_eq!(ran, [BOOKS]);
    assert_eq!(status().await, [applied, pending]);
    assert_eq!(
        migrations.up::<Library>(None).await.expect("more"),
        [AUTHORS]
    );
    let reverted = migrations.down::<Library>(Some(1)).await.expect("reverted");
    assert_eq!(reverted, [AUTHORS]);
    assert!(has_table(&local, "books").await && !has_table(&local, "authors").await);

    migrations.refresh::<Library>().await.expect("refreshed");
    assert_eq!(status().await, [applied, applied]);
    let reverted = migrations.down::<Library>(None).await.expect("reverted");
    assert_eq!(reverted, [AUTHORS, BOOKS]);
    migrations.up::<Library>(None).await.expect("migrated");
    migrations.reset::<Library>().await.expect("reset");
    assert!(!has_table(&local, "books").await && !has_table(&local, history).await);
}

#[tokio::test]
async fn the_chosen_schema_holds_tables_and_history_and_fresh_drops_nothing_else() {
    let local = local_with_schema().await;
    let elsewhere = Migrations::new(&lakebase(&local));
    elsewhere.up::<Library>(None).await.expect("migrated");

    let migrations = Migrations::new(&lakebase(&local)).schema("My \"App\"");
    let error = migrations.up::<Library>(None).await.expect_err("missing");
    assert!(error.to_string().contains("create_schema"), "{error}");
    let migrations = migrations.create_schema(true);
    // Another schema on the search path has the same history.
    let status = migrations.status::<Library>().await.expect("a list");
    assert!(
        status
            .iter()
            .all(|(_, status)| *status == MigrationStatus::Pending)
    );
    assert_eq!(migrations.up::<Library>(None).await.expect("ran").len(), 2);
    let table = |name: &str| format!("\"My \"\"App\"\"\".{name}");
    for name in ["books", "authors", "seaql_migrations"] {
        assert!(has_table(&local, &table(name)).await, "{name}");
    }

    let own = format!("CREATE TABLE {} (id int)", table("by_hand"));
    let db = lakebase_seaorm::connect(&lakebase(&local)).await;
    let db = db.expect("connected");
    db.execute_unprepared(&own).await.expect("made");
    migrations.fresh::<Library>().await.expect("fresh");
    assert!(
        !has_table(&local, &table("by_hand")).await,
        "all of it is gone"
    );
    assert!(has_table(&local, &table("books")).await);
    assert!(has_table(&local, "mine.books").await, "and nothing else");
}

#[tokio::test]
async fn without_privileges_on_the_chosen_schema_no_other_is_used() {
    let local = local_with_schema().await;
    local.sql("CREATE SCHEMA locked").await.expect("a schema");
    let migrations = Migrations::new(&lakebase(&local)).schema("locked");
    let error = migrations
        .up::<Library>(None)
        .await
        .expect_err("no privilege");
    assert!(error.to_string().contains("GRANT USAGE"), "{error}");
    assert!(!has_table(&local, "mine.books").await);

    // A role without CREATE on the database.
    let (id, reader) = service_principal(&local, &[]);
    local.create_role(&id).await.expect("a role");
    let migrations = Migrations::new(&reader).schema("missing");
    let error = migrations.create_schema(true).up::<Library>(None).await;
    let error = error.expect_err("no privilege to create a schema");
    assert_eq!(error.sqlstate(), Some("42501"), "{error}");
    assert!(!error.is_transient());
    assert!(error.to_string().contains("--deploy"), "{error}");
}

#[tokio::test]
async fn an_error_names_migration_and_sqlstate_and_earlier_migrations_stay() {
    let local = local_with_schema().await;
    let migrations = Migrations::new(&lakebase(&local));
    let broken = Migration::new(BROKEN, "ALTER TABLE shelf ADD x int");
    let up = migrations.up::<Sql>(None);
    let error = MIGRATIONS.scope(vec![CREATE_BOOKS, broken], up).await;
    let error = error.expect_err("no shelf");
    assert_eq!(error.migration(), Some(BROKEN));
    assert_eq!(error.sqlstate(), Some("42P01"));
    assert!(!error.is_transient());
    for part in [BROKEN, "42P01", "\"shelf\" does not exist"] {
        assert!(error.chain().contains(part), "{part:?}: {error:?}");
    }
    assert!(has_table(&local, "books").await);
    let text = DbErr::from(error).to_string();
    assert!(text.contains(BROKEN), "{text}");
    // The lock is free.
    soon(migrations.up::<Library>(None))
        .await
        .expect("migrated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_replicas_do_not_block_a_concurrent_index_build() {
    let local = local_with_schema().await;
    let pending = vec![
        Migration::new(BOOKS, "CREATE TABLE books (id int); SELECT pg_sleep(1)"),
        Migration::new(AUTHORS, "CREATE INDEX CONCURRENTLY by_id ON books (id)")
            .in_transaction(false),
    ];
    let replicas = (0..4).map(|_| {
        let migrations = Migrations::new(&lakebase(&local));
        let up = async move { migrations.up::<Sql>(None).await };
        tokio::spawn(MIGRATIONS.scope(pending.clone(), up))
    });
    for run in soon(join_all(replicas)).await {
        run.expect("no panic").expect("migrated");
    }
    let is_valid =
        "SELECT 1 / indisvalid::int FROM pg_index WHERE indexrelid = 'mine.by_id'::regclass";
    local.sql(is_valid).await.expect("it is whole");
}

/// Waits until a statement of a migration runs.
async fn migrates(local: &LocalLakebase) {
    statements_run(local, "%/* migrates */%", 1).await;
}

#[tokio::test]
async fn a_replica_that_is_killed_during_a_migration_frees_the_lock() {
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
async fn the_next_run_waits_for_a_statement_of_a_dropped_run() {
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
async fn a_lost_lock_ends_the_run() {
    let local = local_with_schema().await;
    let first = Migrations::new(&lakebase(&local));
    let pending = vec![Migration::new(
        BOOKS,
        "SELECT pg_sleep(1000) /* migrates */",
    )];
    let up = async move { first.up::<Sql>(None).await };
    let migrating = tokio::spawn(MIGRATIONS.scope(pending, up));
    migrates(&local).await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'";
    local.sql(end).await.expect("ended");
    let error = soon(migrating).await.expect("no panic");
    let error = error.expect_err("the lock is lost");
    assert!(
        error.to_string().contains("lost the advisory lock"),
        "{error}"
    );
    assert!(error.is_transient(), "the next run takes the lock again");
}

#[tokio::test]
async fn migrations_use_the_direct_host_of_a_pooled_one() {
    let local = local_with_schema().await;
    let changes = [("PGHOST", local.pooled_host()), ("PGHOSTADDR", "127.0.0.1")];
    let pooled = native(&local, &changes).await;
    // The first schema on its search path.
    local
        .sql("CREATE SCHEMA native AUTHORIZATION native")
        .await
        .expect("a schema");
    let ran = Migrations::new(&pooled).up::<Library>(None).await;
    assert_eq!(ran.expect("migrated").len(), 2);
    let hosts: Vec<_> = logins(&local.events())
        .into_iter()
        .filter_map(|(_, login)| login.host)
        .collect();
    assert!(!hosts.is_empty() && hosts.iter().all(|host| !host.contains("-pooler")));
    no_session(&local).await;
}

/// Runs the program of a migration crate. Returns success, output and errors.
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
async fn a_migration_crate_drops_nothing_if_database_url_names_another_database() {
    let local = local_with_schema().await;
    let mut vars = local.env();
    let (is_good, out, err) = migration_crate(&vars, &["up"]).await;
    assert!(is_good, "{out} {err}");
    // From `sea-orm-cli migrate -u`, or from an old `.env`.
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
    assert!(has_table(&local, "mine.shelves").await);
    // A command that drops nothing runs with a warning.
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
async fn a_migration_crate_names_the_file_that_sets_database_url() {
    let local = local().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join(".env");
    let line = "DATABASE_URL=postgres://me:sekrit@old.example.com/old\n";
    std::fs::write(&file, line).expect("written");
    for command in ["down", "fresh", "reset"] {
        let mut program = tokio::process::Command::new(env!("CARGO_BIN_EXE_shelves"));
        program.arg(command).current_dir(folder.path());
        program.env_clear().envs(local.env());
        program.env("LAKEBASE_SCHEMA", "app");
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
async fn the_migrator_of_a_migration_crate_can_be_a_value() {
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
    assert!(has_table(&local, "app.shelves").await);
    assert!(!has_table(&local, "mine.shelves").await);

    let mut in_schema = vars.clone();
    in_schema.push(("LAKEBASE_SCHEMA".to_owned(), "made".to_owned()));
    let (is_good, out, err) = migration_crate(&in_schema, &["up"]).await;
    assert!(is_good, "{out} {err}");
    assert!(
        has_table(&local, "made.shelves").await,
        "the schema was made"
    );

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

#[tokio::test]
async fn settings_that_a_migration_leaves_in_its_session_are_reset() {
    let local = local().await;
    let superuser = native_superuser(&local).await;
    for in_transaction in [true, false] {
        let pending = leave_settings_behind(in_transaction);
        let count = pending.len();
        let schema = format!("Läden {in_transaction}");
        let migrations = Migrations::new(&superuser)
            .schema(&schema)
            .create_schema(true);
        let running = MIGRATIONS.scope(pending.clone(), migrations.up::<Sql>(None));
        assert_eq!(running.await.expect("migrated").len(), count);
        assert_all_in_schema(&local, &schema, "seaql_migrations").await;
        let reverting = MIGRATIONS.scope(pending, migrations.down::<Sql>(None));
        assert_eq!(reverting.await.expect("reverted").len(), count);
    }
}

#[tokio::test]
async fn migrations_change_no_session_of_the_application() {
    let local = local().await;
    let schemas = ["app", "app_true", "app_false"];
    for schema in schemas {
        let create = format!("CREATE SCHEMA {schema}; GRANT ALL ON SCHEMA {schema} TO PUBLIC");
        local.sql(&create).await.expect("a schema");
    }
    let mut options = lakebase_seaorm::options();
    options.max_connections(1).set_schema_search_path("app");
    let db = lakebase_seaorm::connect_with(&lakebase(&local), options).await;
    let db = db.expect("connected");
    for in_transaction in [true, false] {
        let sql = "SET search_path TO nowhere; SET application_name = 'migration'";
        let pending = vec![
            Migration::new(AUTHORS, sql).in_transaction(in_transaction),
            CREATE_BOOKS,
        ];
        let schema = format!("app_{in_transaction}");
        let migrations = Migrations::new(&lakebase(&local)).schema(&schema);
        let running = MIGRATIONS.scope(pending, migrations.up::<Sql>(None));
        soon(running).await.expect("migrated");
        assert!(has_table(&local, &format!("{schema}.books")).await);
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
}

#[tokio::test]
async fn idle_session_timeout_does_not_end_the_session_that_holds_the_lock() {
    let local = local().await;
    let sql = format!(
        "ALTER ROLE \"{}\" SET idle_session_timeout = '1s'",
        local.client_id()
    );
    local.sql(&sql).await.expect("set");
    let migrations = Migrations::new(&lakebase(&local))
        .schema("app")
        .create_schema(true);
    let pending = vec![Migration::new(BOOKS, "SELECT pg_sleep(3)")];
    let ran = MIGRATIONS.scope(pending, migrations.up::<Sql>(None)).await;
    assert_eq!(ran.expect("migrated"), [BOOKS]);
}

/// Load balancers close connections that send nothing.
#[tokio::test]
async fn the_session_that_holds_the_lock_sends_queries_regularly() {
    let local = local().await;
    let migrations = Migrations::new(&lakebase(&local))
        .schema("app")
        .create_schema(true);
    let until_it_does = "DO $$ BEGIN WHILE NOT EXISTS (SELECT FROM pg_stat_activity \
         JOIN pg_locks USING (pid) WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' \
         AND state_change > transaction_timestamp() + interval '1 s') \
         LOOP PERFORM pg_sleep(0.05); PERFORM pg_stat_clear_snapshot(); END LOOP; END $$";
    let pending = vec![Migration::new(BOOKS, until_it_does)];
    let running = MIGRATIONS.scope(pending, migrations.up::<Sql>(None));
    assert_eq!(soon(running).await.expect("migrated"), [BOOKS]);
}

#[tokio::test]
async fn waiting_for_the_lock_times_out_with_a_query_that_shows_its_holder() {
    let local = local().await;
    let other = native_superuser(&local).await;
    let holder = session(&other).await;
    let lock = format!("SELECT pg_advisory_lock({MIGRATION_LOCK})");
    holder.batch_execute(&lock).await.expect("held");
    let migrations = Migrations::new(&lakebase(&local))
        .schema("app")
        .create_schema(true);
    let waiting = migrations.clone().lock_timeout(Duration::from_millis(400));
    let error = soon(waiting.up::<Library>(None)).await;
    let error = error.expect_err("another session holds it");
    assert!(error.is_transient(), "{error}");
    for part in ["migration lock", "lock_timeout", "pg_locks"] {
        assert!(error.to_string().contains(part), "{part:?}: {error}");
    }
    drop(holder);
    let ran = soon(migrations.up::<Library>(None)).await;
    assert_eq!(ran.expect("migrated").len(), 2);
}

#[tokio::test]
async fn the_error_of_a_missing_schema_names_the_statement_that_creates_it() {
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
async fn each_session_that_migrates_holds_the_lock_for_running_statements() {
    let local = local_with_schema().await;
    let check = "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_locks WHERE pid = pg_backend_pid() \
                 AND locktype = 'advisory' AND mode = 'ShareLock' AND granted) \
                 THEN RAISE EXCEPTION 'nothing holds up the next replica'; END IF; END $$";
    for in_transaction in [true, false] {
        let pending = vec![Migration::new(BOOKS, check).in_transaction(in_transaction)];
        let schema = format!("app_{in_transaction}");
        let migrations = Migrations::new(&lakebase(&local))
            .schema(&schema)
            .create_schema(true);
        let outcome = MIGRATIONS.scope(pending, migrations.up::<Sql>(None)).await;
        outcome.expect("migrated");
    }
}

#[tokio::test]
async fn a_transaction_that_a_migration_leaves_open_is_committed() {
    let local = local_with_schema().await;
    let migrations = Migrations::new(&lakebase(&local));
    let begin = Migration::new(BOOKS, "BEGIN; CREATE TABLE left_open (id int)");
    let pending = vec![begin.in_transaction(false)];
    let outcome = MIGRATIONS.scope(pending, migrations.up::<Sql>(None)).await;
    outcome.expect("migrated");
    assert!(has_table(&local, "left_open").await);
}

#[tokio::test]
async fn a_transaction_that_a_failed_migration_leaves_open_is_rolled_back() {
    let local = local_with_schema().await;
    let migrations = Migrations::new(&lakebase(&local));
    let begin = Migration::new(BOOKS, "BEGIN; CREATE TABLE left_open (id int); -- give up");
    let pending = vec![begin.in_transaction(false)];
    let outcome = MIGRATIONS.scope(pending, migrations.up::<Sql>(None)).await;
    outcome.expect_err("gave up");
    no_session(&local).await;
    assert!(!has_table(&local, "left_open").await);
}

#[tokio::test]
async fn a_temporary_table_is_gone_before_the_next_migration() {
    /// The pool has two sessions, and each migration may get either.
    const PAIRS: u32 = 10;
    let local = local_with_schema().await;
    for (first, second) in [(true, false), (false, true), (false, false), (true, true)] {
        let mut pending = vec![CREATE_BOOKS];
        for number in 0..PAIRS {
            let name = |what: &str| format!("m20260102_{number:06}_{what}").leak();
            let hides = Migration::new(name("hides"), "CREATE TEMP TABLE books (id int)");
            let inserts = Migration::new(name("inserts"), "INSERT INTO books VALUES (1)");
            pending.push(hides.in_transaction(first));
            pending.push(inserts.in_transaction(second));
        }
        let migrations = Migrations::new(&lakebase(&local)).schema(SCHEMA);
        let outcome = MIGRATIONS.scope(pending, migrations.fresh::<Sql>()).await;
        outcome.expect("migrated");
        let all = format!("SELECT 1 / ((SELECT count(*) FROM {SCHEMA}.books) = {PAIRS})::int");
        let found = local.sql(&all).await;
        found.unwrap_or_else(|error| panic!("{first} {second}: {error}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_without_a_transaction_can_discard_the_state_of_its_session() {
    let local = local_with_schema().await;
    let migrations = Migrations::new(&lakebase(&local));
    // The pool has two sessions, and each migration may get either.
    let discards = ["DISCARD ALL", "DEALLOCATE ALL"].repeat(10).into_iter();
    let discards = discards.enumerate().map(|(number, sql)| {
        let name = format!("m20260102_{number:06}_discards").leak();
        Migration::new(name, sql).in_transaction(false)
    });
    let pending: Vec<_> = std::iter::once(CREATE_BOOKS).chain(discards).collect();
    let count = pending.len();
    let outcome = MIGRATIONS.scope(pending, migrations.up::<Sql>(None)).await;
    assert_eq!(outcome.expect("migrated").len(), count);
}

tokio::task_local! {
    /// The local Lakebase of [`BlocksLogins`].
    static LOCAL: Arc<LocalLakebase>;
}

/// A migration during which the token is revoked and the workspace fails.
struct BlocksLogins;

impl MigrationName for BlocksLogins {
    fn name(&self) -> &str {
        BOOKS
    }
}

#[async_trait::async_trait]
impl MigrationTrait for BlocksLogins {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        LOCAL.with(|local| {
            local.set_api_down(true);
            local.revoke_tokens();
        });
        let sql = "CREATE TABLE books (id int)";
        manager.get_connection().execute_unprepared(sql).await?;
        Ok(())
    }

    fn use_transaction(&self) -> Option<bool> {
        Some(false)
    }
}

impl MigratorTrait for BlocksLogins {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(BlocksLogins)]
    }
}

#[tokio::test]
async fn a_migration_without_a_transaction_is_recorded_without_another_login() {
    let local = Arc::new(local_with_schema().await);
    let migrations = Migrations::new(&lakebase(&local));
    let up = migrations.up::<BlocksLogins>(None);
    let ran = soon(LOCAL.scope(Arc::clone(&local), up)).await;
    assert_eq!(ran.expect("migrated"), [BOOKS]);
    local.set_api_down(false);
    let ran = soon(migrations.up::<BlocksLogins>(None)).await;
    assert_eq!(ran.expect("nothing to do"), [""; 0]);
}

#[tokio::test]
async fn fresh_drops_no_partition_of_the_same_name_in_another_schema() {
    let local = local_with_schema().await;
    // Left by an application that has moved.
    let owner = format!("\"{}\"", local.client_id());
    let sql = format!(
        "CREATE TABLE public.events_2024 (id int); ALTER TABLE public.events_2024 OWNER TO {owner}; \
         SET ROLE {owner}; CREATE TABLE {SCHEMA}.events (id int) PARTITION BY LIST (id); \
         CREATE TABLE {SCHEMA}.events_2024 PARTITION OF {SCHEMA}.events FOR VALUES IN (2024)"
    );
    local.sql(&sql).await.expect("tables");
    let migrations = Migrations::new(&lakebase(&local)).schema(SCHEMA);
    migrations.fresh::<Library>().await.expect("migrated");
    assert!(has_table(&local, "books").await);
    assert!(!has_table(&local, "events").await);
    assert!(has_table(&local, "public.events_2024").await);
}

#[tokio::test]
async fn a_view_can_be_the_history() {
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
