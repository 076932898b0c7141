//! The report of a rehearsal.

use std::fmt::{self, Write as _};
use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::json;

use super::error::MigrationError;
use super::locks::LockMode;
use super::schema::{Difference, one_line};
use crate::error::Error;

const NOTHING: &str = "so nothing was run on the database itself";

/// The report of the pending migrations' run on a copy of the database.
///
/// `Display` prints it for a terminal, and [`to_markdown`](Self::to_markdown) for a pull request. With `serde`, durations are
/// seconds.
#[derive(Clone, Debug, Serialize)]
#[must_use = "a migration that failed is part of the report"]
#[non_exhaustive]
pub struct Rehearsal {
    /// The migrations that ran, in their order. Only the last one can have failed.
    pub migrations: Vec<RehearsedMigration>,
    /// The names of the migrations after the one that failed.
    pub not_tried: Vec<String>,
    /// How the migrations changed the schema, the history table included.
    pub difference: Difference,
}

/// The effects of one migration on the copy: see [`Rehearsal::migrations`].
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct RehearsedMigration {
    /// The name of the migration.
    pub name: String,
    /// How long it ran, with its commit.
    #[serde(rename = "took_seconds", serialize_with = "seconds")]
    pub took: Duration,
    /// Locks that would have blocked other sessions, on relations that existed before the migration.
    pub locks: Vec<HeldLock>,
    /// Tables that existed before the migration and were rewritten.
    pub rewrites: Vec<Rewrite>,
    /// Indexes of tables that existed before the migration, built or rebuilt.
    pub index_builds: Vec<IndexBuild>,
    /// Why the migration failed; `None` if it succeeded.
    #[serde(serialize_with = "error")]
    pub error: Option<MigrationError>,
}

/// A lock that would have blocked other sessions: see [`RehearsedMigration::locks`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HeldLock {
    /// Schema and name of a table, view, sequence or index, quoted where SQL needs it.
    pub relation: String,
    /// The mode of the lock.
    pub mode: LockMode,
    /// How long the lock was held at most: exact to about 10 ms and two round trips.
    #[serde(rename = "held_seconds", serialize_with = "seconds")]
    pub held: Duration,
}

/// A table that Postgres rewrote (`ALTER COLUMN TYPE`, a volatile default, `CLUSTER`, `VACUUM FULL`) or emptied (`TRUNCATE`):
/// see [`RehearsedMigration::rewrites`]. During a rewrite, the table is locked and needs its space twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Rewrite {
    /// Schema and name, quoted where SQL needs it.
    pub table: String,
    /// Number of rows after the migration: counted for tables below a million rows and 1 GB, otherwise the planner's estimate;
    /// `None` without an estimate.
    pub rows: Option<u64>,
    /// Size before the migration in bytes, with indexes and TOAST.
    pub bytes: u64,
}

/// An index that was built: see [`RehearsedMigration::index_builds`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct IndexBuild {
    /// Schema and name, quoted where SQL needs it.
    pub index: String,
    /// Schema and name of its table.
    pub table: String,
    /// Size after the migration in bytes.
    pub bytes: u64,
}

impl Rehearsal {
    /// Returns whether all pending migrations ran and none failed. It ignores locks and rewrites; for locks, see
    /// [`blocking_locks`](Self::blocking_locks).
    pub fn is_ok(&self) -> bool {
        self.failed().is_none() && self.not_tried.is_empty()
    }

    /// The migration that failed.
    pub fn failed(&self) -> Option<&RehearsedMigration> {
        self.migrations.iter().find(|one| one.error.is_some())
    }

    /// Checks that the migrations may run on the target after this rehearsal. For adapters.
    ///
    /// # Errors
    ///
    /// A migration failed or was not tried, or `is_accepted` is false.
    pub fn allows(&self, is_accepted: bool) -> Result<(), MigrationError> {
        if let Some((failed, error)) = self
            .migrations
            .iter()
            .find_map(|one| Some((one, one.error.as_ref()?)))
        {
            return Err(error.clone().in_rehearsal(&failed.name, NOTHING));
        }
        if let Some(name) = self.not_tried.first() {
            let text = format!("was not tried in rehearsal, {NOTHING}");
            return Err(MigrationError::from(Error::config(text)).of(name));
        }
        match is_accepted {
            true => Ok(()),
            false => {
                Err(Error::config(format!("the rehearsal was not accepted, {NOTHING}")).into())
            }
        }
    }

    /// Checks that the migrations pending on the target were rehearsed. For adapters, which call it under the lock of the target:
    /// another replica may have run some of them meanwhile.
    ///
    /// # Errors
    ///
    /// A migration is pending that was not rehearsed; the error names it.
    pub fn covers<'a>(
        &self,
        pending: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), MigrationError> {
        let is_new = |name: &&str| self.migrations.iter().all(|one| one.name != *name);
        match pending.into_iter().find(is_new) {
            Some(name) => {
                let text = format!("is pending but was not rehearsed, {NOTHING}");
                let error = Error::config(text)
                    .with_hint("Rehearse again: the migrations or the history changed meanwhile");
                Err(MigrationError::from(error).of(name))
            }
            None => Ok(()),
        }
    }

    /// Returns the locks that would have blocked other sessions for longer than this, with their migration. A rehearsal cannot
    /// measure limits below 50 ms.
    pub fn blocking_locks(
        &self,
        longer_than: Duration,
    ) -> impl Iterator<Item = (&RehearsedMigration, &HeldLock)> {
        let all = self
            .migrations
            .iter()
            .flat_map(|one| one.locks.iter().map(move |lock| (one, lock)));
        all.filter(move |(_, lock)| lock.held > longer_than)
    }

    /// Returns the report as Markdown, for a comment on a pull request: a table of the migrations, the error, and the difference of
    /// the schema.
    pub fn to_markdown(&self) -> String {
        let mut text = format!("### Migration rehearsal: {}\n\n", self.summary());
        if !self.migrations.is_empty() {
            text.push_str("| migration | took | blocks other sessions | rewrites and index builds |\n|---|---|---|---|\n");
        }
        for one in &self.migrations {
            let mark = if one.error.is_some() { " (failed)" } else { "" };
            let cells = [
                format!("{}{mark}", code(&one.name)),
                time(one.took),
                list(one.locks.iter().map(|lock| {
                    let HeldLock {
                        relation,
                        mode,
                        held,
                    } = lock;
                    format!(
                        "{}: {} for {} ({mode})",
                        code(relation),
                        blocked(*mode),
                        time(*held)
                    )
                })),
                list(
                    one.work()
                        .map(|(what, name, size)| format!("{what} {} ({size})", code(name))),
                ),
            ];
            let _ = writeln!(
                text,
                "| {} |",
                cells.map(|cell| cell.replace('|', "\\|")).join(" | ")
            );
        }
        for (name, error) in self
            .migrations
            .iter()
            .filter_map(RehearsedMigration::failure)
        {
            let _ = write!(
                text,
                "\n**{} failed:**\n\n```text\n{error}\n```\n",
                code(name)
            );
        }
        if !self.not_tried.is_empty() {
            let names = self.not_tried.iter().map(|name| code(name));
            let _ = write!(
                text,
                "\nNot tried: {}\n",
                names.collect::<Vec<_>>().join(", ")
            );
        }
        text.push('\n');
        text + &self.difference.to_markdown()
    }

    fn summary(&self) -> String {
        let failed = usize::from(self.failed().is_some());
        let ran = self.migrations.len() - failed;
        match (ran, failed) {
            (0, 0) => "nothing pending".to_owned(),
            (ran, 0) => format!("{ran} ran"),
            (ran, failed) => {
                format!(
                    "{failed} failed, {ran} ran, {} not tried",
                    self.not_tried.len()
                )
            }
        }
    }
}

impl RehearsedMigration {
    fn failure(&self) -> Option<(&str, String)> {
        Some((&self.name, one_line(&self.error.as_ref()?.chain())))
    }

    /// Rewrites and index builds: verb, relation, size.
    fn work(&self) -> impl Iterator<Item = (&'static str, &str, String)> {
        let rewrites = self.rewrites.iter().map(|one| {
            let rows = one.rows.map(|rows| format!("{rows} rows, "));
            let size = format!("{}{}", rows.unwrap_or_default(), size(one.bytes));
            ("rewrites", one.table.as_str(), size)
        });
        let builds = self.index_builds.iter();
        rewrites.chain(builds.map(|one| ("builds", one.index.as_str(), size(one.bytes))))
    }
}

impl fmt::Display for Rehearsal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "rehearsal: {}", self.summary())?;
        for one in &self.migrations {
            writeln!(f, "{}: {}", one_line(&one.name), time(one.took))?;
            for HeldLock {
                relation,
                mode,
                held,
            } in &one.locks
            {
                let (relation, blocked) = (one_line(relation), blocked(*mode));
                writeln!(
                    f,
                    "  blocks {blocked} of {relation} for {} ({mode})",
                    time(*held)
                )?;
            }
            for (what, name, size) in one.work() {
                writeln!(f, "  {what} {} ({size})", one_line(name))?;
            }
            if let Some((_, error)) = one.failure() {
                writeln!(f, "  failed: {error}")?;
            }
        }
        for name in &self.not_tried {
            writeln!(f, "{}: not tried", one_line(name))?;
        }
        write!(f, "\n{}", self.difference)
    }
}

fn blocked(mode: LockMode) -> &'static str {
    match mode.blocks_reads() {
        true => "reads and writes",
        false => "writes",
    }
}

fn time(duration: Duration) -> String {
    match duration.as_secs_f64() {
        short if short < 1.0 => format!("{:.0} ms", short * 1000.0),
        long => format!("{long:.1} s"),
    }
}

fn size(bytes: u64) -> String {
    let units = [("GB", 30), ("MB", 20), ("kB", 10)];
    let unit = units.into_iter().find(|(_, bits)| bytes >> bits >= 10);
    let (unit, bits) = unit.unwrap_or(("bytes", 0));
    format!("{} {unit}", bytes >> bits)
}

fn code(name: &str) -> String {
    format!("`{}`", one_line(name).replace('`', "'"))
}

fn list(items: impl Iterator<Item = String>) -> String {
    let items: Vec<_> = items.collect();
    match items.is_empty() {
        true => "nothing".to_owned(),
        false => items.join("<br>"),
    }
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

fn error<S: Serializer>(error: &Option<MigrationError>, serializer: S) -> Result<S::Ok, S::Error> {
    let fields = error.as_ref().map(|error| {
        json!({
            "message": error.chain(),
            "sqlstate": error.sqlstate(),
            "line": error.position().map(|at| at.line),
            "column": error.position().map(|at| at.column),
            "statement": error.statement(),
            "is_transient": error.is_transient(),
        })
    });
    fields.serialize(serializer)
}
