//! On a borrowed server, a run changes only its own objects, and removes all of them.

#![allow(clippy::expect_used)] // a test fails by panicking

mod support;

use std::time::{Duration, Instant};

use lakebase_local::LocalLakebase;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Vars, as_owner, program, scratch};
use tokio_postgres::{Client, NoTls};

const DATABASE: &str = "databricks_postgres";
const RUN: &str = "lakebase_local_";
const BO: &str = "bo@example.com";
const CREATE_BO: &str = "CREATE EXTENSION IF NOT EXISTS databricks_auth; \
                         SELECT databricks_create_role('bo@example.com', 'USER')";

/// A server that runs already, and its owner's URL.
struct Lender {
    _server: LocalLakebase,
    url: String,
}

impl Lender {
    async fn start() -> Self {
        let server = LocalLakebase::start().await.expect("started");
        // As on most servers, all roles but the superuser need a password.
        let hba = "local all lakebase_admin trust\nlocal all all scram-sha-256\n";
        let socket = std::fs::read_link(server.dir().join(".s.PGSQL.5432")).expect("a link");
        std::fs::write(socket.with_file_name("data/pg_hba.conf"), hba).expect("written");
        let reload = server.sql("SELECT pg_reload_conf()").await;
        reload.expect("reloaded");
        let host = server.dir().display().to_string().replace('/', "%2F");
        Self {
            _server: server,
            url: format!("postgresql://lakebase_admin@{host}/postgres"),
        }
    }

    async fn lend(&self) -> LocalLakebase {
        let builder = LocalLakebase::builder().postgres_url(self.url.clone());
        builder.start().await.expect("started")
    }

    /// A session of the owner.
    async fn session(&self) -> Result<Client, tokio_postgres::Error> {
        let config: tokio_postgres::Config = self.url.parse().expect("a URL");
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    async fn run(&self, sql: &str) {
        let client = self.session().await.expect("a session");
        client.batch_execute(sql).await.expect(sql);
    }

    async fn texts(&self, sql: &str) -> Vec<String> {
        let client = self.session().await.expect("a session");
        let rows = client.query(sql, &[]).await.expect(sql);
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Stored passwords of a role: none or one.
    async fn password(&self, role: &str) -> Vec<String> {
        let sql = "SELECT rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL AND rolname";
        self.texts(&format!("{sql} = '{role}'")).await
    }

    /// Databases and roles of all runs.
    async fn traces(&self) -> Vec<String> {
        let sql = format!(
            "SELECT datname::text FROM pg_database WHERE datname LIKE '{RUN}%' UNION ALL \
             SELECT rolname::text FROM pg_roles \
             WHERE shobj_description(oid, 'pg_authid') LIKE '{RUN}%'"
        );
        self.texts(&sql).await
    }
}

/// The text of a rejected login.
async fn rejection(local: &LocalLakebase, user: &str, password: &str) -> String {
    let outcome = Vars::of(local).log_in(user, password, DATABASE).await;
    let error = outcome.map(drop).expect_err("rejected");
    match error.as_db_error() {
        Some(error) => error.message().to_owned(),
        None => error.to_string(),
    }
}

/// A token for this person, who is known in this workspace.
async fn token(local: &LocalLakebase, user: &str) -> String {
    let pat = local.add_user(user);
    Vars::of(local).database_token(&pat).await
}

#[tokio::test]
async fn a_login_without_a_token_changes_nothing() {
    let lender = Lender::start().await;
    let local = lender.lend().await;
    let token = token(&local, BO).await;
    let owner = as_owner(&local, DATABASE).await;
    owner.batch_execute(CREATE_BO).await.expect("a role");
    // A login that succeeds writes this user into the database.
    local.add_user("late@example.com");
    let database = lender.traces().await.remove(0);
    let late = async || {
        let mut config: tokio_postgres::Config = lender.url.parse().expect("a URL");
        let (client, connection) = config.dbname(&database).connect(NoTls).await.expect("in");
        tokio::spawn(connection);
        let sql = "SELECT count(*) FROM lakebase_local.identity WHERE name = 'late@example.com'";
        let row = client.query_one(sql, &[]).await.expect("an answer");
        row.get::<_, i64>(0)
    };
    for password in ["", "wrong", "e30.e30.x"] {
        rejection(&local, BO, password).await;
        assert_eq!(lender.password(BO).await, [""; 0], "{password:?}");
        assert_eq!(late().await, 0, "{password:?}");
    }
    let vars = Vars::of(&local);
    vars.log_in(BO, &token, DATABASE).await.expect("a login");
    assert_eq!(late().await, 1);
    let password = lender.password(BO).await;
    assert_eq!(password.len(), 1);
    rejection(&local, BO, "wrong").await;
    assert_eq!(lender.password(BO).await, password);
}

#[tokio::test]
async fn a_role_of_the_owner_or_of_another_run_is_rejected_and_unchanged() {
    let lender = Lender::start().await;
    let (local, other) = (lender.lend().await, lender.lend().await);
    lender
        .run(
            "CREATE ROLE \"reports@example.com\" LOGIN PASSWORD 'of the owner'; \
             ALTER ROLE \"reports@example.com\" SET lakebase_local.kind = 'USER'",
        )
        .await;
    other.add_user(BO);
    let owner = as_owner(&other, DATABASE).await;
    owner.batch_execute(CREATE_BO).await.expect("a role");
    for role in ["reports@example.com", BO, "lakebase_admin"] {
        let before = lender.password(role).await;
        let token = token(&local, role).await;
        let text = rejection(&local, role, "wrong").await;
        assert!(!text.contains("this local Lakebase"), "{text}");
        let text = rejection(&local, role, &token).await;
        for part in [role, "not made by this local Lakebase"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(lender.password(role).await, before, "{role}");
    }
    let token = token(&other, BO).await;
    let theirs = Vars::of(&other).log_in(BO, &token, DATABASE).await;
    theirs.expect("the run that made it");
}

#[tokio::test]
async fn a_role_that_was_dropped_and_created_again_logs_in() {
    let lender = Lender::start().await;
    let local = lender.lend().await;
    let token = token(&local, BO).await;
    let owner = as_owner(&local, DATABASE).await;
    for round in 0..2 {
        owner.batch_execute(CREATE_BO).await.expect("a role");
        let vars = Vars::of(&local);
        let logins = (0..5).map(|_| vars.log_in(BO, &token, DATABASE));
        for login in futures_util::future::join_all(logins).await {
            let client = login.unwrap_or_else(|error| panic!("round {round}: {error:?}"));
            client.batch_execute("SELECT 1").await.expect("a session");
        }
        lender.run("DROP ROLE \"bo@example.com\"").await;
    }
}

#[tokio::test]
async fn a_role_that_cannot_be_dropped_is_dropped_by_a_later_run() {
    let lender = Lender::start().await;
    let local = lender.lend().await;
    local.scratch_database().await.expect("a copy");
    let stuck = local.client_id().to_owned();
    lender.run("CREATE DATABASE shop").await;
    let grant = format!("GRANT CONNECT ON DATABASE shop TO \"{stuck}\"");
    lender.run(&grant).await;
    local.stop().await;
    assert_eq!(lender.traces().await, [&*stuck]);

    // The next start works; its warning names the role and the reason.
    let scratch = scratch();
    let output = program(scratch.path())
        .env("LAKEBASE_LOCAL_PG_URL", &lender.url)
        .env("RUST_LOG", "lakebase_local=warn")
        .arg("true")
        .output()
        .expect("run");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    for part in [&*stuck, "privileges for database shop"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(text.matches("objects remain").count(), 1, "{text}");
    assert_eq!(lender.traces().await, [&*stuck]);

    lender.run("DROP DATABASE shop").await;
    lender.lend().await.stop().await;
    assert_eq!(lender.traces().await, [""; 0]);
}

#[tokio::test]
async fn the_cleanup_recognises_databases_by_their_exact_names() {
    let lender = Lender::start().await;
    let local = lender.lend().await;
    let copy = local.scratch_database().await.expect("a copy");
    // A run may be killed before it can add a comment.
    lender
        .run(&format!("COMMENT ON DATABASE {copy} IS NULL"))
        .await;
    let dead = format!("{RUN}{}", "0123456789abcdef".repeat(2));
    lender.run(&format!("CREATE DATABASE {dead}")).await;
    let others = [
        format!("{RUN}notes"),
        format!("{dead}0"),
        format!("{dead}_notes"),
        format!("my_{dead}"),
    ];
    for other in &others {
        lender.run(&format!("CREATE DATABASE {other}")).await;
    }
    lender.lend().await.stop().await;
    let databases = "SELECT datname::text FROM pg_database";
    let left = lender.texts(databases).await;
    assert!(left.contains(&copy), "its run is alive: {left:?}");
    local.stop().await;
    let left = lender.texts(databases).await;
    for name in [&copy, &dead] {
        assert!(!left.contains(name), "{name}: {left:?}");
    }
    for name in &others {
        assert!(left.contains(name), "{name}: {left:?}");
    }
}

#[tokio::test]
async fn a_run_survives_a_restart_of_the_server() {
    let lender = Lender::start().await;
    let local = lender.lend().await;
    // Postgres ends all sessions and restarts when a backend is killed.
    let client = lender.session().await.expect("a session");
    let row = client.query_one("SELECT pg_backend_pid()", &[]).await;
    let pid = row.expect("an answer").get(0);
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("killed");
    let began = Instant::now();
    let lock = "SELECT pid::text FROM pg_locks WHERE locktype = 'advisory'";
    let is_locked = async || {
        let Ok(client) = lender.session().await else {
            return false;
        };
        matches!(client.query(lock, &[]).await, Ok(rows) if rows.len() == 1)
    };
    while !is_locked().await {
        assert!(began.elapsed() < Duration::from_secs(30), "no lock");
    }
    lender.lend().await.stop().await;
    drop(as_owner(&local, DATABASE).await);
    local.stop().await;
    assert_eq!(lender.traces().await, [""; 0]);
    assert_eq!(lender.texts(lock).await, [""; 0]);
}
