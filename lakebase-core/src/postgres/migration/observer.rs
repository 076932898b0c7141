//! Watches the migrations of a rehearsal from a separate session.

use std::collections::{HashMap, HashSet};
use std::mem::take;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, Row, Statement};

use super::error::MigrationError;
use super::locks::{LockMode, Locks};
use super::rehearsal::{HeldLock, IndexBuild, Rehearsal, RehearsedMigration, Rewrite};
use super::schema::Snapshot;
use super::{MigrationSession, SETTINGS, WORK_LOCK, is_key};
use crate::error::Error;
use crate::postgres::advice::database_error;

/// Pause between two polls of the locks. People do not notice shorter waits.
const POLL: Duration = Duration::from_millis(10);
/// The rows of tables below both limits are counted.
const COUNTED_ROWS: f32 = 1e6;
const COUNTED_BYTES: u64 = 1 << 30;

/// All relations that can be locked.
const RELATIONS: &str = "SELECT c.oid, format('%I.%I', nspname, relname), relkind::text, \
    coalesce(pg_relation_filenode(c.oid), 0), coalesce(pg_total_relation_size(c.oid), 0), reltuples, indrelid \
    FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace LEFT JOIN pg_index ON indexrelid = c.oid \
    WHERE relkind IN ('r', 'p', 'm', 'v', 'f', 'S', 'i', 'I') AND nspname !~ '^pg_' AND nspname <> 'information_schema'";

/// Watches migrations on a copy of a database. For adapters.
///
/// Call [`start`](Self::start), then [`plan`](Self::plan) under the lock. For each migration, call [`begin`](Self::begin),
/// [`before_commit`](Self::before_commit) while its transaction is open, and [`end`](Self::end). Call [`finish`](Self::finish) last.
///
/// It runs no statement on the sessions that migrate. It identifies them by the advisory lock that each of them holds.
#[derive(Debug)]
pub struct Observer {
    session: MigrationSession,
    client: Arc<Client>,
    locks: Statement,
    before: Snapshot,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    planned: Vec<String>,
    done: Vec<RehearsedMigration>,
    running: Option<Running>,
    relations: HashMap<u32, Relation>,
    failure: Option<Error>,
}

#[derive(Debug)]
struct Running {
    began: Instant,
    locks: Arc<Mutex<Locks>>,
    /// Returns only an error.
    poller: JoinSet<Error>,
}

#[derive(Debug)]
struct Relation {
    name: String,
    kind: String,
    file: u32,
    bytes: u64,
    rows: f32,
    /// The table of an index.
    table: Option<u32>,
}

impl Observer {
    /// Reads the schema, and opens the session that watches. `session` is that of [`MigrationSession::on_copy`].
    ///
    /// # Errors
    ///
    /// The connection or the query of the catalogs fails.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the session; it only reads.
    pub async fn start(session: &MigrationSession) -> Result<Arc<Self>, Error> {
        let before = Snapshot::of(&session.lakebase).await?;
        let (client, connection) = session.connect().await?;
        // Ends with the client.
        tokio::spawn(connection);
        session.become_owner(&client).await?;
        // Functions and operators of the application must not run with the privileges of this role.
        let setup = format!("{SETTINGS}; SET search_path = pg_catalog");
        let setup = client.batch_execute(&setup).await;
        setup.map_err(cannot_watch)?;
        let locks = format!(
            "SELECT relation, mode FROM pg_locks WHERE locktype = 'relation' AND granted AND relation IS NOT NULL \
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
             AND pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock' AND granted \
             AND {})",
            is_key(WORK_LOCK),
        );
        let locks = client.prepare(&locks).await;
        Ok(Arc::new(Self {
            session: session.clone(),
            client: Arc::new(client),
            locks: locks.map_err(cannot_watch)?,
            before,
            state: Mutex::default(),
        }))
    }

    /// Sets the names of the pending migrations, in their order.
    ///
    /// # Errors
    ///
    /// The query of the catalogs fails.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn plan(&self, names: Vec<String>) -> Result<(), Error> {
        let relations = self.relations().await.map_err(cannot_watch)?;
        let mut state = lock(&self.state);
        (state.planned, state.relations) = (names, relations);
        Ok(())
    }

    /// Starts to watch the next migration of the plan.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn begin(&self) {
        let began = Instant::now();
        let locks = Arc::new(Mutex::new(Locks::new(began)));
        let mut poller = JoinSet::new();
        let poll = (
            Arc::clone(&self.client),
            self.locks.clone(),
            Arc::clone(&locks),
        );
        poller.spawn(async move {
            let (client, statement, locks) = poll;
            loop {
                if let Err(error) = read_locks(&client, &statement, &locks).await {
                    return cannot_watch(error);
                }
                sleep(POLL).await;
            }
        });
        lock(&self.state).running = Some(Running {
            began,
            locks,
            poller,
        });
    }

    /// Reads the locks before the commit, because its transaction holds all of them then.
    ///
    /// # Cancel safety
    ///
    /// It only reads; if the future is dropped, a short lock may be missing from the report.
    pub async fn before_commit(&self) {
        let locks = lock(&self.state)
            .running
            .as_ref()
            .map(|running| Arc::clone(&running.locks));
        if let Some(locks) = locks {
            let read = read_locks(&self.client, &self.locks, &locks).await;
            self.check(read.map_err(cannot_watch));
        }
    }

    /// Stops to watch the migration, which has succeeded or failed.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the migration is missing from the report.
    pub async fn end(&self) {
        let ended = Instant::now();
        let Some(mut running) = lock(&self.state).running.take() else {
            return;
        };
        if let Some(Ok(failure)) = running.poller.try_join_next() {
            self.check::<()>(Err(failure));
        }
        drop(running.poller);
        let held = lock(&running.locks).end(ended);
        let Some(after) = self.check(self.relations().await.map_err(cannot_watch)) else {
            return;
        };
        let mut before = take(&mut lock(&self.state).relations);
        // An index that is locked with its table is omitted.
        let is_locked = |table| {
            held.iter()
                .any(|((relation, mode), _)| *relation == table && mode.blocks_reads())
        };
        let locks = held.iter().filter_map(|((relation, mode), held)| {
            let found = before.get(relation)?;
            let is_omitted = found.table.is_some_and(is_locked);
            (!is_omitted).then(|| HeldLock {
                relation: found.name.clone(),
                mode: *mode,
                held: *held,
            })
        });
        let mut locks: Vec<_> = locks.collect();
        locks.sort_by(|a, b| {
            b.held
                .cmp(&a.held)
                .then_with(|| a.relation.cmp(&b.relation))
        });
        let mut index_builds: Vec<_> = after
            .iter()
            .filter_map(|(oid, now)| now.built(*oid, &before))
            .collect();
        index_builds.sort_by(|a, b| a.index.cmp(&b.index));
        before.retain(|oid, then| {
            let now = after.get(oid).map_or(0, |now| now.file);
            ["r", "m"].contains(&then.kind.as_str()) && ![0, then.file].contains(&now)
        });
        let mut rewrites = Vec::new();
        for table in before.into_values() {
            rewrites.push(Rewrite {
                rows: self.rows(&table).await,
                bytes: table.bytes,
                table: table.name,
            });
        }
        rewrites.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.table.cmp(&b.table)));
        let mut state = lock(&self.state);
        let name = state
            .planned
            .get(state.done.len())
            .cloned()
            .unwrap_or_default();
        state.relations = after;
        state.done.push(RehearsedMigration {
            name,
            took: ended - running.began,
            locks,
            rewrites,
            index_builds,
            error: None,
        });
    }

    /// Returns the report. If `outcome` is the failure of the last migration that ran, the report contains it.
    ///
    /// # Errors
    ///
    /// Any other error of `outcome`, or a failure of the observer.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the report is lost.
    pub async fn finish<T>(
        &self,
        outcome: Result<T, MigrationError>,
    ) -> Result<Rehearsal, MigrationError> {
        let outcome = match outcome {
            Err(error) if error.migration().is_none() => return Err(error),
            outcome => outcome,
        };
        let State {
            planned,
            done: mut migrations,
            failure,
            ..
        } = take(&mut *lock(&self.state));
        if let Some(failure) = failure {
            return Err(failure.into());
        }
        if let Err(error) = outcome {
            match migrations.last_mut() {
                Some(last) if error.migration() == Some(&last.name) => last.error = Some(error),
                _ => return Err(error),
            }
        }
        let after = Snapshot::of(&self.session.lakebase).await?;
        let not_tried = planned.into_iter().skip(migrations.len()).collect();
        Ok(Rehearsal {
            migrations,
            not_tried,
            difference: self.before.diff(&after),
        })
    }

    async fn relations(&self) -> Result<HashMap<u32, Relation>, tokio_postgres::Error> {
        let rows = self.client.query(RELATIONS, &[]).await?;
        let relations = rows.iter().map(|row| (row.get(0), Relation::read(row)));
        Ok(relations.collect())
    }

    async fn rows(&self, table: &Relation) -> Option<u64> {
        if table.rows < COUNTED_ROWS && table.bytes < COUNTED_BYTES {
            let count = format!("SELECT count(*) FROM {}", table.name);
            if let Ok(row) = self.client.query_one(&count, &[]).await {
                return u64::try_from(row.get::<_, i64>(0)).ok();
            }
        }
        // Negative for a table that was never analyzed.
        let is_known = table.rows >= 0.0;
        is_known.then_some(table.rows as u64)
    }

    /// Keeps the first failure for [`finish`](Self::finish).
    fn check<T>(&self, outcome: Result<T, Error>) -> Option<T> {
        match outcome {
            Ok(value) => return Some(value),
            Err(error) => lock(&self.state).failure.get_or_insert(error),
        };
        None
    }
}

impl Relation {
    fn read(row: &Row) -> Self {
        Self {
            name: row.get(1),
            kind: row.get(2),
            file: row.get(3),
            bytes: u64::try_from(row.get::<_, i64>(4)).unwrap_or_default(),
            rows: row.get(5),
            table: row.get(6),
        }
    }

    fn built(&self, oid: u32, before: &HashMap<u32, Self>) -> Option<IndexBuild> {
        let table = before.get(&self.table?)?;
        let same_file = before.get(&oid).map(|then| then.file) == Some(self.file);
        (self.kind == "i" && !same_file).then(|| IndexBuild {
            index: self.name.clone(),
            table: table.name.clone(),
            bytes: self.bytes,
        })
    }
}

async fn read_locks(
    client: &Client,
    statement: &Statement,
    locks: &Mutex<Locks>,
) -> Result<(), tokio_postgres::Error> {
    let sent = Instant::now();
    let rows = client.query(statement, &[]).await?;
    let held = rows
        .iter()
        .filter_map(|row| Some((row.get(0), LockMode::from_pg_locks(row.get(1))?)));
    let held: HashSet<_> = held.collect();
    lock(locks).poll(sent, Instant::now(), &held);
    Ok(())
}

fn cannot_watch(error: tokio_postgres::Error) -> Error {
    database_error("cannot watch the migrations", error)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
