//! What the behaviour tests share: a started local Lakebase and handles on it.

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

/// Far more than anything here takes; a test that waits this long hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A local Lakebase whose tokens live for an hour.
///
/// # Panics
///
/// If it cannot start.
pub async fn local() -> LocalLakebase {
    started(LocalLakebase::builder()).await
}

/// The schema of [`local_with_schema`].
pub const SCHEMA: &str = "mine";

/// The same where the service principal has a schema of its own, which its sessions find first: it may
/// create nothing in `public`.
///
/// # Panics
///
/// If it cannot start.
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

/// A local Lakebase with short-lived tokens.
///
/// # Panics
///
/// If it cannot start.
pub async fn local_with_tokens_of(lifetime: Duration) -> LocalLakebase {
    started(LocalLakebase::builder().token_lifetime(lifetime)).await
}

async fn started(builder: lakebase_local::Builder) -> LocalLakebase {
    match builder.start().await {
        Ok(local) => local,
        Err(error) => panic!("the local Lakebase does not start: {error:?}"),
    }
}

/// A handle with exactly the variables that a program would get.
///
/// # Panics
///
/// If the variables do not make a configuration.
pub fn lakebase(local: &LocalLakebase) -> Lakebase {
    lakebase_with(local, &[])
}

/// The same with some variables changed; an empty value unsets one.
///
/// # Panics
///
/// If the variables do not make a configuration.
pub fn lakebase_with(local: &LocalLakebase, changes: &[(&str, &str)]) -> Lakebase {
    let config = Config::from_vars(vars(local, changes)).expect("a configuration");
    Lakebase::new(config).expect("a handle")
}

/// The same as [`lakebase`] on a clock that can be moved.
///
/// # Panics
///
/// If the variables do not make a configuration.
pub fn lakebase_on(local: &LocalLakebase, clock: &TestClock) -> Lakebase {
    let config = Config::builder().vars(local.env()).clock(clock.clone());
    Lakebase::new(config.build().expect("a configuration")).expect("a handle")
}

#[derive(Debug)]
struct MadeUp;

impl CredentialProvider for MadeUp {
    async fn credential(&self) -> Result<Credential, Error> {
        let hour = Duration::from_secs(3600);
        Ok(Credential::new("a token", SystemTime::now() + hour))
    }
}

/// A handle without a workspace, which makes its tokens up.
///
/// # Panics
///
/// If that is no configuration.
pub fn lakebase_without_workspace() -> Lakebase {
    let config = Config::builder()
        .host("db.example.com")
        .user("app")
        .credential_provider(MadeUp);
    Lakebase::new(config.build().expect("a configuration")).expect("a handle")
}

/// The variables of a local Lakebase with some changed.
pub fn vars(local: &LocalLakebase, changes: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut vars = local.env();
    vars.extend(
        changes
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned())),
    );
    vars
}

/// What a migration may leave in its session, other than what it is for.
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

/// A role that may do everything, set aside by one that may do nothing.
///
/// # Panics
///
/// If the roles cannot be made.
pub async fn native_superuser(local: &LocalLakebase) -> Lakebase {
    let made = local.create_native_role("everything", "a-password").await;
    made.expect("a role");
    let sql = "ALTER ROLE everything SUPERUSER; CREATE ROLE bystander";
    local.sql(sql).await.expect("roles");
    let changes = [
        ("LAKEBASE_ENDPOINT", ""),
        ("PGUSER", "everything"),
        ("PGPASSWORD", "a-password"),
    ];
    lakebase_with(local, &changes)
}

/// Gives up on a future that hangs.
///
/// # Panics
///
/// If it does.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("nothing happened for {PATIENCE:?}"),
    }
}

/// Writes to the terminal, where the output of a passing test through `eprintln` does not go.
pub fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Waits until every connection of SeaORM's pool is idle: it goes back a moment after its statement.
///
/// # Panics
///
/// If one stays busy.
pub async fn all_idle(db: &sea_orm::DatabaseConnection) {
    let pool = db.get_postgres_connection_pool();
    soon(async {
        while pool.num_idle() < pool.size() as usize {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Takes every idle connection out of SeaORM's pool, so that the next statement has to log in.
///
/// # Panics
///
/// If one stays busy.
pub async fn forget_idle(db: &sea_orm::DatabaseConnection) {
    all_idle(db).await;
    while let Some(idle) = db.get_postgres_connection_pool().try_acquire() {
        drop(idle.detach());
    }
}

/// Waits until Postgres runs `count` statements whose text is like `pattern`.
///
/// # Panics
///
/// If they do not run.
pub async fn statements_run(local: &LocalLakebase, pattern: &str, count: usize) {
    let sql = format!(
        "DO $$ BEGIN WHILE (SELECT count(*) FROM pg_stat_activity WHERE state = 'active' \
         AND query LIKE '{pattern}' AND pid <> pg_backend_pid()) < {count} \
         LOOP PERFORM pg_sleep(0.01); PERFORM pg_stat_clear_snapshot(); END LOOP; END $$"
    );
    soon(local.sql(&sql)).await.expect("they run");
}

/// Counts the threads of this process that serve proxies of synchronous pools.
///
/// # Panics
///
/// If the system does not tell.
pub fn proxy_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("readable");
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim() == "lakebase").count()
}

/// Runs a test in a process of its own, where [`proxy_threads`] counts no other test's. `name` is the path of the test.
///
/// # Panics
///
/// If it fails there.
pub fn in_own_process(name: &str, test: impl FnOnce()) {
    const IS_ALONE: &str = "LAKEBASE_TESTS_ALONE";
    if std::env::var_os(IS_ALONE).is_some() {
        return test();
    }
    let program = std::env::current_exe().expect("our own program");
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

/// How long an application that keeps logging in waits between two logins: without a pause, it would take the
/// machine from all other tests.
pub const BETWEEN_LOGINS: Duration = Duration::from_millis(50);

/// A minted token as the log knows it.
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
    /// How long it is valid.
    pub fn lifetime(&self) -> Duration {
        let lifetime = self.expires_at.duration_since(self.issued_at);
        lifetime.unwrap_or_default()
    }
}

/// The tokens minted so far.
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

/// The logins accepted so far, with their moment.
pub fn logins(events: &[Event]) -> Vec<(SystemTime, Login)> {
    let logins = events.iter().filter_map(|event| match &event.kind {
        EventKind::LoggedIn(login) => Some((event.at, login.clone())),
        _ => None,
    });
    logins.collect()
}
