//! The session in which the adapters of all ORMs run migrations: its lock, schema, settings and time limits.

mod error;
mod locks;
mod observer;
mod rehearsal;
pub(crate) mod schema;

use std::time::Duration;

use postgres_protocol::escape::escape_identifier;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_postgres::tls::TlsStream;
use tokio_postgres::{Client, Connection, Socket};

use crate::error::Error;
use crate::error::Kind;
use crate::error::foreign::clean_text;
use crate::lakebase::Lakebase;
use crate::postgres::advice::database_error;
use crate::settings::name::{check_name, check_schema};
use crate::target::Target;

pub use error::{MigrationError, Position};
pub use locks::LockMode;
pub use observer::Observer;
pub use rehearsal::{HeldLock, IndexBuild, Rehearsal, RehearsedMigration, Rewrite};

/// Key of the Postgres advisory lock under which the adapters run migrations, so that replicas that
/// start together do not run them twice. All adapters use one key, because schemas may overlap.
pub const MIGRATION_LOCK: i64 = 0x6c61_6b65_6261_7365;
/// Each session that migrates holds this lock, shared. The session of [`MIGRATION_LOCK`] ends at once when its replica
/// ends, but a statement may continue to run.
const WORK_LOCK: i64 = MIGRATION_LOCK + 1;

/// A suspended compute and the first login of a deployment need more time than a pool's default.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2 * 60);
/// Longer than most migrations, and shorter than the time after which platforms abort a deployment.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// Longer than the rewrite of a large table.
const REHEARSAL_EXPIRY: Duration = Duration::from_secs(6 * 3600);
/// Pause between two attempts to take the lock.
const POLL: Duration = Duration::from_millis(300);
/// Shorter than the time after which gateways close idle connections.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// The server frees the lock if this process dies during a long statement, and does not end the session while Rust code
/// of a migration runs.
const SETTINGS: &str = "SET client_connection_check_interval = '2s'; SET idle_session_timeout = 0; \
    SET idle_in_transaction_session_timeout = 0";

const LOCK_TIMEOUT_HINT: &str = "Another replica migrates, or hangs: SELECT pid, usename, state, query FROM \
    pg_stat_activity JOIN pg_locks USING (pid) WHERE locktype = 'advisory' shows it. Wait longer with `lock_timeout`";

/// SQL that resets all settings of a session that a migration can change: authorization, role, search path, timeouts. It
/// works inside a transaction. Send [`MigrationSession::worker_sql`] after it in a separate message: Postgres decodes a message in
/// the client encoding that the migration may have set, and this constant is ASCII.
pub const RESET_SESSION: &str = "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL";

/// SQL that drops temporary tables of an earlier migration, which would hide tables of the same names.
pub const DISCARD_TEMPORARY: &str = "DISCARD TEMP";

/// Where migrations run, and how long they wait. For adapters.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MigrationSession {
    /// The database, on its direct host and with the connect timeout of migrations.
    pub lakebase: Lakebase,
    /// The schema of tables and history; `None` for the first one on the role's search path.
    pub schema: Option<String>,
    /// The role that runs the migrations and owns the objects that they create, by `SET ROLE`; `None` for the role that logs in.
    pub owner: Option<String>,
    /// Whether [`locked`](Self::locked) creates a missing schema. False by default.
    pub create_schema: bool,
    /// How long [`locked`](Self::locked) waits for other replicas: 10 minutes by default. With zero, it tries once.
    pub lock_timeout: Duration,
    /// When the platform deletes the branch of a rehearsal, if the program cannot: after 6 hours by default.
    pub rehearsal_expiry: Duration,
}

impl MigrationSession {
    /// Uses the direct host of this Lakebase and the schema of its configuration. A login may take 2 minutes, or the
    /// configured `connect_timeout` if that is longer.
    pub fn new(lakebase: &Lakebase) -> Self {
        let budget = CONNECT_TIMEOUT.max(lakebase.connect_timeout());
        Self {
            lakebase: lakebase.with_connect_timeout(budget).direct(),
            schema: lakebase.schema().map(str::to_owned),
            owner: None,
            create_schema: false,
            lock_timeout: LOCK_TIMEOUT,
            rehearsal_expiry: REHEARSAL_EXPIRY,
        }
    }

    /// Returns the same session on a copy of the database, for a rehearsal. Two names or addresses can lead to one database, so this
    /// checks that a session of the copy does not see an advisory lock that a session of this database holds.
    ///
    /// # Errors
    ///
    /// `copy` is this database itself, or a connection to one of the two fails.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connections, which frees the lock.
    pub async fn on_copy(&self, copy: &Lakebase) -> Result<Self, Error> {
        let copy = copy.with_connect_timeout(self.lakebase.connect_timeout());
        let copy = copy.direct();
        let (here, there) = (self.lakebase.target().await?, copy.target().await?);
        let place = |target: &Target| (target.host.clone(), target.hostaddr, target.port);
        let is_same = place(&here) == place(&there) && here.database == there.database;
        if is_same || is_same_database(&self.lakebase, &copy).await? {
            let text = format!("a rehearsal needs a copy, but {there} is the database itself");
            return Err(Error::config(text));
        }
        Ok(Self {
            lakebase: copy,
            ..self.clone()
        })
    }

    /// SQL that prepares a session that only reads the history.
    pub fn reader_sql(&self) -> String {
        format!("{SETTINGS}{}{}", self.search_path(""), self.set_role())
    }

    /// SQL that prepares a session that migrates, while the lock is held, and prepares it again after each [`RESET_SESSION`].
    pub fn worker_sql(&self) -> String {
        format!(
            "{}; {SETTINGS}{}{}",
            hold_lock(),
            self.search_path(", public"),
            self.set_role()
        )
    }

    /// SQL that prepares a session that drops the schema's objects by unqualified names: only the schema is on its search path.
    pub fn drop_sql(&self) -> String {
        format!("{}; {}", hold_lock(), self.reader_sql())
    }

    fn set_role(&self) -> String {
        let owner = self.owner.as_deref().map(escape_identifier);
        owner.map_or_else(String::new, |owner| format!("; SET ROLE {owner}"))
    }

    /// Sets the role of a session to the owner, if there is one.
    ///
    /// # Errors
    ///
    /// The role that logs in is not a member of the owner. The hint has the command that makes it one.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the role may or may not be set.
    pub async fn become_owner(&self, client: &Client) -> Result<(), Error> {
        let Some(owner) = &self.owner else {
            return Ok(());
        };
        let sql = format!("SET ROLE {}", escape_identifier(owner));
        let Err(error) = client.batch_execute(&sql).await else {
            return Ok(());
        };
        let target = self.lakebase.target().await?;
        let user = target.user();
        let is_rejected = error.as_db_error().is_some();
        let failed = database_error(
            format!("{user:?} cannot migrate as the shared owner {owner:?}"),
            error,
        );
        Err(match is_rejected {
            true => failed.with_hint(format!(
                "The project's owner has to run `lakebase grant '{user}' --shared-owner '{owner}'`"
            )),
            false => failed,
        })
    }

    fn search_path(&self, others: &str) -> String {
        match self.schema {
            Some(_) => format!("; SET search_path = {}{others}", self.quoted_schema()),
            None => String::new(),
        }
    }

    /// Runs `work` while a separate session holds the advisory lock of migrations. It ensures first that the schema exists, calls
    /// `on_wait` if another session has the lock, and returns after it has released the lock.
    ///
    /// # Errors
    ///
    /// The error of `work`. [`MigrationError::is_timeout`] if other sessions hold the lock for longer than
    /// [`lock_timeout`](Self::lock_timeout). A transient error if the session of the lock ends before `work` does; `work` is then
    /// dropped. Otherwise, the problem with the session or the schema, with the next step.
    ///
    /// # Cancel safety
    ///
    /// The future owns the session of the lock, so dropping it releases the lock.
    pub async fn locked<T>(
        &self,
        on_wait: impl FnOnce(),
        work: impl Future<Output = Result<T, MigrationError>>,
    ) -> Result<T, MigrationError> {
        let (client, connection) = self.connect().await?;
        let mut session = tokio::spawn(async move {
            if let Err(error) = connection.await {
                let error = clean_text(&error.to_string());
                tracing::warn!(name: "lakebase.migration.lock_lost", target: "lakebase::migration", error, "lost the session of the migration lock");
            }
        });
        // A Postgres older than the platform's does not have all of them.
        let _ = client.batch_execute(SETTINGS).await;
        self.acquire(&client, on_wait).await?;
        self.become_owner(&client).await?;
        if !self.has_schema(&client).await? {
            let create = format!("CREATE SCHEMA {}", self.quoted_schema());
            let created = client.batch_execute(&create).await;
            created.map_err(|error| {
                let what = format!("cannot create the schema {}", self.quoted_schema());
                database_error(what, error)
            })?;
        }
        // A separate task, because `work` may block this one. It is aborted on drop, and the session ends with its client.
        let mut keep_alive = JoinSet::new();
        keep_alive.spawn(async move {
            loop {
                sleep(KEEPALIVE).await;
                // It takes no snapshot, which CREATE INDEX CONCURRENTLY would wait for.
                let _ = client.batch_execute("").await;
            }
        });
        let outcome = tokio::select! {
            outcome = work => outcome,
            _ = &mut session => {
                let lost = "lost the advisory lock of migrations: its session ended";
                let error = Error::new(Kind::Network, lost)
                    .with_hint("Run the migrations again: the ones that succeeded stay applied");
                return Err(error.into());
            }
        };
        keep_alive.shutdown().await;
        let _ = session.await;
        outcome
    }

    /// Opens a session on the direct host, as the role that logs in.
    ///
    /// # Errors
    ///
    /// As [`Lakebase::connect`], and [`Error::is_config`] for an invalid name of the schema or the owner.
    ///
    /// # Cancel safety
    ///
    /// As [`Lakebase::connect`].
    pub async fn connect(
        &self,
    ) -> Result<(Client, Connection<Socket, impl TlsStream + Send + use<>>), Error> {
        if let Some(schema) = &self.schema {
            check_schema("schema", schema)?;
        }
        if let Some(owner) = &self.owner {
            check_name("owner", owner)?;
        }
        self.lakebase.connect().await
    }

    /// Returns whether the schema exists; `false` only if [`create_schema`](Self::create_schema) is set. Postgres skips a schema that is
    /// missing or that the role may not use, and would create all objects in the next schema on the search path.
    ///
    /// # Errors
    ///
    /// The schema is missing and `create_schema` is not set, or the role lacks USAGE on it. The hint has the next step.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect: it only reads.
    pub async fn has_schema(&self, client: &Client) -> Result<bool, Error> {
        if self.schema.is_none() {
            return Ok(true);
        }
        let schema = self.quoted_schema();
        let query = "SELECT to_regnamespace($1) IS NOT NULL, \
             coalesce(has_schema_privilege(to_regnamespace($1), 'USAGE'), false)";
        let found = client.query_one(query, &[&schema]).await;
        let found = found.map_err(|error| {
            database_error(format!("cannot look for the schema {schema}"), error)
        })?;
        match (found.get(0), found.get(1)) {
            (true, true) => Ok(true),
            (true, false) => {
                let hint = match (&self.owner, &self.schema) {
                    (Some(owner), Some(name)) => format!(
                        "The schema does not belong to {owner:?}. Its owner, as a member, has to run \
                         `lakebase --schema '{name}' grant ROLE --shared-owner '{owner}'` (ROLE: itself)"
                    ),
                    _ => format!(
                        "Its owner has to GRANT USAGE, CREATE ON SCHEMA {schema}; or set LAKEBASE_SCHEMA to another schema"
                    ),
                };
                let what = format!("no privilege to use the schema {schema}");
                let error = Error::new(Kind::Database, what).with_hint(hint);
                Err(error.with_sqlstate(Some("42501")))
            }
            (false, _) if self.create_schema => Ok(false),
            (false, _) => {
                let hint = format!(
                    "Create it as the role that migrates (CREATE SCHEMA {schema}), or let the migrations do so with `create_schema(true)`"
                );
                let error = Error::config(format!("the schema {schema} does not exist"));
                Err(error.with_hint(hint).with_sqlstate(Some("3F000")))
            }
        }
    }

    fn quoted_schema(&self) -> String {
        escape_identifier(self.schema.as_deref().unwrap_or_default())
    }

    /// Polls, because a statement that waits for the lock would hold a snapshot, and a CREATE INDEX CONCURRENTLY of the other
    /// replica would wait for that.
    async fn acquire(&self, client: &Client, on_wait: impl FnOnce()) -> Result<(), Error> {
        if try_lock(client).await? {
            return Ok(());
        }
        on_wait();
        let waiting = async {
            loop {
                sleep(POLL.mul_f64(0.75 + 0.5 * fastrand::f64())).await;
                if try_lock(client).await? {
                    return Ok(());
                }
            }
        };
        let waited = timeout(self.lock_timeout, waiting).await;
        waited.unwrap_or_else(|_| {
            let seconds = self.lock_timeout.as_secs_f64();
            let what = format!("another session has held the migration lock for {seconds} s");
            Err(Error::new(Kind::Timeout, what).with_hint(LOCK_TIMEOUT_HINT))
        })
    }
}

/// Whether both are the same database of the same server.
async fn is_same_database(one: &Lakebase, other: &Lakebase) -> Result<bool, Error> {
    let key = fastrand::i64(..);
    let (holder, connection) = one.connect().await?;
    let holding = tokio::spawn(connection);
    let (observer, connection) = other.connect().await?;
    let observing = tokio::spawn(connection);
    let seen = async {
        let hold = format!("SELECT pg_catalog.pg_advisory_lock({key})");
        holder.batch_execute(&hold).await?;
        // First the search path, so that no function of the application runs.
        let path = "SET search_path = pg_catalog";
        observer.batch_execute(path).await?;
        let query = format!(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND {} \
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))",
            is_key(key)
        );
        let row = observer.query_one(&query, &[]).await?;
        Ok(row.get(0))
    };
    let seen = seen.await;
    drop((holder, observer));
    let _ = tokio::join!(holding, observing);
    seen.map_err(|error| database_error("cannot compare the database with its copy", error))
}

/// A condition on `pg_locks` for an advisory lock with this key.
fn is_key(key: i64) -> String {
    let (high, low) = ((key >> 32) as u32, key as u32);
    format!("objsubid = 1 AND classid = {high} AND objid = {low}")
}

fn hold_lock() -> String {
    format!("SELECT pg_catalog.pg_advisory_lock_shared({WORK_LOCK})")
}

/// The second lock is taken if no statement of a replica that has ended still runs. It is released at once, because
/// sessions that migrate hold it shared.
async fn try_lock(client: &Client) -> Result<bool, Error> {
    let sql = format!(
        "SELECT CASE WHEN NOT pg_try_advisory_lock({MIGRATION_LOCK}) THEN false \
         WHEN NOT pg_try_advisory_lock({WORK_LOCK}) THEN false \
         ELSE pg_advisory_unlock({WORK_LOCK}) END"
    );
    let row = client.query_one(&sql, &[]).await;
    row.map(|row| row.get(0))
        .map_err(|error| database_error("cannot take the advisory lock of migrations", error))
}
