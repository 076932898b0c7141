//! The command-line tools of Postgres and the ORMs, run for real by `lakebase exec`.

#![allow(clippy::expect_used)]

#[allow(missing_docs, unreachable_pub, unused_imports)] // made by a tool
mod entity;
#[allow(missing_docs, unreachable_pub)] // made by a tool
mod schema;
#[path = "../support/mod.rs"]
mod support;

use std::env;
use std::path::{Path, PathBuf};

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use lakebase_core::{Config, Lakebase};
use lakebase_local::LocalLakebase;
use sea_orm::ActiveValue::Set;
use sea_orm::{ActiveModelTrait as _, EntityTrait as _};
use support::{Ran, local, run, skipped};

const SCHEMA: &str = "library";

/// A shell in a folder of its own, with a Lakebase and the tools.
struct Bench {
    local: LocalLakebase,
    folder: tempfile::TempDir,
    path: String,
}

impl Bench {
    /// `None`, and a word about it, if one of the tools is not there; unless that is not acceptable here.
    async fn with(tools: &[&str]) -> Option<Self> {
        let own = env::var_os("LAKEBASE_TOOLS")
            .map_or_else(|| workspace().join("target/tools"), PathBuf::from);
        let path = env::var_os("PATH").unwrap_or_default();
        let folders: Vec<PathBuf> = [own.join("bin")]
            .into_iter()
            .chain(env::split_paths(&path))
            .collect();
        for tool in tools {
            if !folders.iter().any(|folder| folder.join(tool).is_file()) {
                let text = format!(
                    "{tool} is not installed (lakebase-cli/tests/tools/install.sh does it)"
                );
                assert!(
                    env::var_os("LAKEBASE_TESTS_REQUIRE_TOOLS").is_none(),
                    "{text}"
                );
                skipped(&text);
                return None;
            }
        }
        let path = env::join_paths(folders).expect("a path");
        Some(Self {
            local: local().await,
            folder: tempfile::tempdir().expect("a folder"),
            path: path.into_string().expect("text"),
        })
    }

    /// `lakebase exec` with these arguments, which has to succeed.
    async fn exec(&self, args: &[&str]) -> Ran {
        let ran = self.try_exec(args).await;
        assert_eq!(ran.code, Some(0), "{args:?}: {}{}", ran.out, ran.err);
        ran
    }

    async fn try_exec(&self, args: &[&str]) -> Ran {
        let cache = self.folder.path().display().to_string();
        let home = |name| env::var(name).unwrap_or_default();
        let (home, cargo, rustup, target) = (
            home("HOME"),
            home("CARGO_HOME"),
            home("RUSTUP_HOME"),
            home("CARGO_TARGET_DIR"),
        );
        let changes = [
            ("PATH", self.path.as_str()),
            ("XDG_CACHE_HOME", &cache),
            ("LAKEBASE_SCHEMA", SCHEMA),
            ("HOME", &home),
            ("CARGO_HOME", &cargo),
            ("RUSTUP_HOME", &rustup),
            ("CARGO_TARGET_DIR", &target),
            ("CARGO_NET_OFFLINE", "true"),
        ];
        let args = ["exec", "--"].iter().chain(args);
        run(args, &self.local.env(), &changes).await
    }

    /// The tables of diesel's migrations, made by its own tool.
    async fn migrate(&self) {
        self.exec(&["psql", "-qc", "CREATE SCHEMA library"]).await;
        let migrations = here().join("migrations").display().to_string();
        let folder = ["--migration-dir", &migrations];
        for command in ["run", "redo"] {
            let args = [&["diesel", "migration", command], &folder[..]].concat();
            self.exec(&args).await;
        }
        let list = self
            .exec(&[&["diesel", "migration", "list"], &folder[..]].concat())
            .await;
        assert!(
            list.out.contains("[X] 2026-01-15-090000_library"),
            "{}",
            list.out
        );
    }

    fn lakebase(&self) -> Lakebase {
        let config = Config::builder()
            .schema(SCHEMA)
            .vars(self.local.env())
            .build();
        Lakebase::new(config.expect("a configuration")).expect("a handle")
    }
}

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tools")
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The file that is checked in; written again with `UPDATE=1`.
fn compare(name: &str, text: &str) {
    let path = here().join(name);
    if env::var_os("UPDATE").is_some() {
        std::fs::write(&path, text).expect("written");
    }
    let known = std::fs::read_to_string(&path).expect(name);
    assert_eq!(
        text, known,
        "{name} is not what the tool makes of the live schema"
    );
}

#[tokio::test]
async fn diesel_migrates_and_prints_the_schema_that_our_pool_queries() {
    let Some(bench) = Bench::with(&["psql", "diesel"]).await else {
        return;
    };
    bench.migrate().await;
    let printed = bench
        .exec(&["diesel", "print-schema", "--schema", SCHEMA])
        .await;
    compare("schema.rs", &printed.out);

    use schema::library::{authors, books};
    let pool = lakebase_diesel::bb8::connect(&bench.lakebase())
        .await
        .expect("a pool");
    let mut connection = pool.get().await.expect("a connection");
    let author: i64 = diesel::insert_into(authors::table)
        .values(authors::name.eq("Ursula K. Le Guin"))
        .returning(authors::id)
        .get_result(&mut connection)
        .await
        .expect("an author");
    diesel::insert_into(books::table)
        .values((
            books::author_id.eq(author),
            books::title.eq("The Dispossessed"),
            books::pages.eq(341),
        ))
        .execute(&mut connection)
        .await
        .expect("a book");
    let found: Vec<(String, String, Option<i32>)> = books::table
        .inner_join(authors::table)
        .select((authors::name, books::title, books::pages))
        .load(&mut connection)
        .await
        .expect("rows");
    assert_eq!(
        found,
        [(
            "Ursula K. Le Guin".into(),
            "The Dispossessed".into(),
            Some(341)
        )]
    );
}

#[tokio::test]
async fn sea_orm_cli_generates_the_entities_that_our_connection_queries() {
    let Some(bench) = Bench::with(&["psql", "diesel", "sea-orm-cli"]).await else {
        return;
    };
    bench.migrate().await;
    let out = bench.folder.path().join("entity").display().to_string();
    bench
        .exec(&[
            "sea-orm-cli",
            "generate",
            "entity",
            "-o",
            &out,
            "--ignore-tables",
            "__diesel_schema_migrations",
        ])
        .await;
    for file in ["authors.rs", "books.rs", "mod.rs", "prelude.rs"] {
        let text = std::fs::read_to_string(Path::new(&out).join(file)).expect(file);
        compare(&format!("entity/{file}"), &text);
    }

    use entity::{authors, books};
    let db = lakebase_seaorm::connect(&bench.lakebase())
        .await
        .expect("a connection");
    let author = authors::ActiveModel {
        name: Set("Ursula K. Le Guin".to_owned()),
        ..Default::default()
    };
    let author = author.insert(&db).await.expect("an author");
    let book = books::ActiveModel {
        author_id: Set(author.id),
        title: Set("The Dispossessed".to_owned()),
        ..Default::default()
    };
    book.insert(&db).await.expect("a book");
    let found = books::Entity::find()
        .find_also_related(authors::Entity)
        .one(&db)
        .await
        .expect("an answer");
    let (book, author) = found.expect("a row");
    assert_eq!(
        (book.pages, author.expect("its author").name.as_str()),
        (None, "Ursula K. Le Guin")
    );
}

#[tokio::test]
async fn sea_orm_cli_runs_a_migration_crate_that_knows_nothing_of_lakebase() {
    let Some(bench) = Bench::with(&["psql", "sea-orm-cli"]).await else {
        return;
    };
    bench.exec(&["psql", "-qc", "CREATE SCHEMA library"]).await;
    let folder = here().join("migration").display().to_string();
    let migrate = |command| ["sea-orm-cli", "migrate", command, "-d", folder.as_str()];
    bench.exec(&migrate("up")).await;
    let tables = [
        "psql",
        "-XAtc",
        "SELECT count(*) FROM library.shelves, library.seaql_migrations",
    ];
    assert_eq!(bench.exec(&tables).await.out, "0\n");
    let status = bench.exec(&migrate("status")).await;
    assert!(
        format!("{}{}", status.out, status.err).contains("Applied"),
        "{}{}",
        status.out,
        status.err
    );
    bench.exec(&migrate("down")).await;
    let ran = bench.try_exec(&tables).await;
    assert!(ran.err.contains("library.shelves"), "{}", ran.err);
}

#[tokio::test]
async fn sea_orm_cli_runs_a_swapped_migration_crate_without_a_database_url() {
    let Some(bench) = Bench::with(&["sea-orm-cli"]).await else {
        return;
    };
    let folder = here().join("migration_swapped").display().to_string();
    let migrate = |command| ["sea-orm-cli", "migrate", command, "-d", folder.as_str()];
    // What `exec` sets is taken away again: the environment of an application is enough.
    let bare = ["env", "-u", "DATABASE_URL", "-u", "PGPASSWORD"];
    let ran = bench.exec(&[&bare[..], &migrate("up")].concat()).await;
    assert!(ran.out.contains("applied"), "{}{}", ran.out, ran.err);
    let has_rows = "DO $$ BEGIN ASSERT EXISTS (SELECT FROM library.seaql_migrations); END $$";
    bench.local.sql(has_rows).await.expect("in the schema");

    let elsewhere = ["-u", "postgres://me@127.0.0.1:1/scratch"];
    let ran = bench
        .try_exec(&[&migrate("fresh")[..], &elsewhere[..]].concat())
        .await;
    assert_ne!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    assert!(ran.err.contains("DATABASE_URL"), "{}", ran.err);
    bench.local.sql(has_rows).await.expect("nothing is dropped");

    bench.exec(&migrate("fresh")).await;
    let ran = bench.exec(&migrate("status")).await;
    assert!(ran.out.contains("Applied"), "{}{}", ran.out, ran.err);
}

#[tokio::test]
async fn pg_dump_dumps_and_psql_restores() {
    let Some(bench) = Bench::with(&["psql", "pg_dump", "diesel"]).await else {
        return;
    };
    bench.migrate().await;
    bench
        .exec(&[
            "psql",
            "-qc",
            "INSERT INTO authors (name) VALUES ('Ursula K. Le Guin')",
        ])
        .await;
    let file = bench.folder.path().join("dump.sql").display().to_string();
    let dumped = bench
        .try_exec(&["pg_dump", "--schema", SCHEMA, "-f", &file])
        .await;
    if dumped.err.contains("server version mismatch") {
        skipped("this pg_dump is older than the server");
        return;
    }
    assert_eq!(dumped.code, Some(0), "{}", dumped.err);
    bench
        .exec(&["psql", "-qc", "DROP SCHEMA library CASCADE"])
        .await;
    bench
        .exec(&["psql", "-qv", "ON_ERROR_STOP=1", "-f", &file])
        .await;
    let name = bench
        .exec(&["psql", "-XAtc", "SELECT name FROM authors"])
        .await;
    assert_eq!(name.out, "Ursula K. Le Guin\n");
}
