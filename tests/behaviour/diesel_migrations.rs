//! diesel migrations: run once however many replicas start together, reverted and run again, in a schema
//! of choice, with errors that name the place.

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use diesel::RunQueryDsl as _;
use diesel_migrations::{FileBasedMigrations, MigrationHarness as _};
use futures_util::future::join_all;
use lakebase_core::Lakebase;
use lakebase_diesel::migrations::{Migrations, Progress, run_pending};
use lakebase_local::{Cut, EventKind, LocalLakebase, Wake};
use lakebase_tests::{
    LEFT_BEHIND, SCHEMA, lakebase, lakebase_with, local, local_with_schema, logins,
    native_superuser, soon, vars,
};
use tempfile::TempDir;

const BOOKS: &str = "2026-01-01-000000_create_books";
const AUTHORS: &str = "2026-01-02-000000_create_authors";

/// A folder of migrations: name, up, down.
fn folder(migrations: &[(&str, &str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, up, down) in migrations {
        let path = folder.path().join(name);
        std::fs::create_dir(&path).expect("a folder");
        std::fs::write(path.join("up.sql"), up).expect("written");
        std::fs::write(path.join("down.sql"), down).expect("written");
    }
    folder
}

fn library() -> TempDir {
    folder(&[
        (BOOKS, "CREATE TABLE books (id int)", "DROP TABLE books"),
        (
            AUTHORS,
            "CREATE TABLE authors (id int)",
            "DROP TABLE authors",
        ),
    ])
}

fn read(folder: &TempDir) -> FileBasedMigrations {
    FileBasedMigrations::from_path(folder.path()).expect("readable")
}

/// Whether a table, with its schema, exists.
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
    let library = library();
    let replicas = (0..16).map(|_| {
        // Each replica is a process of its own: its own handle.
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
async fn what_is_pending_is_run_reverted_and_run_again() {
    let local = local_with_schema().await;
    let library = library();
    let migrations = Migrations::new(&lakebase(&local));
    let pending = migrations.pending(read(&library)).await.expect("a list");
    assert_eq!(pending, [BOOKS, AUTHORS]);
    let history = "__diesel_schema_migrations";
    assert!(!exists(&local, history).await, "looking changes nothing");

    let ran = migrations.run(read(&library)).await.expect("migrated");
    assert_eq!(ran, [BOOKS, AUTHORS]);
    assert!(exists(&local, "books").await && exists(&local, "authors").await);

    let reverted = migrations
        .revert(read(&library), 1)
        .await
        .expect("reverted");
    assert_eq!(reverted, [AUTHORS]);
    assert!(exists(&local, "books").await && !exists(&local, "authors").await);

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
fn without_async_they_work_as_well_and_share_diesels_history() {
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
async fn a_schema_of_choice_holds_tables_and_history() {
    let local = local_with_schema().await;
    let library = library();
    let migrations = Migrations::new(&lakebase(&local)).schema("My \"App\"");
    let error = migrations.run(read(&library)).await.expect_err("missing");
    assert!(error.to_string().contains("create_schema"), "{error}");
    assert!(!exists(&local, "mine.books").await, "not elsewhere either");

    let migrations = migrations.create_schema(true);
    let pending = migrations.pending(read(&library)).await;
    assert_eq!(pending.expect("a list"), [BOOKS, AUTHORS]);
    migrations.run(read(&library)).await.expect("migrated");
    for table in ["books", "authors", "__diesel_schema_migrations"] {
        let table = format!("\"My \"\"App\"\"\".{table}");
        assert!(exists(&local, &table).await, "{table}");
    }
    // One in another schema has a history of its own.
    let elsewhere = run_pending(&lakebase(&local), read(&library)).await;
    assert_eq!(elsewhere.expect("migrated").len(), 2);
}

#[tokio::test]
async fn an_error_names_migration_sqlstate_and_place_and_leaves_what_was_done() {
    let local = local_with_schema().await;
    let library = folder(&[
        (BOOKS, "CREATE TABLE books (id int)", ""),
        (
            AUTHORS,
            "CREATE TABLE authors (id int);\n\nALTER TABLE shelf ADD x int;",
            "",
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
    assert!(exists(&local, "books").await && !exists(&local, "authors").await);
    assert_eq!(
        migrations.pending(read(&library)).await.expect("a list"),
        [AUTHORS]
    );

    let typo = folder(&[(BOOKS, "SELECT 1;\nSELEC 2;", "DROP TABLE books")]);
    let migrations = migrations.schema(SCHEMA);
    let error = migrations.redo(read(&typo), 1).await.expect_err("a typo");
    let place = error.position().expect("Postgres says where");
    assert_eq!((place.line, place.column), (2, 1), "{error}");
    assert_eq!(error.statement(), None, "that is all there is to say");
    assert!(exists(&local, "books").await, "it was not even reverted");
}

#[tokio::test]
async fn what_fails_at_the_end_is_blamed_on_no_statement() {
    let local = local_with_schema().await;
    let late = "CREATE TABLE books (id int PRIMARY KEY); \
        CREATE TABLE copies (book int REFERENCES books DEFERRABLE INITIALLY DEFERRED); \
        INSERT INTO copies VALUES (1)";
    let library = folder(&[(BOOKS, late, "")]);
    let error = run_pending(&lakebase(&local), read(&library)).await;
    let error = error.expect_err("there is no such book");
    assert_eq!(error.migration(), Some(BOOKS));
    assert_eq!(error.sqlstate(), Some("23503"));
    assert_eq!((error.statement(), error.position()), (None, None));
    assert!(error.to_string().contains("cannot be committed"), "{error}");
}

#[tokio::test]
async fn why_there_is_no_connection_is_in_the_text() {
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
async fn a_right_that_is_missing_is_explained() {
    let local = local_with_schema().await;
    local.sql("CREATE SCHEMA locked").await.expect("a schema");
    let migrations = Migrations::new(&lakebase(&local)).schema("locked");
    let error = migrations.run(read(&library())).await;
    let error = error.expect_err("no right to use it");
    assert!(error.to_string().contains("GRANT USAGE"), "{error}");
    assert!(!exists(&local, "mine.books").await, "not elsewhere");

    let grant = format!("GRANT USAGE ON SCHEMA locked TO \"{}\"", local.client_id());
    local.sql(&grant).await.expect("granted");
    let error = migrations.run(read(&library())).await;
    let error = error.expect_err("no right to create in it");
    assert_eq!(error.sqlstate(), Some("42501"), "{error}");
    assert!(error.to_string().contains("LAKEBASE_SCHEMA"), "{error}");
}

#[tokio::test]
async fn one_that_asks_for_no_transaction_gets_none() {
    let local = local_with_schema().await;
    let library = folder(&[
        (BOOKS, "CREATE TABLE books (id int)", ""),
        (AUTHORS, "CREATE INDEX CONCURRENTLY ON books (id)", ""),
    ]);
    let metadata = library.path().join(AUTHORS).join("metadata.toml");
    std::fs::write(metadata, "run_in_transaction = false").expect("written");
    let ran = run_pending(&lakebase(&local), read(&library)).await;
    assert_eq!(ran.expect("migrated").len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_wait_do_not_hold_up_an_index_that_is_built_concurrently() {
    let local = local_with_schema().await;
    let library = folder(&[
        (BOOKS, "CREATE TABLE books (id int); SELECT pg_sleep(1)", ""),
        (AUTHORS, "CREATE INDEX CONCURRENTLY by_id ON books (id)", ""),
    ]);
    let metadata = library.path().join(AUTHORS).join("metadata.toml");
    std::fs::write(metadata, "run_in_transaction = false").expect("written");
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
async fn a_replica_that_is_killed_in_the_middle_frees_the_lock() {
    let local = local_with_schema().await;
    let library = folder(&[
        (BOOKS, "CREATE TABLE books (id int)", ""),
        (
            AUTHORS,
            "CREATE TABLE authors (id int); SELECT pg_sleep(1000)",
            "",
        ),
    ]);
    let mut replica = Command::new(env!("CARGO_BIN_EXE_migrant"))
        .arg(library.path())
        .env_clear()
        .envs(vars(&local, &[]))
        .spawn()
        .expect("it starts");
    let in_the_middle = "DO $$ BEGIN WHILE NOT EXISTS (SELECT FROM pg_stat_activity \
     WHERE state = 'active' AND query LIKE 'CREATE TABLE authors%') \
     LOOP PERFORM pg_sleep(0.01); PERFORM pg_stat_clear_snapshot(); END LOOP; END $$";
    soon(local.sql(in_the_middle)).await.expect("it is there");
    let fixed = library.path().join(AUTHORS).join("up.sql");
    std::fs::write(fixed, "CREATE TABLE authors (id int)").expect("written");
    let waits = Arc::new(tokio::sync::Notify::new());
    let told = Arc::clone(&waits);
    let next = Migrations::new(&lakebase(&local)).on_progress(move |progress| {
        if progress == Progress::Waiting {
            told.notify_one();
        }
    });
    let fixed = read(&library);
    let next = tokio::spawn(async move { next.run(fixed).await });
    soon(waits.notified()).await;
    replica.kill().expect("killed");
    replica.wait().expect("gone");
    let ran = soon(next).await.expect("no panic").expect("migrated");
    assert_eq!(ran, [AUTHORS], "the first one had been done");
}

#[tokio::test]
async fn each_step_is_told() {
    let local = local_with_schema().await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
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
        tell.lock().expect("not poisoned").push(step);
    });
    migrations.run(read(&library())).await.expect("migrated");
    let told = told.lock().expect("not poisoned").clone();
    let expected = [
        format!("1/2 {BOOKS}"),
        format!("ran {BOOKS}"),
        format!("2/2 {AUTHORS}"),
        format!("ran {AUTHORS}"),
    ];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_compute_that_sleeps_has_more_time_than_a_pool_would_give_it() {
    let local = local_with_schema().await;
    let hasty = lakebase_with(&local, &[("PGCONNECT_TIMEOUT", "1")]);
    let wake = Duration::from_secs(3);
    let suspending = local.suspend(Cut::Message, wake, Wake::StartingUp);
    suspending.await.expect("suspended");
    let ran = soon(run_pending(&hasty, read(&library()))).await;
    assert_eq!(ran.expect("migrated").len(), 2);
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
    let changes = [
        ("LAKEBASE_ENDPOINT", ""),
        ("PGUSER", "native"),
        ("PGPASSWORD", "a-password"),
        ("PGHOST", local.pooled_host()),
        ("PGHOSTADDR", "127.0.0.1"),
    ];
    let pooled: Lakebase = lakebase_with(&local, &changes);
    run_pending(&pooled, read(&library()))
        .await
        .expect("migrated");
    let hosts: Vec<_> = logins(&local.events())
        .into_iter()
        .filter_map(|(_, login)| login.host)
        .collect();
    assert!(!hosts.is_empty() && hosts.iter().all(|host| !host.contains("-pooler")));
    let ended = |event: &lakebase_local::Event| matches!(event.kind, EventKind::Ended { .. });
    soon(local.wait_until(|events| events.iter().any(ended))).await;
}

#[test]
fn a_library_in_use_is_not_disturbed_by_looking() {
    // `pending` takes no lock: it answers while another replica migrates.
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let local = runtime.block_on(local_with_schema());
    let lakebase = lakebase(&local);
    let mut holder = lakebase_diesel::r2d2::establish(&lakebase).expect("a login");
    let lock = format!(
        "SELECT pg_advisory_lock({})",
        lakebase_core::adapter::migration::MIGRATION_LOCK
    );
    diesel::sql_query(lock).execute(&mut holder).expect("held");
    let pending = Migrations::new(&lakebase)
        .blocking()
        .pending(read(&library()));
    assert_eq!(pending.expect("a list").len(), 2);
}

/// In a schema of its own: what a migration leaves in its session, and one that follows it.
#[tokio::test]
async fn what_a_migration_leaves_in_its_session_ends_with_it() {
    let local = local().await;
    let superuser = native_superuser(&local).await;
    for (number, left_behind) in LEFT_BEHIND.iter().enumerate() {
        for in_transaction in [true, false] {
            let schema = format!("Läden {number} {in_transaction}");
            let next =
                "CREATE TABLE books (id int); INSERT INTO books VALUES (1); SELECT pg_sleep(0.2)";
            let library = folder(&[
                (BOOKS, left_behind, left_behind),
                (AUTHORS, next, "DROP TABLE books"),
            ]);
            let metadata = library.path().join(BOOKS).join("metadata.toml");
            let metadata_text = format!("run_in_transaction = {in_transaction}");
            std::fs::write(metadata, metadata_text).expect("written");
            let migrations = Migrations::new(&superuser)
                .schema(&schema)
                .create_schema(true);
            let outcome = migrations.run(read(&library)).await;
            outcome.unwrap_or_else(|error| panic!("{left_behind} {in_transaction}: {error}"));
            let right = format!(
                "SELECT 1 / ((SELECT count(*) FROM \"{schema}\".books) = 1 \
                 AND (SELECT count(*) FROM \"{schema}\".__diesel_schema_migrations) = 2)::int"
            );
            let found = local.sql(&right).await;
            found.unwrap_or_else(|error| panic!("{left_behind} {in_transaction}: {error}"));
            assert!(!exists(&local, "public.books").await, "{left_behind}");
            let history = "public.__diesel_schema_migrations";
            assert!(!exists(&local, history).await, "{left_behind}");
            let again = migrations.run(read(&library)).await.expect("a list");
            assert!(
                again.is_empty(),
                "{left_behind} {in_transaction}: {again:?}"
            );
            let reverted = migrations.revert(read(&library), 2).await;
            let reverted = reverted.unwrap_or_else(|error| panic!("{left_behind}: {error}"));
            assert_eq!(reverted, [AUTHORS, BOOKS], "{left_behind} {in_transaction}");
        }
    }
}

#[tokio::test]
async fn the_first_lines_of_a_dump_are_a_migration_like_any_other() {
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
        (BOOKS, dump, ""),
        (AUTHORS, "CREATE TABLE authors (id int)", ""),
    ]);
    let migrations = Migrations::new(&lakebase(&local))
        .schema("app")
        .create_schema(true);
    let ran = migrations.run(read(&library)).await.expect("migrated");
    assert_eq!(ran, [BOOKS, AUTHORS]);
    for table in ["books", "authors", "__diesel_schema_migrations"] {
        assert!(exists(&local, &format!("app.{table}")).await, "{table}");
    }
}

/// Until no session of the application waits for anything.
async fn nobody_is_logged_in(local: &LocalLakebase) {
    let sql = format!(
        "DO $$ BEGIN WHILE EXISTS (SELECT FROM pg_stat_activity WHERE usename = '{}') \
         LOOP PERFORM pg_sleep(0.01); PERFORM pg_stat_clear_snapshot(); END LOOP; END $$",
        local.client_id()
    );
    soon(local.sql(&sql)).await.expect("they are gone");
}

/// A session that holds the lock of migrations, as another role.
async fn holder(local: &LocalLakebase) -> tokio_postgres::Client {
    let lakebase = native_superuser(local).await;
    let (holder, connection) = lakebase.connect().await.expect("a login");
    tokio::spawn(connection);
    let lock = format!(
        "SELECT pg_advisory_lock({})",
        lakebase_core::adapter::migration::MIGRATION_LOCK
    );
    holder.batch_execute(&lock).await.expect("held");
    holder
}

#[tokio::test]
async fn waiting_for_the_lock_ends_and_says_who_has_it() {
    let local = local_with_schema().await;
    let holder = holder(&local).await;
    let migrations = Migrations::new(&lakebase(&local));
    for timeout in [Duration::ZERO, Duration::from_millis(400)] {
        let waiting = migrations.clone().lock_timeout(timeout);
        let error = soon(waiting.run(read(&library()))).await;
        let error = error.expect_err("somebody else has it");
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
async fn whoever_gives_up_waiting_does_not_migrate_later() {
    let local = local_with_schema().await;
    let holder = holder(&local).await;
    let waits = Arc::new(tokio::sync::Notify::new());
    let told = Arc::clone(&waits);
    let migrations = Migrations::new(&lakebase(&local)).on_progress(move |progress| {
        if progress == Progress::Waiting {
            told.notify_one();
        }
    });
    let library = read(&library());
    let waiting = tokio::spawn(async move { migrations.run(library).await });
    soon(waits.notified()).await;
    waiting.abort();
    nobody_is_logged_in(&local).await;
    drop(holder);
    assert!(!exists(&local, "books").await);
}

#[tokio::test]
async fn whoever_gives_up_in_the_middle_starts_no_further_migration() {
    let local = local_with_schema().await;
    let library = folder(&[
        (BOOKS, "CREATE TABLE books (id int); SELECT pg_sleep(1)", ""),
        (AUTHORS, "CREATE TABLE authors (id int)", ""),
    ]);
    let begins = Arc::new(tokio::sync::Notify::new());
    let told = Arc::clone(&begins);
    let migrations = Migrations::new(&lakebase(&local)).on_progress(move |progress| {
        if matches!(progress, Progress::Running { .. }) {
            told.notify_one();
        }
    });
    let source = read(&library);
    let running = tokio::spawn(async move { migrations.run(source).await });
    soon(begins.notified()).await;
    running.abort();
    nobody_is_logged_in(&local).await;
    assert!(exists(&local, "books").await, "that one goes on to its end");
    assert!(!exists(&local, "authors").await);
}

#[tokio::test]
async fn a_lost_lock_ends_the_run() {
    let local = local_with_schema().await;
    let begins = Arc::new(tokio::sync::Notify::new());
    let told = Arc::clone(&begins);
    let migrations = Migrations::new(&lakebase(&local)).on_progress(move |progress| {
        if matches!(progress, Progress::Running { .. }) {
            told.notify_one();
        }
    });
    let library = folder(&[(BOOKS, "SELECT pg_sleep(1000)", "")]);
    let source = read(&library);
    let running = tokio::spawn(async move { migrations.run(source).await });
    soon(begins.notified()).await;
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'";
    local.sql(cut).await.expect("cut");
    let error = soon(running).await.expect("no panic");
    let error = error.expect_err("the lock is lost");
    assert!(
        error.to_string().contains("lost the advisory lock"),
        "{error}"
    );
    assert!(error.is_transient(), "the next run has a lock of its own");
}

#[tokio::test]
async fn the_debug_output_of_an_error_has_the_advice_too() {
    let local = local_with_schema().await;
    let library = folder(&[(BOOKS, "CREATE TABLE app.books (id int)", "")]);
    let error = run_pending(&lakebase(&local), read(&library)).await;
    let error = error.expect_err("no such schema");
    assert!(error.to_string().contains("Create the schema"), "{error}");
    assert!(
        format!("{error:?}").contains("Create the schema"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_transaction_that_a_migration_without_one_leaves_open_is_committed() {
    let local = local_with_schema().await;
    let library = folder(&[(BOOKS, "BEGIN; CREATE TABLE books (id int)", "")]);
    let metadata = library.path().join(BOOKS).join("metadata.toml");
    std::fs::write(metadata, "run_in_transaction = false").expect("written");
    let lakebase = lakebase_with(&local, &[("LAKEBASE_SCHEMA", SCHEMA)]);
    let ran = run_pending(&lakebase, read(&library)).await;
    assert_eq!(ran.expect("migrated").len(), 1);
    let again = run_pending(&lakebase, read(&library)).await;
    assert_eq!(again.expect("nothing to do").len(), 0);
    assert!(exists(&local, "books").await);
}

#[tokio::test]
async fn a_message_that_a_migration_raises_cannot_control_a_terminal() {
    let local = local_with_schema().await;
    let raise = "DO $$ BEGIN RAISE EXCEPTION E'\\x1b[2J\\nall is well'; END $$";
    let library = folder(&[(BOOKS, raise, "")]);
    let lakebase = lakebase_with(&local, &[("LAKEBASE_SCHEMA", SCHEMA)]);
    let error = run_pending(&lakebase, read(&library)).await;
    let text = error.expect_err("raised").chain();
    assert!(text.contains("all is well"), "{text}");
    assert!(!text.contains(char::is_control), "{text:?}");
}

#[tokio::test]
async fn statements_that_must_be_alone_are_named_with_the_way_out() {
    let local = local().await;
    let indexes = "CREATE INDEX CONCURRENTLY one ON books (id); \
                   CREATE INDEX CONCURRENTLY two ON books (id)";
    for in_transaction in [true, false] {
        let library = folder(&[
            (BOOKS, "CREATE TABLE books (id int)", ""),
            (AUTHORS, indexes, ""),
        ]);
        let metadata = library.path().join(AUTHORS).join("metadata.toml");
        let text = format!("run_in_transaction = {in_transaction}");
        std::fs::write(metadata, text).expect("written");
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
async fn a_missing_schema_is_named_with_the_statement_that_creates_it() {
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
async fn a_role_with_the_platforms_privileges_migrates_as_the_swap_table_says() {
    let local = local().await;
    let (id, secret) = local.add_service_principal();
    local.create_role(&id).await.expect("a role");
    let grant = format!(
        "DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO %I', current_database(), '{id}'); END $$"
    );
    local.sql(&grant).await.expect("granted");
    let changes = [
        ("DATABRICKS_CLIENT_ID", id.as_str()),
        ("DATABRICKS_CLIENT_SECRET", &secret),
        ("PGUSER", &id),
        ("LAKEBASE_SCHEMA", "app"),
    ];
    let lakebase = lakebase_with(&local, &changes);
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
    assert!(exists(&local, "app.authors").await);
}

/// Of diesel's own harness, whose errors are not ours, the log has the explanation.
#[tokio::test]
async fn a_statement_that_ends_up_in_public_for_want_of_the_schema_is_explained_in_the_log() {
    let local = local().await;
    let (id, secret) = local.add_service_principal();
    local.create_role(&id).await.expect("a role");
    let changes = [
        ("DATABRICKS_CLIENT_ID", id.as_str()),
        ("DATABRICKS_CLIENT_SECRET", &secret),
        ("PGUSER", &id),
        ("LAKEBASE_SCHEMA", "app"),
    ];
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone());
    let _guard = tracing::subscriber::set_default(subscriber.finish());
    let pool = lakebase_diesel::bb8::connect(&lakebase_with(&local, &changes)).await;
    let pool = pool.expect("a pool");
    let mut connection = pool.get().await.expect("a connection");
    let create = diesel::sql_query("CREATE TABLE books (id int)");
    let error = diesel_async::RunQueryDsl::execute(create, &mut *connection).await;
    assert!(error.is_err());
    let log = log.0.lock().expect("not poisoned").clone();
    let log = String::from_utf8(log).expect("text");
    assert!(log.contains("CREATE SCHEMA \"app\""), "{log}");
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0
            .lock()
            .expect("not poisoned")
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
