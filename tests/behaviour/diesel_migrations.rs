//! diesel migrations: one replica runs them, in the chosen schema, with errors that name the statement.

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use diesel::RunQueryDsl as _;
use diesel_migrations::MigrationHarness as _;
use futures_util::future::join_all;
use lakebase_core::adapter::migration::MIGRATION_LOCK;
use lakebase_diesel::migrations::{Migrations, Progress, run_pending};
use lakebase_local::{Cut, LocalLakebase, Wake};
use lakebase_tests::{
    SCHEMA, has_table, lakebase, lakebase_with, local, local_with_schema, logins, native,
    native_superuser, no_session, service_principal, session, soon, statements_run,
};
use tempfile::TempDir;
use tokio::sync::Notify;
use tracing_subscriber::fmt::MakeWriter as _;

use crate::sql_migrations::{Migration, assert_all_in_schema, folder, leave_settings_behind, read};

const BOOKS: &str = "2026-01-01-000000_create_books";
const AUTHORS: &str = "2026-01-02-000000_create_authors";

fn library() -> TempDir {
    folder(&[
        Migration::new(BOOKS, "CREATE TABLE books (id int)").down("DROP TABLE books"),
        Migration::new(AUTHORS, "CREATE TABLE authors (id int)").down("DROP TABLE authors"),
    ])
}

/// Adds a notification for the first progress of a kind.
fn notify_on(migrations: Migrations, kind: fn(&Progress) -> bool) -> (Migrations, Arc<Notify>) {
    let notify = Arc::new(Notify::new());
    let notifying = Arc::clone(&notify);
    let migrations = migrations.on_progress(move |progress| {
        if kind(&progress) {
            notifying.notify_one();
        }
    });
    (migrations, notify)
}

fn is_waiting(progress: &Progress) -> bool {
    *progress == Progress::Waiting
}

fn is_running(progress: &Progress) -> bool {
    matches!(progress, Progress::Running { .. })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_replicas_that_start_together_run_each_migration_once() {
    let local = local_with_schema().await;
    let library = library();
    let replicas = (0..16).map(|_| {
        // A handle for each replica, as in a process.
        let (lakebase, migrations) = (lakebase(&local), read(&library));
        tokio::spawn(async move { run_pending(&lakebase, migrations).await })
    });
    let runs = soon(join_all(replicas)).await.into_iter();
    let mut ran: Vec<String> = runs
        .flat_map(|run| run.expect("no panic").expect("migrated"))
        .collect();
    ran.sort();
    assert_eq!(ran, [BOOKS, AUTHORS]);
}

#[tokio::test]
async fn pending_migrations_are_run_reverted_and_run_again() {
    let local = local_with_schema().await;
    let library = library();
    let migrations = Migrations::new(&lakebase(&local));
    let pending = migrations.pending(read(&library)).await.expect("a list");
    assert_eq!(pending, [BOOKS, AUTHORS]);
    let history = "__diesel_schema_migrations";
    assert!(!has_table(&local, history).await, "nothing is created");

    let ran = migrations.run(read(&library)).await.expect("migrated");
    assert_eq!(ran, [BOOKS, AUTHORS]);
    assert!(has_table(&local, "books").await && has_table(&local, "authors").await);

    let reverted = migrations
        .revert(read(&library), 1)
        .await
        .expect("reverted");
    assert_eq!(reverted, [AUTHORS]);
    assert!(has_table(&local, "books").await && !has_table(&local, "authors").await);

    assert_eq!(
        migrations.run(read(&library)).await.expect("again"),
        [AUTHORS]
    );
    let redone = migrations.redo(read(&library), 2).await.expect("redone");
    assert_eq!(redone, [BOOKS, AUTHORS]);
    let pending = migrations.pending(read(&library)).await.expect("a list");
    assert!(pending.is_empty(), "{pending:?}");
}

#[test]
fn blocking_migrations_share_the_history_of_diesel() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let local = runtime.block_on(local_with_schema());
    let library = library();
    let lakebase = lakebase(&local);
    let migrations = Migrations::new(&lakebase).blocking();
    assert_eq!(migrations.run(read(&library)).expect("migrated").len(), 2);

    let mut diesels_own = lakebase_diesel::r2d2::establish(&lakebase).expect("a login");
    let pending = diesels_own.has_pending_migration(read(&library));
    assert!(!pending.expect("a list"), "diesel sees what we ran");
    let reverted = diesels_own.revert_last_migration(read(&library));
    assert_eq!(reverted.expect("reverted").to_string(), "20260102000000");
    assert_eq!(
        migrations.pending(read(&library)).expect("a list"),
        [AUTHORS]
    );
}

#[tokio::test]
async fn the_chosen_schema_holds_tables_and_history() {
    let local = local_with_schema().await;
    let library = library();
    let migrations = Migrations::new(&lakebase(&local)).schema("My \"App\"");
    let error = migrations.run(read(&library)).await.expect_err("missing");
    assert!(error.to_string().contains("create_schema"), "{error}");
    assert!(!has_table(&local, "books").await, "nor in another schema");

    let migrations = migrations.create_schema(true);
    let pending = migrations.pending(read(&library)).await;
    assert_eq!(pending.expect("a list"), [BOOKS, AUTHORS]);
    migrations.run(read(&library)).await.expect("migrated");
    for table in ["books", "authors", "__diesel_schema_migrations"] {
        let table = format!("\"My \"\"App\"\"\".{table}");
        assert!(has_table(&local, &table).await, "{table}");
    }
    // Another schema has another history.
    let elsewhere = run_pending(&lakebase(&local), read(&library)).await;
    assert_eq!(elsewhere.expect("migrated").len(), 2);
}

#[tokio::test]
async fn an_error_names_migration_sqlstate_and_statement_and_earlier_migrations_stay() {
    let local = local_with_schema().await;
    let library = folder(&[
        Migration::new(BOOKS, "CREATE TABLE books (id int)"),
        Migration::new(
            AUTHORS,
            "CREATE TABLE authors (id int);\n\nALTER TABLE shelf ADD x int;",
        ),
    ]);
    let migrations = Migrations::new(&lakebase(&local));
    let error = migrations.run(read(&library)).await.expect_err("no shelf");
    assert_eq!(error.migration(), Some(AUTHORS));
    assert_eq!(error.sqlstate(), Some("42P01"));
    assert_eq!(error.statement(), Some(2), "Postgres does not say where");
    assert!(!error.is_transient());
    for part in [AUTHORS, "42P01", "statement 2", "\"shelf\" does not exist"] {
        assert!(error.chain().contains(part), "{part:?}: {error:?}");
    }
    let cause = std::error::Error::source(&error)
        .expect("a cause")
        .to_string();
    assert!(cause.contains("\"shelf\" does not exist"), "{cause}");
    assert!(!error.to_string().contains(&cause), "once: {error}");
    assert!(has_table(&local, "books").await && !has_table(&local, "authors").await);
    assert_eq!(
        migrations.pending(read(&library)).await.expect("a list"),
        [AUTHORS]
    );

    let typo = folder(&[Migration::new(BOOKS, "SELECT 1;\nSELEC 2;").down("DROP TABLE books")]);
    let migrations = migrations.schema(SCHEMA);
    let error = migrations.redo(read(&typo), 1).await.expect_err("a typo");
    let place = error.position().expect("Postgres says where");
    assert_eq!((place.line, place.column), (2, 1), "{error}");
    assert_eq!(error.statement(), None, "{error}");
    assert!(has_table(&local, "books").await, "it was not reverted");
}

#[tokio::test]
async fn an_error_of_the_commit_names_no_statement() {
    let local = local_with_schema().await;
    let late = "CREATE TABLE books (id int PRIMARY KEY); \
        CREATE TABLE copies (book int REFERENCES books DEFERRABLE INITIALLY DEFERRED); \
        INSERT INTO copies VALUES (1)";
    let library = folder(&[Migration::new(BOOKS, late)]);
    let error = run_pending(&lakebase(&local), read(&library)).await;
    let error = error.expect_err("there is no such book");
    assert_eq!(error.migration(), Some(BOOKS));
    assert_eq!(error.sqlstate(), Some("23503"));
    assert_eq!((error.statement(), error.position()), (None, None));
    assert!(error.to_string().contains("cannot be committed"), "{error}");
}

#[tokio::test]
async fn the_error_of_a_failed_login_names_role_and_endpoint() {
    let local = local_with_schema().await;
    let stranger = lakebase_with(&local, &[("PGUSER", "stranger")]);
    let error = run_pending(&stranger, read(&library())).await;
    let error = error.expect_err("no such role").to_string();
    let endpoint = local.endpoint();
    for part in ["migrations: ", "stranger", endpoint.as_str()] {
        assert!(error.contains(part), "{part:?}: {error}");
    }
}

#[tokio::test]
async fn the_error_of_a_missing_privilege_names_the_grant() {
    let local = local_with_schema().await;
    local.sql("CREATE SCHEMA locked").await.expect("a schema");
    let migrations = Migrations::new(&lakebase(&local)).schema("locked");
    let error = migrations.run(read(&library())).await;
    let error = error.expect_err("no privilege to use it");
    assert!(error.to_string().contains("GRANT USAGE"), "{error}");
    assert!(!has_table(&local, "books").await, "not in another schema");

    let grant = format!("GRANT USAGE ON SCHEMA locked TO \"{}\"", local.client_id());
    local.sql(&grant).await.expect("granted");
    let error = migrations.run(read(&library())).await;
    let error = error.expect_err("no privilege to create in it");
    assert_eq!(error.sqlstate(), Some("42501"), "{error}");
    assert!(error.to_string().contains("LAKEBASE_SCHEMA"), "{error}");
}

#[tokio::test]
async fn a_migration_can_run_without_a_transaction() {
    let local = local_with_schema().await;
    let index = Migration::new(AUTHORS, "CREATE INDEX CONCURRENTLY ON books (id)");
    let library = folder(&[
        Migration::new(BOOKS, "CREATE TABLE books (id int)"),
        index.in_transaction(false),
    ]);
    let ran = run_pending(&lakebase(&local), read(&library)).await;
    assert_eq!(ran.expect("migrated").len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_replicas_do_not_block_a_concurrent_index_build() {
    let local = local_with_schema().await;
    let index = Migration::new(AUTHORS, "CREATE INDEX CONCURRENTLY by_id ON books (id)");
    let library = folder(&[
        Migration::new(BOOKS, "CREATE TABLE books (id int); SELECT pg_sleep(1)"),
        index.in_transaction(false),
    ]);
    let replicas = (0..4).map(|_| {
        let (lakebase, migrations) = (lakebase(&local), read(&library));
        tokio::spawn(async move { run_pending(&lakebase, migrations).await })
    });
    for run in soon(join_all(replicas)).await {
        run.expect("no panic").expect("migrated");
    }
    let is_valid =
        "SELECT 1 / indisvalid::int FROM pg_index WHERE indexrelid = 'mine.by_id'::regclass";
    local.sql(is_valid).await.expect("it is whole");
}

#[tokio::test]
async fn a_replica_that_is_killed_during_a_migration_frees_the_lock() {
    let local = local_with_schema().await;
    let library = folder(&[
        Migration::new(BOOKS, "CREATE TABLE books (id int)"),
        Migration::new(
            AUTHORS,
            "CREATE TABLE authors (id int); SELECT pg_sleep(1000)",
        ),
    ]);
    let mut replica = Command::new(env!("CARGO_BIN_EXE_migrant"))
        .arg(library.path())
        .env_clear()
        .envs(local.env())
        .spawn()
        .expect("it starts");
    statements_run(&local, "CREATE TABLE authors%", 1).await;
    let fixed = library.path().join(AUTHORS).join("up.sql");
    std::fs::write(fixed, "CREATE TABLE authors (id int)").expect("written");
    let (next, waits) = notify_on(Migrations::new(&lakebase(&local)), is_waiting);
    let fixed = read(&library);
    let next = tokio::spawn(async move { next.run(fixed).await });
    soon(waits.notified()).await;
    replica.kill().expect("killed");
    replica.wait().expect("gone");
    let ran = soon(next).await.expect("no panic").expect("migrated");
    assert_eq!(ran, [AUTHORS], "the other one had run");
}

#[tokio::test]
async fn each_step_is_reported_as_progress() {
    let local = local_with_schema().await;
    let steps = Arc::new(Mutex::new(Vec::new()));
    let collected = Arc::clone(&steps);
    let migrations = Migrations::new(&lakebase(&local)).on_progress(move |progress| {
        let step = match progress {
            Progress::Running {
                migration,
                number,
                of,
                ..
            } => format!("{number}/{of} {migration}"),
            Progress::Ran { migration, .. } => format!("ran {migration}"),
            other => format!("{other:?}"),
        };
        collected.lock().expect("not poisoned").push(step);
    });
    migrations.run(read(&library())).await.expect("migrated");
    let steps = steps.lock().expect("not poisoned").clone();
    let expected = [
        format!("1/2 {BOOKS}"),
        format!("ran {BOOKS}"),
        format!("2/2 {AUTHORS}"),
        format!("ran {AUTHORS}"),
    ];
    assert_eq!(steps, expected);
}

#[tokio::test]
async fn migrations_wait_longer_for_a_suspended_compute_than_pools() {
    let local = local_with_schema().await;
    let hasty = lakebase_with(&local, &[("PGCONNECT_TIMEOUT", "1")]);
    let wake = Duration::from_secs(3);
    let suspending = local.suspend(Cut::Message, wake, Wake::StartingUp);
    suspending.await.expect("suspended");
    let ran = soon(run_pending(&hasty, read(&library()))).await;
    assert_eq!(ran.expect("migrated").len(), 2);
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
    run_pending(&pooled, read(&library()))
        .await
        .expect("migrated");
    let hosts: Vec<_> = logins(&local.events())
        .into_iter()
        .filter_map(|(_, login)| login.host)
        .collect();
    assert!(!hosts.is_empty() && hosts.iter().all(|host| !host.contains("-pooler")));
    no_session(&local).await;
}

#[test]
fn the_list_of_pending_migrations_needs_no_lock() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let local = runtime.block_on(local_with_schema());
    let lakebase = lakebase(&local);
    let mut holder = lakebase_diesel::r2d2::establish(&lakebase).expect("a login");
    let lock = format!("SELECT pg_advisory_lock({MIGRATION_LOCK})");
    diesel::sql_query(lock).execute(&mut holder).expect("held");
    let pending = Migrations::new(&lakebase)
        .blocking()
        .pending(read(&library()));
    assert_eq!(pending.expect("a list").len(), 2);
}

#[tokio::test]
async fn settings_that_a_migration_leaves_in_its_session_are_reset() {
    let local = local().await;
    let superuser = native_superuser(&local).await;
    for in_transaction in [true, false] {
        let migrations = leave_settings_behind(in_transaction);
        let (count, library) = (migrations.len(), folder(&migrations));
        let schema = format!("Läden {in_transaction}");
        let migrations = Migrations::new(&superuser)
            .schema(&schema)
            .create_schema(true);
        let ran = migrations.run(read(&library)).await.expect("migrated");
        assert_eq!(ran.len(), count);
        assert_all_in_schema(&local, &schema, "__diesel_schema_migrations").await;
        let again = migrations.run(read(&library)).await.expect("a list");
        assert!(again.is_empty(), "{again:?}");
        let reverted = migrations.revert(read(&library), count).await;
        assert_eq!(reverted.expect("reverted").len(), count);
    }
}

#[tokio::test]
async fn a_dump_can_be_a_migration() {
    let local = local().await;
    let dump = "SET statement_timeout = 0;\nSET lock_timeout = 0;\n\
        SET idle_in_transaction_session_timeout = 0;\nSET client_encoding = 'UTF8';\n\
        SET standard_conforming_strings = on;\n\
        SELECT pg_catalog.set_config('search_path', '', false);\n\
        SET check_function_bodies = false;\nSET xmloption = content;\n\
        SET client_min_messages = warning;\nSET row_security = off;\n\
        SET default_tablespace = '';\nSET default_table_access_method = heap;\n\
        CREATE TABLE app.books (id integer);";
    let library = folder(&[
        Migration::new(BOOKS, dump),
        Migration::new(AUTHORS, "CREATE TABLE authors (id int)"),
    ]);
    let migrations = Migrations::new(&lakebase(&local))
        .schema("app")
        .create_schema(true);
    let ran = migrations.run(read(&library)).await.expect("migrated");
    assert_eq!(ran, [BOOKS, AUTHORS]);
    for table in ["books", "authors", "__diesel_schema_migrations"] {
        assert!(has_table(&local, &format!("app.{table}")).await, "{table}");
    }
}

/// Waits until Postgres has no session of the service principal.
async fn no_backend(local: &LocalLakebase) {
    let sql = format!(
        "DO $$ BEGIN WHILE EXISTS (SELECT FROM pg_stat_activity WHERE usename = '{}') \
         LOOP PERFORM pg_sleep(0.01); PERFORM pg_stat_clear_snapshot(); END LOOP; END $$",
        local.client_id()
    );
    soon(local.sql(&sql)).await.expect("they end");
}

/// Holds the lock of migrations as another role.
async fn holder(local: &LocalLakebase) -> tokio_postgres::Client {
    let lakebase = native_superuser(local).await;
    let holder = session(&lakebase).await;
    let lock = format!("SELECT pg_advisory_lock({MIGRATION_LOCK})");
    holder.batch_execute(&lock).await.expect("held");
    holder
}

#[tokio::test]
async fn waiting_for_the_lock_times_out_with_a_query_that_shows_its_holder() {
    let local = local_with_schema().await;
    let holder = holder(&local).await;
    let migrations = Migrations::new(&lakebase(&local));
    for timeout in [Duration::ZERO, Duration::from_millis(400)] {
        let waiting = migrations.clone().lock_timeout(timeout);
        let error = soon(waiting.run(read(&library()))).await;
        let error = error.expect_err("another session holds it");
        assert!(error.is_transient(), "{error}");
        for part in ["migration lock", "lock_timeout", "pg_locks"] {
            assert!(error.to_string().contains(part), "{part:?}: {error}");
        }
    }
    drop(holder);
    let ran = soon(migrations.run(read(&library()))).await;
    assert_eq!(ran.expect("migrated").len(), 2);
}

#[tokio::test]
async fn a_run_that_is_dropped_while_it_waits_for_the_lock_does_not_migrate_later() {
    let local = local_with_schema().await;
    let holder = holder(&local).await;
    let (migrations, waits) = notify_on(Migrations::new(&lakebase(&local)), is_waiting);
    let library = read(&library());
    let waiting = tokio::spawn(async move { migrations.run(library).await });
    soon(waits.notified()).await;
    waiting.abort();
    no_backend(&local).await;
    drop(holder);
    assert!(!has_table(&local, "books").await);
}

#[tokio::test]
async fn a_run_that_is_dropped_during_a_migration_starts_no_further_one() {
    let local = local_with_schema().await;
    let library = folder(&[
        Migration::new(BOOKS, "CREATE TABLE books (id int); SELECT pg_sleep(1)"),
        Migration::new(AUTHORS, "CREATE TABLE authors (id int)"),
    ]);
    let (migrations, begins) = notify_on(Migrations::new(&lakebase(&local)), is_running);
    let source = read(&library);
    let running = tokio::spawn(async move { migrations.run(source).await });
    soon(begins.notified()).await;
    running.abort();
    no_backend(&local).await;
    assert!(
        has_table(&local, "books").await,
        "the migration is completed"
    );
    assert!(!has_table(&local, "authors").await);
}

#[tokio::test]
async fn a_lost_lock_ends_the_run() {
    let local = local_with_schema().await;
    let (migrations, begins) = notify_on(Migrations::new(&lakebase(&local)), is_running);
    let library = folder(&[Migration::new(BOOKS, "SELECT pg_sleep(1000)")]);
    let source = read(&library);
    let running = tokio::spawn(async move { migrations.run(source).await });
    soon(begins.notified()).await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'";
    local.sql(end).await.expect("ended");
    let error = soon(running).await.expect("no panic");
    let error = error.expect_err("the lock is lost");
    assert!(
        error.to_string().contains("lost the advisory lock"),
        "{error}"
    );
    assert!(error.is_transient(), "the next run takes the lock again");
}

#[tokio::test]
async fn the_debug_output_of_an_error_has_the_hint() {
    let local = local_with_schema().await;
    let library = folder(&[Migration::new(BOOKS, "CREATE TABLE app.books (id int)")]);
    let error = run_pending(&lakebase(&local), read(&library)).await;
    let error = error.expect_err("no such schema");
    assert!(error.to_string().contains("Create the schema"), "{error}");
    assert!(
        format!("{error:?}").contains("Create the schema"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_transaction_that_a_migration_leaves_open_is_committed() {
    let local = local_with_schema().await;
    let begin = Migration::new(BOOKS, "BEGIN; CREATE TABLE books (id int)");
    let library = folder(&[begin.in_transaction(false)]);
    let lakebase = lakebase_with(&local, &[("LAKEBASE_SCHEMA", SCHEMA)]);
    let ran = run_pending(&lakebase, read(&library)).await;
    assert_eq!(ran.expect("migrated").len(), 1);
    let again = run_pending(&lakebase, read(&library)).await;
    assert_eq!(again.expect("nothing to do").len(), 0);
    assert!(has_table(&local, "books").await);
}

#[tokio::test]
async fn a_message_that_a_migration_raises_cannot_control_a_terminal() {
    let local = local_with_schema().await;
    let raise = "DO $$ BEGIN RAISE EXCEPTION E'\\x1b[2J\\nall is well'; END $$";
    let library = folder(&[Migration::new(BOOKS, raise)]);
    let lakebase = lakebase_with(&local, &[("LAKEBASE_SCHEMA", SCHEMA)]);
    let error = run_pending(&lakebase, read(&library)).await;
    let text = error.expect_err("raised").chain();
    assert!(text.contains("all is well"), "{text}");
    assert!(!text.contains(char::is_control), "{text:?}");
}

#[tokio::test]
async fn the_error_of_statements_that_need_their_own_file_says_so() {
    let local = local().await;
    let indexes = "CREATE INDEX CONCURRENTLY one ON books (id); \
                   CREATE INDEX CONCURRENTLY two ON books (id)";
    for in_transaction in [true, false] {
        let library = folder(&[
            Migration::new(BOOKS, "CREATE TABLE books (id int)"),
            Migration::new(AUTHORS, indexes).in_transaction(in_transaction),
        ]);
        let migrations = Migrations::new(&lakebase(&local))
            .schema(format!("app_{in_transaction}"))
            .create_schema(true);
        let error = migrations.run(read(&library)).await.expect_err("two");
        assert_eq!(error.sqlstate(), Some("25001"), "{error}");
        for part in ["run_in_transaction = false", "without a transaction"] {
            assert!(error.to_string().contains(part), "{part:?}: {error}");
        }
    }
}

#[tokio::test]
async fn the_error_of_a_missing_schema_names_the_statement_that_creates_it() {
    let local = local().await;
    let configured = lakebase_with(&local, &[("LAKEBASE_SCHEMA", "app")]);
    let error = run_pending(&configured, read(&library())).await;
    let error = error.expect_err("no such schema");
    assert_eq!(error.sqlstate(), Some("3F000"), "{error}");
    for part in ["CREATE SCHEMA \"app\"", "create_schema"] {
        assert!(error.to_string().contains(part), "{part:?}: {error}");
    }
    for (schema, part) in [("app,public", "list"), (&"x".repeat(64), "64 bytes")] {
        let migrations = Migrations::new(&lakebase(&local)).schema(schema);
        let error = migrations.create_schema(true).run(read(&library())).await;
        let error = error.expect_err("not a schema").to_string();
        assert!(error.contains("schema") && error.contains(part), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_with_only_the_platforms_privileges_migrates_with_both_harnesses() {
    let local = local().await;
    let (id, lakebase) = service_principal(&local, &[("LAKEBASE_SCHEMA", "app")]);
    local.create_role(&id).await.expect("a role");
    let grant = format!(
        "DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO %I', current_database(), '{id}'); END $$"
    );
    local.sql(&grant).await.expect("granted");
    let migrations = Migrations::new(&lakebase).create_schema(true);
    let ran = migrations.run(read(&library())).await.expect("migrated");
    assert_eq!(ran.len(), 2);
    let again = run_pending(&lakebase, read(&library())).await;
    assert!(again.expect("a list").is_empty());
    let harness = tokio::task::spawn_blocking(move || {
        let mut connection = lakebase_diesel::r2d2::establish(&lakebase).expect("a login");
        let reverted = connection.revert_last_migration(read(&library())).is_ok();
        reverted && connection.run_pending_migrations(read(&library())).is_ok()
    });
    assert!(harness.await.expect("no panic"), "diesel's own");
    assert!(has_table(&local, "app.authors").await);
}

/// The error is diesel's own, so the explanation is in the log.
#[tokio::test]
async fn a_statement_that_falls_back_to_public_without_the_schema_is_explained_in_the_log() {
    let local = local().await;
    let (id, lakebase) = service_principal(&local, &[("LAKEBASE_SCHEMA", "app")]);
    local.create_role(&id).await.expect("a role");
    static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());
    let subscriber = tracing_subscriber::fmt().with_writer(|| LOG.make_writer());
    let _guard = tracing::subscriber::set_default(subscriber.finish());
    let pool = lakebase_diesel::bb8::connect(&lakebase).await;
    let pool = pool.expect("a pool");
    let mut connection = pool.get().await.expect("a connection");
    let create = diesel::sql_query("CREATE TABLE books (id int)");
    let error = diesel_async::RunQueryDsl::execute(create, &mut *connection).await;
    assert!(error.is_err());
    let log = LOG.lock().expect("not poisoned").clone();
    let log = String::from_utf8(log).expect("text");
    assert!(log.contains("CREATE SCHEMA \"app\""), "{log}");
}
