//! A rehearsal on a copy shows the effect of migrations on the database: errors that only its data causes, locks, rewrites
//! and the new schema. The database itself does not change.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use lakebase_core::Lakebase;
use lakebase_core::adapter::migration::{LockMode, MigrationError, Rehearsal};
use lakebase_core::admin::schema::Snapshot;
use lakebase_local::{Call, Fault, LocalLakebase};
use lakebase_tests::{
    SCHEMA, has_table, lakebase, lakebase_with, local_with_schema, session, soon,
};
use sea_orm_migration::prelude::*;

use crate::shop::{Orm, with_both_orms};
use crate::sql_migrations::{MIGRATIONS, Migration, Sql, folder, read};

const ONE: &str = "2026-01-01-000001_one";
const TWO: &str = "2026-01-01-000002_two";
const THREE: &str = "2026-01-01-000003_three";

const SHELVES: Migration = Migration::new(ONE, "CREATE TABLE shelves (id int)");
const ROOMS: Migration = Migration::new(TWO, "CREATE TABLE rooms (id int)");
/// Fails on the data.
const DUPLICATES: Migration = Migration::new(TWO, "CREATE UNIQUE INDEX ON books (title)");

/// A database with 1000 books, two of them with the same title.
async fn library() -> LocalLakebase {
    let local = local_with_schema().await;
    let sql = format!(
        "SET ROLE \"{}\"; SET search_path = {SCHEMA}; CREATE TABLE books (id int PRIMARY KEY, title text); \
         INSERT INTO books SELECT id, 'Title ' || greatest(id, 2) FROM generate_series(1, 1000) id; \
         CREATE TABLE readers (id int PRIMARY KEY); CREATE VIEW titles AS SELECT title FROM books",
        local.client_id()
    );
    local.sql(&sql).await.expect("a library");
    local
}

async fn copy_of(local: &LocalLakebase) -> Lakebase {
    let copy = local.scratch_database().await.expect("a copy");
    lakebase(local).with_database(&copy).expect("a name")
}

async fn with_diesel(
    lakebase: &Lakebase,
    copy: &Lakebase,
    migrations: &[Migration],
) -> Result<Rehearsal, MigrationError> {
    let folder = folder(migrations);
    let source = read(&folder);
    let rehearsing = lakebase_diesel::migrations::Migrations::new(lakebase);
    soon(rehearsing.rehearse_on(copy, source)).await
}

async fn with_seaorm(
    lakebase: &Lakebase,
    copy: &Lakebase,
    migrations: &[Migration],
) -> Result<Rehearsal, MigrationError> {
    let rehearsing = lakebase_seaorm::migrations::Migrations::new(lakebase);
    soon(MIGRATIONS.scope(migrations.to_vec(), rehearsing.rehearse_on::<Sql>(copy))).await
}

/// Rehearses with diesel and with SeaORM, each on its own copy.
async fn rehearse(migrations: &[Migration]) -> [Rehearsal; 2] {
    let local = library().await;
    let production = lakebase(&local);
    let (one, two) = (copy_of(&local).await, copy_of(&local).await);
    let before = Snapshot::of(&production).await.expect("readable");
    let reports = [
        with_diesel(&production, &one, migrations).await,
        with_seaorm(&production, &two, migrations).await,
    ];
    let after = Snapshot::of(&production).await.expect("readable");
    assert!(before.diff(&after).is_empty(), "{}", before.diff(&after));
    reports.map(|report| report.expect("a rehearsal"))
}

fn changes(report: &Rehearsal) -> Vec<String> {
    let changes = report.difference.changes().iter();
    let history = ["__diesel_schema_migrations", "seaql_migrations"];
    let changes = changes.filter(|one| !history.contains(&one.object.relation.as_str()));
    changes
        .map(|one| format!("{}.{} {one}", one.object.schema, one.object.relation))
        .collect()
}

#[tokio::test]
async fn a_rehearsal_finds_an_index_that_fails_on_the_data() {
    let reports = rehearse(&[
        SHELVES,
        Migration::new(TWO, "SELECT 1;\nCREATE UNIQUE INDEX ON books (title)"),
        Migration::new(THREE, "CREATE TABLE rooms (id int)"),
    ])
    .await;
    for (report, statement) in reports.into_iter().zip([Some(2), None]) {
        assert!(!report.is_ok(), "{report}");
        let names: Vec<_> = report
            .migrations
            .iter()
            .map(|one| one.name.as_str())
            .collect();
        assert_eq!(names, [ONE, TWO]);
        assert_eq!(report.not_tried, [THREE]);
        assert!(report.migrations[0].error.is_none(), "{report}");
        let failed = report.failed().expect("the index");
        let error = failed.error.as_ref().expect("an error");
        assert_eq!(
            (error.migration(), error.sqlstate()),
            (Some(TWO), Some("23505"))
        );
        assert_eq!(error.statement(), statement, "{error}");
        let added = changes(&report);
        assert!(
            added[0].starts_with("mine.shelves + table: owner "),
            "{added:?}"
        );
        assert_eq!(added[1..], ["mine.shelves + column id: integer"]);
        let json = serde_json::to_value(&report).expect("JSON");
        let error = &json["migrations"][1]["error"];
        assert_eq!(error["sqlstate"], "23505", "{json}");
        assert_eq!(error["statement"].as_u64(), statement.map(|_| 2), "{json}");
        for text in [report.to_string(), report.to_markdown()] {
            for part in [
                "1 failed, 1 ran, 1 not tried",
                TWO,
                "23505",
                "Title 2",
                THREE,
            ] {
                assert!(text.contains(part), "{part:?}: {text}");
            }
        }
    }
}

#[tokio::test]
async fn a_lock_that_blocks_others_is_reported_with_its_duration() {
    let reports = rehearse(&[
        Migration::new(ONE, "ALTER TABLE books ADD pages int; SELECT pg_sleep(1.5)"),
        Migration::new(TWO, "SELECT pg_sleep(0.3); CREATE INDEX ON books (title)"),
        Migration::new(
            THREE,
            "SELECT pg_sleep(1); ALTER TABLE readers ADD book int REFERENCES books",
        ),
    ])
    .await;
    for report in reports {
        assert!(report.is_ok(), "{report}");
        let long: Vec<_> = report.blocking_locks(Duration::from_secs(1)).collect();
        let [(migration, lock)] = long[..] else {
            panic!("{report}");
        };
        assert_eq!(migration.name, ONE);
        assert_eq!(
            (lock.relation.as_str(), lock.mode),
            ("mine.books", LockMode::AccessExclusive)
        );
        let held = [Duration::from_millis(1400)..=migration.took];
        assert!(held[0].contains(&lock.held), "{report}");
        assert_eq!(migration.locks.len(), 1, "{report}");
        assert!(
            migration.rewrites.is_empty(),
            "a column without a default is no rewrite: {report}"
        );

        // Locks of single statements are reported even if they are too short for a poll.
        let modes = |number: usize| -> Vec<_> {
            let locks = report.migrations[number].locks.iter();
            let mut modes: Vec<_> = locks
                .map(|lock| (lock.relation.as_str(), lock.mode))
                .collect();
            modes.sort();
            modes
        };
        assert_eq!(modes(1), [("mine.books", LockMode::Share)]);
        let both = [
            ("mine.books", LockMode::ShareRowExclusive),
            ("mine.readers", LockMode::AccessExclusive),
        ];
        assert_eq!(modes(2), both);
        assert!(
            report.migrations[2]
                .locks
                .iter()
                .all(|lock| lock.held < Duration::from_millis(900)),
            "{report}"
        );
        assert_eq!(
            report.migrations[1].index_builds[0].index,
            "mine.books_title_idx"
        );
        for text in [report.to_string(), report.to_markdown()] {
            for part in [
                "reads and writes",
                "mine.books",
                "ACCESS EXCLUSIVE",
                "for 1.",
            ] {
                assert!(text.contains(part), "{part:?}: {text}");
            }
        }
        let json = serde_json::to_value(&report).expect("JSON");
        let lock = &json["migrations"][0]["locks"][0];
        assert_eq!(lock["mode"], "ACCESS_EXCLUSIVE", "{json}");
        assert!(lock["held_seconds"].as_f64() > Some(1.0), "{json}");
    }
}

#[tokio::test]
async fn a_table_that_is_rewritten_is_reported_with_its_rows_and_size() {
    let sql = "DROP VIEW titles; ALTER TABLE books ALTER id TYPE bigint";
    for report in rehearse(&[Migration::new(ONE, sql)]).await {
        let migration = &report.migrations[0];
        let [rewrite] = &migration.rewrites[..] else {
            panic!("{report}");
        };
        assert_eq!(
            (rewrite.table.as_str(), rewrite.rows),
            ("mine.books", Some(1000))
        );
        assert!((50_000..500_000).contains(&rewrite.bytes), "{report}");
        let built: Vec<_> = migration
            .index_builds
            .iter()
            .map(|one| one.index.as_str())
            .collect();
        assert_eq!(built, ["mine.books_pkey"]);
        let locks: Vec<_> = migration
            .locks
            .iter()
            .map(|lock| lock.relation.as_str())
            .collect();
        assert!(locks.contains(&"mine.books"), "{report}");
        assert!(
            !locks.contains(&"mine.books_pkey"),
            "with its table: {report}"
        );
        let changed = changes(&report);
        assert_eq!(
            changed[0],
            "mine.books ~ column id: integer NOT NULL -> bigint NOT NULL"
        );
        assert!(
            changed[1].starts_with("mine.titles - view: owner "),
            "{changed:?}"
        );
        assert!(
            report
                .to_markdown()
                .contains("rewrites `mine.books` (1000 rows, "),
            "{report}"
        );
    }
}

#[tokio::test]
async fn migrations_that_block_nobody_have_no_blocking_locks() {
    let reports = rehearse(&[
        Migration::new(
            ONE,
            "CREATE TABLE shelves (id int PRIMARY KEY); INSERT INTO books VALUES (0, 'x')",
        ),
        Migration::new(TWO, "CREATE INDEX CONCURRENTLY by_title ON books (title)")
            .in_transaction(false),
    ])
    .await;
    for report in reports {
        assert!(report.is_ok(), "{report}");
        assert_eq!(report.blocking_locks(Duration::ZERO).count(), 0, "{report}");
        assert_eq!((report.migrations.len(), report.not_tried.len()), (2, 0));
        assert!(
            report.migrations.iter().all(|one| one.rewrites.is_empty()),
            "{report}"
        );
        let built = &report.migrations[1].index_builds[..];
        assert_eq!(built.len(), 1, "{report}");
        assert_eq!(
            (built[0].index.as_str(), built[0].table.as_str()),
            ("mine.by_title", "mine.books")
        );
        let index =
            "mine.books + index by_title: CREATE INDEX by_title ON mine.books USING btree (title)";
        assert!(changes(&report).contains(&index.to_owned()), "{report}");
        assert!(
            report.to_string().starts_with("rehearsal: 2 ran\n"),
            "{report}"
        );
    }
}

#[tokio::test]
async fn without_a_transaction_a_lock_is_held_until_its_statement_ends() {
    let sql = "BEGIN; LOCK TABLE books; SELECT pg_sleep(0.5); COMMIT; SELECT pg_sleep(1.5)";
    for report in rehearse(&[Migration::new(ONE, sql).in_transaction(false)]).await {
        let [lock] = &report.migrations[0].locks[..] else {
            panic!("{report}");
        };
        let held = Duration::from_millis(450)..Duration::from_millis(1800);
        assert!(held.contains(&lock.held), "{report}");
        assert_eq!(lock.mode, LockMode::AccessExclusive);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrations_that_have_run_are_not_rehearsed() {
    let migrations = [SHELVES];
    let local = library().await;
    let (production, copy) = (lakebase(&local), copy_of(&local).await);
    let first = with_diesel(&production, &copy, &migrations).await;
    assert_eq!(first.expect("a rehearsal").migrations.len(), 1);
    let folder = folder(&migrations);
    let source = read(&folder);
    let rehearsing = lakebase_diesel::migrations::Migrations::new(&production).blocking();
    let again = tokio::task::block_in_place(|| rehearsing.rehearse_on(&copy, source));
    let nothing = "rehearsal: nothing pending\n\nno change to the schema\n";
    assert_eq!(again.expect("a rehearsal").to_string(), nothing);
    let seaorm = [
        with_seaorm(&production, &copy, &[]).await,
        with_seaorm(&production, &copy, &[]).await,
    ];
    let [_, again] = seaorm.map(|report| report.expect("a rehearsal"));
    assert_eq!(again.to_string(), nothing);
}

#[tokio::test]
async fn a_migration_that_fails_outside_of_sql_is_part_of_the_report() {
    let local = library().await;
    let (production, copy) = (lakebase(&local), copy_of(&local).await);
    for in_transaction in [true, false] {
        let migrations = [
            Migration::new(ONE, "ALTER TABLE books ADD x int -- give up")
                .in_transaction(in_transaction),
        ];
        let report = with_seaorm(&production, &copy, &migrations).await;
        let report = report.expect("a rehearsal");
        let failed = report.failed().expect("it gave up");
        let error = failed.error.as_ref().expect("an error");
        assert!(error.chain().contains("gave up"), "{error:?}");
        let left = changes(&report);
        assert_eq!(left.is_empty(), in_transaction, "{left:?}");
    }
}

#[tokio::test]
async fn the_database_itself_or_a_missing_database_is_no_copy() {
    let migrations = &[SHELVES];
    let local = library().await;
    let production = lakebase(&local);
    let missing = production.with_database("missing").expect("a name");
    for copy in [&production, &missing] {
        let outcomes = [
            with_diesel(&production, copy, migrations).await,
            with_seaorm(&production, copy, migrations).await,
        ];
        for outcome in outcomes {
            let error = outcome.expect_err("no copy");
            assert_eq!(error.migration(), None);
            let is_same = std::ptr::eq(copy, &production);
            assert_eq!(error.is_config(), is_same, "{error}");
        }
    }
    assert!(!has_table(&local, "shelves").await);
}

/// Asserts that no branch is left and that the data is unchanged. Returns whether the table of a migration exists.
async fn has_shelves(local: &LocalLakebase) -> bool {
    let client = session(&lakebase(local)).await;
    let sql = format!("SELECT count(*), count(DISTINCT title) FROM {SCHEMA}.books");
    let row = client.query_one(&sql, &[]).await.expect("books");
    assert_eq!((row.get(0), row.get(1)), (1000_i64, 999_i64));
    assert_eq!(local.branches(), [local.branch()]);
    has_table(local, "shelves").await
}

#[tokio::test]
async fn a_rehearsal_on_a_temporary_branch_leaves_nothing_behind() {
    let local = library().await;
    let folder = folder(&[SHELVES, DUPLICATES]);
    let source = read(&folder);
    let production = lakebase(&local);
    let migrations = lakebase_diesel::migrations::Migrations::new(&production);
    let report = soon(migrations.rehearse(source)).await.expect("a report");
    let failed = report.failed().and_then(|one| one.error.as_ref());
    assert_eq!(
        failed.and_then(|error| error.sqlstate()),
        Some("23505"),
        "{report}"
    );
    assert!(!has_shelves(&local).await);
    let migrations = lakebase_seaorm::migrations::Migrations::new(&production);
    let pending = vec![SHELVES];
    let rehearsing = MIGRATIONS.scope(pending, migrations.rehearse::<Sql>());
    let report = soon(rehearsing).await.expect("a report");
    assert!(report.is_ok(), "{report}");
    assert!(!has_shelves(&local).await);
}

#[tokio::test]
async fn migrations_run_only_after_an_accepted_rehearsal_without_errors() {
    with_both_orms(async |orm| {
        let local = library().await;
        let production = lakebase(&local);
        for (pending, accept, ran) in [
            (vec![SHELVES, DUPLICATES], true, None),
            (vec![SHELVES], false, None),
            (vec![SHELVES], true, Some(&[ONE][..])),
            // Without a pending migration, there is no rehearsal.
            (vec![SHELVES], false, Some(&[])),
        ] {
            if ran == Some(&[]) {
                local.fail(Call::Branch, Fault::status(403, "PERMISSION_DENIED", "no"));
            }
            let outcome = match orm {
                Orm::Diesel => {
                    let folder = folder(&pending);
                    let source = read(&folder);
                    let migrations = lakebase_diesel::migrations::Migrations::new(&production);
                    let run = migrations.run_after_rehearsal(|| source.clone(), |_| accept);
                    soon(Box::pin(run)).await
                }
                Orm::SeaOrm => {
                    let migrations = lakebase_seaorm::migrations::Migrations::new(&production);
                    let run = migrations.run_after_rehearsal::<Sql>(|_| accept);
                    soon(Box::pin(MIGRATIONS.scope(pending, run))).await
                }
            };
            match outcome {
                Ok(names) => assert_eq!(
                    Some(names.iter().map(String::as_str).collect()),
                    ran.map(<[_]>::to_vec)
                ),
                Err(error) => {
                    assert!(ran.is_none(), "{error}");
                    let text = error.to_string();
                    assert!(
                        text.contains("nothing was run on the database itself"),
                        "{text}"
                    );
                    if accept {
                        assert_eq!(error.migration(), Some(TWO));
                        assert_eq!(error.sqlstate(), Some("23505"), "{error}");
                    }
                }
            }
            assert_eq!(has_shelves(&local).await, ran.is_some());
        }
    })
    .await;
}

#[tokio::test]
async fn a_session_that_ends_before_its_migration_fails_the_rehearsal() {
    use lakebase_diesel::migrations::{Migrations, Progress};

    let pending = [SHELVES, ROOMS];
    for (number, lost) in [ONE, TWO].into_iter().enumerate() {
        let local = Arc::new(library().await);
        let (production, copy) = (lakebase(&local), copy_of(&local).await);
        let folder = folder(&pending);
        let source = read(&folder);
        let runtime = tokio::runtime::Handle::current();
        let rehearsing = Migrations::new(&production).on_progress(move |progress| {
            if matches!(progress, Progress::Running { migration, .. } if migration == lost) {
                let end = "SELECT pg_terminate_backend(pid, 10000) FROM pg_locks \
                     WHERE locktype = 'advisory' AND mode = 'ShareLock'";
                runtime.block_on(local.sql(end)).expect("it ends");
            }
        });
        let report = soon(rehearsing.rehearse_on(&copy, source)).await;
        let report = report.expect("a report");
        assert!(!report.is_ok() && report.allows(true).is_err(), "{report}");
        assert_eq!(report.migrations.len(), number + 1, "{report}");
        let failed = report.failed().expect("one failed");
        assert_eq!(failed.name, lost, "{report}");
        assert_eq!(report.not_tried.len(), 1 - number, "{report}");
    }
}

#[tokio::test]
async fn the_database_at_another_address_is_no_copy() {
    let migrations = &[SHELVES];
    let local = library().await;
    let production = lakebase(&local);
    for change in [("PGHOSTADDR", "127.0.0.1"), ("PGHOST", "LOCALHOST")] {
        let alias = lakebase_with(&local, &[change]);
        for outcome in [
            with_diesel(&production, &alias, migrations).await,
            with_seaorm(&production, &alias, migrations).await,
        ] {
            let error = outcome.expect_err("no copy");
            assert!(
                error.is_config() && error.chain().contains("the database itself"),
                "{error:?}"
            );
        }
    }
    assert!(!has_shelves(&local).await);
}

#[tokio::test]
async fn a_rehearsal_calls_no_functions_of_the_application() {
    let local = library().await;
    let hostile = format!(
        "CREATE FUNCTION {SCHEMA}.format(text, name, name) RETURNS text LANGUAGE plpgsql AS \
         $$ BEGIN RAISE 'it runs'; END $$"
    );
    local.sql(&hostile).await.expect("made");
    let copy = copy_of(&local).await;
    let pending = &[SHELVES];
    let report = with_diesel(&lakebase(&local), &copy, pending).await;
    assert!(report.expect("a report").is_ok());
}

static HAS_GROWN: AtomicBool = AtomicBool::new(false);

/// Gets a second migration after the rehearsal.
struct Grows;

impl MigratorTrait for Grows {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        let mut all: Vec<Box<dyn MigrationTrait>> = vec![Box::new(SHELVES)];
        if HAS_GROWN.load(Ordering::SeqCst) {
            all.push(Box::new(ROOMS));
        }
        all
    }
}

#[tokio::test]
async fn a_migration_that_was_not_rehearsed_is_not_run() {
    let local = library().await;
    let production = lakebase(&local);
    let folders = [folder(&[SHELVES]), folder(&[SHELVES, ROOMS])];
    let calls = AtomicUsize::new(0);
    // The list of pending ones and the rehearsal use the first folder.
    let source = || read(&folders[calls.fetch_add(1, Ordering::SeqCst) / 2]);
    let migrations = lakebase_diesel::migrations::Migrations::new(&production);
    let with_diesel = soon(migrations.run_after_rehearsal(source, |_| true)).await;
    let migrations = lakebase_seaorm::migrations::Migrations::new(&production);
    let with_seaorm = migrations.run_after_rehearsal::<Grows>(|_| {
        HAS_GROWN.store(true, Ordering::SeqCst);
        true
    });
    for outcome in [with_diesel, soon(with_seaorm).await] {
        let error = outcome.expect_err("not rehearsed");
        assert!(error.is_config(), "{error:?}");
        assert_eq!(error.migration(), Some(TWO));
        assert!(error.chain().contains("was not rehearsed"), "{error:?}");
    }
    assert!(!has_shelves(&local).await);
}

#[tokio::test]
async fn a_rehearsal_needs_the_host_of_its_branch_and_a_valid_expiry() {
    let local = library().await;
    let elsewhere = lakebase_with(&local, &[("PGHOST", "127.0.0.1")]);
    let migrations = lakebase_seaorm::migrations::Migrations::new(&elsewhere);
    let error = soon(migrations.rehearse::<Grows>()).await;
    let error = error.expect_err("another host");
    assert!(
        error.is_config() && error.chain().contains("PGHOST"),
        "{error:?}"
    );
    let migrations = lakebase_seaorm::migrations::Migrations::new(&lakebase(&local));
    let too_long = migrations.rehearsal_expiry(Duration::MAX);
    let error = soon(too_long.rehearse::<Grows>()).await;
    let error = error.expect_err("no such expiry");
    assert!(
        error.is_config() && error.chain().contains("expiry"),
        "{error:?}"
    );
    assert_eq!(local.branches().len(), 1);
}
