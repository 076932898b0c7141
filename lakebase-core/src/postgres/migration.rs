//! The session under which both ORMs' adapters migrate: the lock that replicas take turns under, the schema, and
//! what keeps a migration's own settings out of the history.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

use crate::error::Error;
use crate::error::Kind;
use crate::error::foreign::clean_text;
use crate::lakebase::Lakebase;
use crate::postgres::advice::database_error;
use crate::postgres::connect::Connection;
use crate::settings::name::check_schema;
use postgres_protocol::escape::escape_identifier;

/// Key of the Postgres advisory lock under which the adapters run migrations, so that replicas that
/// start together do not run them twice. One key for all adapters: schemas may overlap.
pub const MIGRATION_LOCK: i64 = 0x6c61_6b65_6261_7365;
/// Held, shared, by each session that migrates: the one that holds the lock ends at once when its replica does, a
/// statement need not.
const WORK_LOCK: i64 = MIGRATION_LOCK + 1;

/// A suspended compute, and the first login of a deployment, need more time than a pool gives.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2 * 60);
/// Longer than most migrations; shorter than the time after which platforms give up a deployment that hangs.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// How often the lock is tried.
const POLL: Duration = Duration::from_millis(300);
/// More often than gateways close idle connections.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// If this process dies in the middle of a long statement, the server notices and frees the lock. Nor does the server
/// end the session while Rust code of a migration runs, in a transaction or without one.
const SETTINGS: &str = "SET client_connection_check_interval = '2s'; SET idle_session_timeout = 0; \
    SET idle_in_transaction_session_timeout = 0";

/// A query whose one value is the SQL that brings the session's present settings back, after [`RESET_SESSION`].
///
/// The settings of the startup packet are not among them: those are what `RESET` returns to.
pub const SAVE_SESSION: &str = "SELECT 'SELECT ' || pg_catalog.string_agg(pg_catalog.format(\
    'pg_catalog.set_config(%L, %L, false)', name, value), ', ') FROM (\
    SELECT 'role' AS name, pg_catalog.current_setting('role') AS value UNION ALL \
    SELECT name, pg_catalog.current_setting(name) FROM pg_catalog.pg_settings WHERE source = 'session' \
    AND name NOT IN ('transaction_deferrable', 'transaction_isolation', 'transaction_read_only')) AS setting";

/// Takes back what a migration has set in its session: authorization, role, search path, timeouts and all others. Also
/// in a transaction. ASCII alone, as the client encoding may be among them.
pub const RESET_SESSION: &str = "RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL";

/// Drops temporary tables of an earlier migration, which would hide the tables of the same names.
pub const DISCARD_TEMPORARY: &str = "DISCARD TEMP";

/// Where migrations run and how long they wait. For adapters.
#[derive(Clone, Debug)]
pub struct MigrationSession {
    lakebase: Lakebase,
    schema: Option<String>,
    create_schema: bool,
    lock_timeout: Duration,
}

impl MigrationSession {
    /// On the direct host of this Lakebase, in the schema of its configuration, with 2 minutes to connect (more if the
    /// configuration says more) and 10 minutes to wait for the lock.
    pub fn new(lakebase: &Lakebase) -> Self {
        let budget = CONNECT_TIMEOUT.max(lakebase.connect_timeout());
        Self {
            lakebase: lakebase.with_connect_timeout(budget).direct(),
            schema: lakebase.schema().map(str::to_owned),
            create_schema: false,
            lock_timeout: LOCK_TIMEOUT,
        }
    }

    /// The budget for each connection.
    pub fn set_connect_timeout(&mut self, timeout: Duration) {
        self.lakebase = self.lakebase.with_connect_timeout(timeout);
    }

    /// The schema, instead of the configured one. Checked by [`lock`](Self::lock).
    pub fn set_schema(&mut self, schema: String) {
        self.schema = Some(schema);
    }

    /// Whether [`lock`](Self::lock) creates a missing schema.
    pub fn set_create_schema(&mut self, create: bool) {
        self.create_schema = create;
    }

    /// How long [`lock`](Self::lock) waits for other replicas. With zero it tries once.
    pub fn set_lock_timeout(&mut self, timeout: Duration) {
        self.lock_timeout = timeout;
    }

    /// The Lakebase past its pooler, with the connect timeout of migrations.
    pub fn lakebase(&self) -> &Lakebase {
        &self.lakebase
    }

    /// The schema of tables and history.
    pub fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    /// What each session that migrates runs first, while the lock is held.
    pub fn worker_sql(&self) -> String {
        format!("{}; {}", Self::lock_sql(), self.setup_sql())
    }

    /// The same without a search path, for sessions that have one of their own.
    pub fn lock_sql() -> String {
        format!("SELECT pg_advisory_lock_shared({WORK_LOCK}); {SETTINGS}")
    }

    /// What a session runs first that drops the schema's objects by their bare names: nothing but the schema is on
    /// its search path.
    pub fn drop_sql(&self) -> String {
        match &self.schema {
            Some(schema) => format!(
                "{}; SET search_path = {}",
                Self::lock_sql(),
                escape_identifier(schema)
            ),
            None => self.worker_sql(),
        }
    }

    /// What each session runs first that only reads the history.
    pub fn setup_sql(&self) -> String {
        let mut setup = SETTINGS.to_owned();
        if let Some(schema) = &self.schema {
            let schema = escape_identifier(schema);
            setup.push_str(&format!("; SET search_path = {schema}, public"));
        }
        setup
    }

    /// Takes the advisory lock on a session that [`connect`](Self::connect) has opened for it, and makes sure that the
    /// schema exists. Calls `on_wait` if another session has the lock.
    ///
    /// # Errors
    ///
    /// [`Error::is_timeout`] if others hold the lock for too long; otherwise what is wrong with the session or the
    /// schema, with the next step.
    ///
    /// # Cancel safety
    ///
    /// The lock belongs to the session, and the session to the future: dropping it frees both.
    pub async fn lock(
        &self,
        (client, connection): (Client, Connection),
        on_wait: impl FnOnce(),
    ) -> Result<MigrationLock, Error> {
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                let error = clean_text(&error.to_string());
                tracing::warn!(error, "lost the session of the migration lock");
            }
        });
        // Not there on a Postgres older than what the platform has.
        let _ = client.batch_execute(SETTINGS).await;
        if !try_lock(&client).await? {
            on_wait();
            let waiting = timeout(self.lock_timeout, wait_for_lock(&client));
            waiting.await.map_err(|_| self.gave_up())??;
        }
        if !self.has_schema(&client).await? {
            let create = format!("CREATE SCHEMA {}", self.quoted());
            let created = client.batch_execute(&create).await;
            created.map_err(|error| {
                database_error(format!("cannot create the schema {}", self.quoted()), error)
            })?;
        }
        let (stop, stopped) = oneshot::channel();
        Ok(MigrationLock {
            stop: Some(stop),
            session: Some(tokio::spawn(keep_alive(client, driver, stopped))),
        })
    }

    /// Opens a session past the pooler.
    ///
    /// # Errors
    ///
    /// As [`Lakebase::connect`], and if the schema's name cannot be one.
    ///
    /// # Cancel safety
    ///
    /// As [`Lakebase::connect`].
    pub async fn connect(&self) -> Result<(Client, Connection), Error> {
        if let Some(schema) = &self.schema {
            check_schema("schema", schema)?;
        }
        self.lakebase.connect().await
    }

    /// Whether the schema exists; false only if it is to be created. Postgres would skip one that is missing or may
    /// not be used, and create everything in the next one on the search path.
    ///
    /// # Errors
    ///
    /// The schema is missing and not to be created, or may not be used; with the next step.
    ///
    /// # Cancel safety
    ///
    /// It only reads.
    pub async fn has_schema(&self, client: &Client) -> Result<bool, Error> {
        let Some(schema) = &self.schema else {
            return Ok(true);
        };
        let quoted = self.quoted();
        let query = "SELECT to_regnamespace($1) IS NOT NULL, \
             coalesce(has_schema_privilege(to_regnamespace($1), 'USAGE'), false)";
        let found = client.query_one(query, &[&quoted]).await;
        let found = found.map_err(|error| {
            database_error(format!("cannot look for the schema {quoted}"), error)
        })?;
        match (found.get(0), found.get(1)) {
            (true, true) => Ok(true),
            (true, false) => Err(Error::new(
                Kind::Database,
                format!("no privilege to use the schema {quoted}"),
            )
            .with_sqlstate(Some("42501"))
            .with_hint(format!(
                "Its owner has to GRANT USAGE, CREATE ON SCHEMA {quoted}; or choose a schema of its own (LAKEBASE_SCHEMA)"
            ))),
            (false, _) if self.create_schema => Ok(false),
            (false, _) => Err(missing_schema(schema)),
        }
    }

    fn quoted(&self) -> String {
        escape_identifier(self.schema.as_deref().unwrap_or_default())
    }

    fn gave_up(&self) -> Error {
        let seconds = self.lock_timeout.as_secs_f64();
        Error::new(
            Kind::Timeout,
            format!("another session has held the migration lock for {seconds} s"),
        )
        .with_hint(
            "Another replica migrates, or hangs: SELECT pid, usename, state, query FROM pg_stat_activity JOIN pg_locks USING (pid) WHERE locktype = 'advisory' shows it. Wait longer with `lock_timeout`",
        )
    }
}

/// The configured schema is not there.
pub(crate) fn missing_schema(schema: &str) -> Error {
    let quoted = escape_identifier(schema);
    Error::config(format!("the schema {quoted} does not exist"))
        .with_sqlstate(Some("3F000"))
        .with_hint(format!(
            "Create it as the role that migrates (CREATE SCHEMA {quoted}), or let the migrations do so with `create_schema(true)`"
        ))
}

/// The lock under which replicas take turns. It ends with its session, whatever happens.
#[derive(Debug)]
pub struct MigrationLock {
    stop: Option<oneshot::Sender<()>>,
    /// `None` once it has ended.
    session: Option<JoinHandle<()>>,
}

impl MigrationLock {
    /// Whether its session has ended.
    pub fn is_lost(&self) -> bool {
        self.session.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Runs `work` while the lock is held.
    ///
    /// # Errors
    ///
    /// [`lost`](Self::lost) if the session of the lock ends first.
    ///
    /// # Cancel safety
    ///
    /// As far as `work` is: the lock stays held.
    pub async fn hold<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Error> {
        let Some(session) = &mut self.session else {
            return Err(Self::lost());
        };
        tokio::select! {
            outcome = work => Ok(outcome),
            _ = session => {
                self.session = None;
                Err(Self::lost())
            }
        }
    }

    /// The error for a lock whose session has ended.
    pub fn lost() -> Error {
        Error::new(
            Kind::Network,
            "lost the advisory lock of migrations: its session ended",
        )
    }

    /// Frees the lock, and returns when it is free.
    pub async fn release(mut self) {
        drop(self.stop.take());
        if let Some(session) = self.session.take() {
            let _ = session.await;
        }
    }
}

/// Keeps the session open until `stopped` fires or the session ends.
async fn keep_alive(client: Client, mut driver: JoinHandle<()>, stopped: oneshot::Receiver<()>) {
    let beat = async {
        loop {
            sleep(KEEPALIVE).await;
            // Takes no snapshot, which CREATE INDEX CONCURRENTLY would wait for.
            let _ = client.batch_execute("").await;
        }
    };
    tokio::select! {
        _ = stopped => {}
        () = beat => {}
        _ = &mut driver => return,
    }
    drop(client);
    let _ = driver.await;
}

/// Waiting inside a statement would hold a snapshot, which CREATE INDEX CONCURRENTLY of the one that migrates waits for
/// in turn.
async fn wait_for_lock(client: &Client) -> Result<(), Error> {
    loop {
        sleep(POLL.mul_f64(0.75 + 0.5 * fastrand::f64())).await;
        if try_lock(client).await? {
            return Ok(());
        }
    }
}

/// The second lock tells whether a replica that has ended left a statement that still runs. It is taken for a moment
/// only: sessions that migrate hold it shared.
async fn try_lock(client: &Client) -> Result<bool, Error> {
    Ok(call(client, "pg_try_advisory_lock", MIGRATION_LOCK).await?
        && call(client, "pg_try_advisory_lock", WORK_LOCK).await?
        && call(client, "pg_advisory_unlock", WORK_LOCK).await?)
}

async fn call(client: &Client, function: &str, key: i64) -> Result<bool, Error> {
    let sql = format!("SELECT {function}({key})");
    let row = client.query_one(&sql, &[]).await;
    row.map(|row| row.get(0))
        .map_err(|error| database_error("cannot take the advisory lock of migrations", error))
}
