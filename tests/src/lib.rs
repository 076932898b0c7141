//! What the tests across the crates share: local Lakebases, handles for them, and waits.

mod app;
mod clock;
mod pace;
#[cfg(doctest)]
mod pages;

use std::io::Write as _;
use std::time::{Duration, SystemTime};

pub use app::{ADAPTERS, Adapter, App, Failure, every_adapter_in_time, through_every_adapter};
pub use clock::TestClock;
pub use pace::{
    SENT_AGAIN, TooSlow, UNDER_WAY, in_time, in_time_blocking, logged_in,
    no_expired_token_was_used, too_slow_unless,
};

use lakebase_core::{Config, Credential, CredentialProvider, Error, Lakebase};
use lakebase_local::{Event, EventKind, LocalLakebase, Login};
use tokio_postgres::Client;

/// Far longer than any wait: a test that waits this long hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a local Lakebase whose tokens are valid for an hour.
pub async fn local() -> LocalLakebase {
    started(LocalLakebase::builder()).await
}

/// Starts a local Lakebase with short-lived tokens.
pub async fn local_with_tokens_of(lifetime: Duration) -> LocalLakebase {
    started(LocalLakebase::builder().token_lifetime(lifetime)).await
}

async fn started(builder: lakebase_local::Builder) -> LocalLakebase {
    match builder.start().await {
        Ok(local) => local,
        Err(error) => panic!("the local Lakebase does not start: {error:?}"),
    }
}

/// The schema of [`local_with_schema`].
pub const SCHEMA: &str = "mine";

/// Starts a local Lakebase with a schema for the service principal, which has no privileges in `public`. Its sessions use
/// that schema by default.
pub async fn local_with_schema() -> LocalLakebase {
    let local = local().await;
    let principal = local.client_id();
    let sql = format!(
        "CREATE SCHEMA {SCHEMA} AUTHORIZATION \"{principal}\"; \
         ALTER ROLE \"{principal}\" SET search_path = {SCHEMA}, public"
    );
    local.sql(&sql).await.expect("a schema");
    local
}

/// Returns whether a table exists, in [`SCHEMA`] unless the name has a schema.
pub async fn has_table(local: &LocalLakebase, table: &str) -> bool {
    let table = match table.contains('.') {
        true => table.to_owned(),
        false => format!("{SCHEMA}.{table}"),
    };
    let sql = format!("SELECT 1 / (to_regclass('{table}') IS NOT NULL)::int");
    local.sql(&sql).await.is_ok()
}

/// Returns a handle with the variables that a program gets.
pub fn lakebase(local: &LocalLakebase) -> Lakebase {
    lakebase_with(local, &[])
}

/// Returns a handle with some variables changed. An empty value unsets one.
pub fn lakebase_with(local: &LocalLakebase, changes: &[(&str, &str)]) -> Lakebase {
    let config = Config::from_vars(vars(local, changes)).expect("a configuration");
    Lakebase::new(config).expect("a handle")
}

/// Returns the variables of a program with some changed.
pub fn vars(local: &LocalLakebase, changes: &[(&str, &str)]) -> Vec<(String, String)> {
    let changes = changes.iter().copied();
    let changes = changes.map(|(name, value)| (name.to_owned(), value.to_owned()));
    local.env().into_iter().chain(changes).collect()
}

/// Returns a handle with a clock that can be set.
pub fn lakebase_on(local: &LocalLakebase, clock: &TestClock) -> Lakebase {
    let config = Config::builder().vars(local.env()).clock(clock.clone());
    Lakebase::new(config.build().expect("a configuration")).expect("a handle")
}

#[derive(Debug)]
struct StaticToken;

impl CredentialProvider for StaticToken {
    async fn credential(&self) -> Result<Credential, Error> {
        let hour = Duration::from_secs(3600);
        Ok(Credential::new("a token", SystemTime::now() + hour))
    }
}

/// Returns a handle without a workspace.
pub fn lakebase_without_workspace() -> Lakebase {
    let config = Config::builder()
        .host("db.example.com")
        .user("app")
        .credential_provider(StaticToken);
    Lakebase::new(config.build().expect("a configuration")).expect("a handle")
}

/// The password of [`native`].
pub const NATIVE_PASSWORD: &str = "a-native-password";

/// The variables of [`native`].
pub const NATIVE_LOGIN: &[(&str, &str)] = &[
    ("LAKEBASE_ENDPOINT", ""),
    ("PGUSER", "native"),
    ("PGPASSWORD", NATIVE_PASSWORD),
];

/// Creates the role `native`, which logs in with a password, and returns a handle for it.
pub async fn native(local: &LocalLakebase, changes: &[(&str, &str)]) -> Lakebase {
    let role = local.create_native_role("native", NATIVE_PASSWORD).await;
    role.expect("a role");
    lakebase_with(local, &[NATIVE_LOGIN, changes].concat())
}

/// Returns a handle for a superuser. Also creates the role `bystander`, which has no privileges.
pub async fn native_superuser(local: &LocalLakebase) -> Lakebase {
    let superuser = native(local, &[]).await;
    let sql = "ALTER ROLE native SUPERUSER; CREATE ROLE bystander";
    local.sql(sql).await.expect("roles");
    superuser
}

/// Adds a service principal without a role. Returns its client id and a handle for it.
pub fn service_principal(local: &LocalLakebase, changes: &[(&str, &str)]) -> (String, Lakebase) {
    let (id, secret) = local.add_service_principal();
    let login = [
        ("DATABRICKS_CLIENT_ID", id.as_str()),
        ("DATABRICKS_CLIENT_SECRET", &secret),
        ("PGUSER", &id),
    ];
    let lakebase = lakebase_with(local, &[&login[..], changes].concat());
    (id, lakebase)
}

/// Logs in and drives the connection on a task.
pub async fn open(lakebase: &Lakebase) -> Result<Client, Error> {
    let (client, connection) = lakebase.connect().await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Logs in; a failure is a panic.
pub async fn session(lakebase: &Lakebase) -> Client {
    soon(open(lakebase)).await.expect("a login")
}

/// Statements that a migration can leave in effect in its session.
pub const LEFT_BEHIND: &[&str] = &[
    "SET search_path TO public",
    "SELECT pg_catalog.set_config('search_path', '', false)",
    "SET ROLE bystander",
    "SET SESSION AUTHORIZATION bystander",
    "SET statement_timeout = '100ms'",
    "SET default_transaction_read_only = on",
    "SET default_tablespace = pg_global",
    "SET standard_conforming_strings = off",
    "SET client_encoding = 'LATIN1'",
    "SET session_replication_role = replica",
    "CREATE TEMP TABLE books (id int)",
    "RESET ALL",
];

/// Panics if a future takes longer than [`PATIENCE`].
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("nothing happened for {PATIENCE:?}"),
    }
}

/// Polls a condition, for changes that are no event of the local Lakebase.
pub async fn until(mut is_met: impl FnMut() -> bool) {
    soon(async {
        while !is_met() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// Waits until no session is open.
pub async fn no_session(local: &LocalLakebase) {
    soon(local.wait_until(|_| local.counters().open_sessions == 0)).await;
}

/// Waits until `count` statements with a text like `pattern` run.
pub async fn statements_run(local: &LocalLakebase, pattern: &str, count: usize) {
    let sql = format!(
        "DO $$ BEGIN WHILE (SELECT count(*) FROM pg_stat_activity WHERE state = 'active' \
         AND query LIKE '{pattern}' AND pid <> pg_backend_pid()) < {count} \
         LOOP PERFORM pg_sleep(0.01); PERFORM pg_stat_clear_snapshot(); END LOOP; END $$"
    );
    soon(local.sql(&sql)).await.expect("they run");
}

/// Waits until every connection of SeaORM's pool is idle: sqlx returns it a moment after its statement.
pub async fn all_idle(db: &sea_orm::DatabaseConnection) {
    let pool = db.get_postgres_connection_pool();
    soon(async {
        while pool.num_idle() < pool.size() as usize {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Takes every idle connection out of SeaORM's pool, so that the next statement logs in.
pub async fn forget_idle(db: &sea_orm::DatabaseConnection) {
    all_idle(db).await;
    while let Some(idle) = db.get_postgres_connection_pool().try_acquire() {
        drop(idle.detach());
    }
}

/// Writes to the terminal. The test harness hides the output of `eprintln` if the test passes.
pub fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Counts the threads of this process that run proxies of synchronous pools.
pub fn proxy_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("readable");
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim() == "lakebase").count()
}

/// Runs a test in its own process, where [`proxy_threads`] counts no threads of other tests. `name` is the path of the test.
pub fn in_own_process(name: &str, test: impl FnOnce()) {
    const IS_ALONE: &str = "LAKEBASE_TESTS_ALONE";
    if std::env::var_os(IS_ALONE).is_some() {
        return test();
    }
    let program = std::env::current_exe().expect("this program");
    let output = std::process::Command::new(program)
        .args(["--exact", name, "--nocapture"])
        .env(IS_ALONE, "1")
        .output()
        .expect("it runs");
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{out}{err}");
    assert!(out.contains("1 passed"), "no such test: {out}");
}

/// The pause between two logins of an application that logs in again and again. Without it, the test would slow down all
/// others.
pub const BETWEEN_LOGINS: Duration = Duration::from_millis(100);

/// A token in the log of the local Lakebase.
#[derive(Clone, Copy, Debug)]
pub struct Minted {
    /// Serial number.
    pub token: u64,
    /// By this machine's clock.
    pub minted_at: SystemTime,
    /// By the platform's clock.
    pub issued_at: SystemTime,
    /// By the platform's clock.
    pub expires_at: SystemTime,
}

impl Minted {
    /// From issue to expiry.
    pub fn lifetime(&self) -> Duration {
        let lifetime = self.expires_at.duration_since(self.issued_at);
        lifetime.unwrap_or_default()
    }
}

/// Returns the tokens minted so far.
pub fn minted(events: &[Event]) -> Vec<Minted> {
    let minted = events.iter().filter_map(|event| match event.kind {
        EventKind::Minted {
            token,
            issued_at,
            expires_at,
            ..
        } => Some(Minted {
            token,
            minted_at: event.at,
            issued_at,
            expires_at,
        }),
        _ => None,
    });
    minted.collect()
}

/// Returns the accepted logins with their times.
pub fn logins(events: &[Event]) -> Vec<(SystemTime, Login)> {
    let logins = events.iter().filter_map(|event| match &event.kind {
        EventKind::LoggedIn(login) => Some((event.at, login.clone())),
        _ => None,
    });
    logins.collect()
}
