//! `lakebase proxy` and `lakebase exec` as programs, with tokens of three seconds and the clients that people use.

#![cfg(unix)]
#![allow(clippy::expect_used)]

mod http;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use lakebase_local::LocalLakebase;
use nix::sys::signal::{Signal, kill, killpg};
use serde_json::Value;
use support::{has_psql, lakebase, pid_of, run, skipped, soon};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio_postgres::{Client, NoTls};

const TOKEN_LIFETIME: Duration = Duration::from_secs(3);
/// Longer than three tokens.
const LOAD_SECONDS: &str = "10";
const SCHEMA: &str = "mine";

async fn local() -> LocalLakebase {
    let builder = LocalLakebase::builder().token_lifetime(TOKEN_LIFETIME);
    builder.start().await.expect("a local Lakebase")
}

/// The service principal owns a schema: it may create nothing in `public`.
async fn local_with_schema() -> LocalLakebase {
    let local = local().await;
    let sql = format!(
        "CREATE SCHEMA {SCHEMA} AUTHORIZATION \"{}\"",
        local.client_id()
    );
    local.sql(&sql).await.expect("a schema");
    local
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn path_of(folder: &TempDir) -> String {
    folder.path().display().to_string()
}

fn socket_in(folder: &TempDir) -> PathBuf {
    folder.path().join(".s.PGSQL.5432")
}

/// A running `lakebase proxy`.
struct Running {
    child: Child,
    out: BufReader<ChildStdout>,
    _home: TempDir,
}

impl Running {
    async fn start(local: &LocalLakebase, args: &[&str], changes: &[(&str, &str)]) -> Self {
        let home = folder();
        let home_path = path_of(&home);
        let changes = [changes, &[("HOME", home_path.as_str())]].concat();
        let args = ["proxy"].iter().chain(args);
        let mut child = lakebase(args, &local.env(), &changes)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        let out = BufReader::new(child.stdout.take().expect("output"));
        Self {
            child,
            out,
            _home: home,
        }
    }

    /// The next line of its output. An empty one is the end.
    async fn line(&mut self) -> String {
        let mut line = String::new();
        soon(self.out.read_line(&mut line)).await.expect("text");
        if line.is_empty() {
            let mut stderr = self.child.stderr.take().expect("errors");
            let mut text = String::new();
            soon(stderr.read_to_string(&mut text)).await.expect("text");
            panic!("it ended: {text}");
        }
        line.trim_end().to_owned()
    }

    /// Its listeners, from the line that `--json` prints.
    async fn listeners(&mut self) -> Vec<Value> {
        let line: Value = serde_json::from_str(&self.line().await).expect("JSON");
        line["listeners"].as_array().expect("an array").clone()
    }

    fn signal(&self, signal: Signal) {
        kill(pid_of(&self.child), signal).expect("a signal");
    }

    /// The exit code, and what it printed on standard error. Standard output is empty from here on.
    async fn end(mut self) -> (Option<i32>, String) {
        let mut out = String::new();
        let reading = self.out.read_to_string(&mut out);
        let (output, read) =
            soon(async { tokio::join!(self.child.wait_with_output(), reading) }).await;
        read.expect("text");
        assert_eq!(out, "");
        let output = output.expect("an end");
        (output.status.code(), text(&output.stderr))
    }

    async fn terminate(self) {
        self.signal(Signal::SIGTERM);
        let (code, errors) = self.end().await;
        assert_eq!(code, Some(0), "{errors}");
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn url_of(listener: &Value) -> &str {
    listener["url"].as_str().expect("a URL")
}

async fn client(url: &str) -> Client {
    let (client, connection) = soon(tokio_postgres::connect(url, NoTls))
        .await
        .expect("a login");
    tokio::spawn(connection);
    client
}

async fn ask(client: &Client, sql: &str) -> String {
    soon(client.query_one(sql, &[]))
        .await
        .expect("a row")
        .get(0)
}

async fn closed(client: &Client) {
    soon(async {
        while !client.is_closed() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn exists(path: &Path) {
    soon(async {
        while !path.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// psql with this URL, with `PATH` and no other variable of this process.
fn psql(url: &str) -> Command {
    let mut psql = Command::new("psql");
    psql.args(["-XAtq", url])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").expect("a path"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    psql
}

async fn output_of(command: &mut Command) -> Output {
    soon(command.output()).await.expect("it runs")
}

/// The output of psql for this statement.
async fn queried(url: &str, sql: &str) -> String {
    let output = output_of(psql(url).args(["-c", sql])).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).trim_end().to_owned()
}

/// The error of psql.
async fn rejected(psql: &mut Command) -> String {
    let output = output_of(psql.args(["-w", "-c", "SELECT 1"])).await;
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stdout));
    text(&output.stderr)
}

#[tokio::test]
async fn each_listener_prints_its_url_and_serves_its_database() {
    if !has_psql() {
        return;
    }
    let local = local().await;
    local
        .sql("CREATE DATABASE other")
        .await
        .expect("a database");
    let args = ["--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0=other"];
    let sql = "SELECT current_database() || ' ' || session_user";
    let expected = ["databricks_postgres", "other"];

    let mut proxy = Running::start(&local, &args, &[]).await;
    for database in expected {
        let url = proxy.line().await;
        assert!(url.starts_with("postgres"), "{url}");
        let answer = format!("{database} {}", local.client_id());
        assert_eq!(queried(&url, sql).await, answer);
    }
    proxy.terminate().await;

    let args = [&args[..], &["--json"]].concat();
    let mut proxy = Running::start(&local, &args, &[]).await;
    let listeners = proxy.listeners().await;
    assert_eq!(listeners.len(), expected.len());
    for (listener, database) in listeners.iter().zip(expected) {
        assert_eq!(listener["database"], database);
        assert_eq!(listener["host"], "127.0.0.1");
        let port = listener["port"].as_u64().expect("a port");
        let password = listener["password"].as_str().expect("a password");
        let url = url_of(listener);
        assert!(url.contains(&format!(":{password}@127.0.0.1:{port}/{database}")));
        let answer = format!("{database} {}", local.client_id());
        assert_eq!(queried(url, sql).await, answer);
    }
    proxy.terminate().await;
}

#[tokio::test]
async fn a_tcp_listener_rejects_a_wrong_password_and_accepts_a_chosen_one() {
    if !has_psql() {
        return;
    }
    let local = local().await;
    let args = ["--listen", "127.0.0.1:0", "--json"];
    let mut proxy = Running::start(&local, &args, &[]).await;
    let listeners = proxy.listeners().await;
    let password = listeners[0]["password"].as_str().expect("a password");
    let url = url_of(&listeners[0]);
    let wrong = url.replace(password, "guess");
    let error = rejected(&mut psql(&wrong)).await;
    assert!(error.contains("wrong password"), "{error}");
    let none = url.replace(&format!(":{password}"), "");
    let error = rejected(&mut psql(&none)).await;
    assert!(error.contains("no password supplied"), "{error}");
    proxy.terminate().await;

    let chosen = "a-chosen-password";
    let mut proxy = Running::start(&local, &args, &[("LAKEBASE_PROXY_PASSWORD", chosen)]).await;
    let listeners = proxy.listeners().await;
    assert_eq!(listeners[0]["password"], chosen);
    let url = url_of(&listeners[0]);
    assert_eq!(queried(url, "SELECT 1").await, "1", "{url}");
    proxy.terminate().await;
}

#[tokio::test]
async fn an_empty_password_is_an_error() {
    let local = local().await;
    let args = ["proxy", "--listen", "127.0.0.1:0"];
    let changes = [("LAKEBASE_PROXY_PASSWORD", "")];
    let mut command = lakebase(args, &local.env(), &[]);
    let output = output_of(command.envs(changes)).await;
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("--password"), "{errors}");
}

#[tokio::test]
async fn trusted_local_users_need_no_password_and_other_machines_are_never_trusted() {
    if !has_psql() {
        return;
    }
    let local = local().await;
    let args = ["--trust-local-users", "--json", "--listen"];
    let on_loopback = [&args[..], &["127.0.0.1:0"]].concat();
    let mut proxy = Running::start(&local, &on_loopback, &[]).await;
    let listeners = proxy.listeners().await;
    assert_eq!(listeners[0]["password"], Value::Null);
    let sql = "SELECT session_user";
    let url = url_of(&listeners[0]);
    assert_eq!(queried(url, sql).await, local.client_id());
    proxy.terminate().await;

    let everywhere = [&["proxy"], &args[..], &["0.0.0.0:0"]].concat();
    let ran = run(&everywhere, &local.env(), &[]).await;
    assert_eq!(ran.code, Some(2), "{}", ran.err);
    assert!(ran.err.contains("other machines"), "{}", ran.err);
}

#[tokio::test]
async fn a_socket_serves_this_user_and_rejects_another_one() {
    if !has_psql() {
        return;
    }
    let local = local().await;
    let folder = folder();
    // Everybody may enter: the socket itself has to reject.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("set");
    let args = ["--json", "--socket", &path_of(&folder)];
    let mut proxy = Running::start(&local, &args, &[]).await;
    let listeners = proxy.listeners().await;
    assert_eq!(listeners[0]["host"], path_of(&folder));
    assert_eq!(listeners[0]["password"], Value::Null);
    let url = url_of(&listeners[0]);
    assert_eq!(queried(url, "SELECT 1").await, "1");
    if nix::unistd::geteuid().is_root() {
        let error = rejected(psql(url).uid(65534)).await;
        assert!(error.contains("Permission denied"), "{error}");
        // With the socket open to all, the user that the kernel reports counts.
        fs::set_permissions(socket_in(&folder), fs::Permissions::from_mode(0o777)).expect("set");
        let error = rejected(psql(url).uid(65534)).await;
        assert!(error.contains("the user that started it"), "{error}");
    } else {
        skipped("not root: no other user to connect as");
    }
    proxy.terminate().await;
    assert!(folder.path().exists() && !socket_in(&folder).exists());
}

#[tokio::test]
async fn a_relative_socket_folder_gets_a_url_that_works_from_any_folder() {
    if !has_psql() {
        return;
    }
    let local = local().await;
    let folder = folder();
    fs::create_dir(folder.path().join("run")).expect("a folder");
    let vars = local.env();
    let mut child = lakebase(["proxy", "--socket", "run"], &vars, &[])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut url = String::new();
    let out = child.stdout.as_mut().expect("output");
    soon(BufReader::new(out).read_line(&mut url))
        .await
        .expect("a line");
    assert_eq!(queried(url.trim_end(), "SELECT 1").await, "1", "{url}");
    kill(pid_of(&child), Signal::SIGTERM).expect("a signal");
    let status = soon(child.wait()).await.expect("an end");
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn sigterm_closes_idle_sessions_at_once_and_lets_transactions_finish() {
    let local = local().await;
    let folder = folder();
    let args = ["--json", "--grace", "50", "--socket", &path_of(&folder)];
    let mut proxy = Running::start(&local, &args, &[]).await;
    let listeners = proxy.listeners().await;
    let url = url_of(&listeners[0]);
    let (idle, busy) = (client(url).await, client(url).await);
    ask(&idle, "SELECT 'idle'").await;
    busy.batch_execute("BEGIN").await.expect("begun");
    proxy.signal(Signal::SIGTERM);
    closed(&idle).await;
    assert!(!socket_in(&folder).exists());
    let late = soon(tokio_postgres::connect(url, NoTls)).await.map(drop);
    late.expect_err("no new sessions");
    assert_eq!(ask(&busy, "SELECT 'answer'").await, "answer");
    busy.batch_execute("COMMIT").await.expect("committed");
    closed(&busy).await;
    let (code, errors) = proxy.end().await;
    assert_eq!((code, errors.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn closing_the_terminal_ends_the_proxy_and_removes_its_socket() {
    let local = local().await;
    let folder = folder();
    let args = ["--socket", &path_of(&folder)];
    let mut proxy = Running::start(&local, &args, &[]).await;
    proxy.line().await;
    proxy.signal(Signal::SIGHUP);
    let (code, errors) = proxy.end().await;
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    assert!(!socket_in(&folder).exists());
}

#[tokio::test]
async fn the_grace_or_a_second_signal_ends_open_transactions() {
    let local = local().await;
    for (grace, signals, limit) in [("1", 1, 20), ("600", 2, 20)] {
        let folder = folder();
        let args = ["--json", "--grace", grace, "--socket", &path_of(&folder)];
        let mut proxy = Running::start(&local, &args, &[]).await;
        let listeners = proxy.listeners().await;
        let url = url_of(&listeners[0]);
        let (idle, stuck) = (client(url).await, client(url).await);
        stuck.batch_execute("BEGIN").await.expect("begun");
        let began = Instant::now();
        proxy.signal(Signal::SIGTERM);
        // Two signals at once count as one.
        closed(&idle).await;
        assert!(!stuck.is_closed());
        for _ in 1..signals {
            proxy.signal(Signal::SIGINT);
        }
        let (code, errors) = proxy.end().await;
        assert_eq!((code, errors.as_str()), (Some(0), ""));
        assert!(began.elapsed() < Duration::from_secs(limit), "{grace}");
        closed(&stuck).await;
        assert!(!socket_in(&folder).exists());
    }
}

#[tokio::test]
async fn the_ready_file_exists_from_the_first_login_to_the_end_of_the_proxy() {
    let local = local().await;
    local.set_api_down(true);
    let folder = folder();
    let ready = folder.path().join("ready");
    // Left by a run that was killed.
    fs::write(&ready, "").expect("a file");
    let args = [
        "--timeout",
        "1",
        "--socket",
        &path_of(&folder),
        "--ready-file",
        &ready.display().to_string(),
    ];
    let mut proxy = Running::start(&local, &args, &[]).await;
    proxy.line().await;
    let mut errors = BufReader::new(proxy.child.stderr.take().expect("errors"));
    let mut line = String::new();
    soon(errors.read_line(&mut line)).await.expect("text");
    assert!(line.contains("not ready"), "{line}");
    assert!(!ready.exists());
    assert_eq!(local.counters().logins, 0);
    local.set_api_down(false);
    exists(&ready).await;
    assert_eq!(local.counters().logins, 1);
    proxy.terminate().await;
    assert!(!ready.exists() && !socket_in(&folder).exists());
}

#[tokio::test]
async fn the_ready_file_waits_for_the_database_of_every_listener() {
    let local = local().await;
    let folder = folder();
    let ready = folder.path().join("ready");
    let file = ready.display().to_string();
    for listens in [
        ["127.0.0.1:0", "127.0.0.1:0=other"],
        ["127.0.0.1:0=other", "127.0.0.1:0"],
    ] {
        let args = ["--listen", listens[0], "--listen", listens[1]];
        let args = [&args[..], &["--ready-file", &file, "--json"]].concat();
        let mut proxy = Running::start(&local, &args, &[]).await;
        assert_eq!(proxy.listeners().await.len(), 2);
        let mut errors = BufReader::new(proxy.child.stderr.take().expect("errors"));
        let mut line = String::new();
        tokio::select! {
            read = soon(errors.read_line(&mut line)) => drop(read.expect("text")),
            () = exists(&ready) => panic!("ready for one of {listens:?}"),
        }
        assert!(
            line.contains("not ready") && line.contains("other"),
            "{line}"
        );
        assert!(!ready.exists());
        let create = "CREATE DATABASE other";
        local.sql(create).await.expect("a database");
        exists(&ready).await;
        proxy.terminate().await;
        let drop = "DROP DATABASE other WITH (FORCE)";
        local.sql(drop).await.expect("dropped");
    }
}

#[tokio::test]
async fn a_command_of_a_proxy_gets_its_environment_and_sets_the_exit_status() {
    let local = local().await;
    let home = folder();
    let home = path_of(&home);
    let changes = [("HOME", home.as_str()), ("PGSERVICE", "elsewhere")];
    let with =
        |command: &[&'static str]| [&["proxy", "--listen", "127.0.0.1:0", "--"], command].concat();
    let ran = run(with(&["env", "-0"]), &local.env(), &changes).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let get = |wanted: &str| {
        let mut vars = ran.out.split('\0').filter_map(|var| var.split_once('='));
        vars.find(|(name, _)| *name == wanted)
            .map(|(_, value)| value)
    };
    for (name, expected) in [
        ("PGHOST", "127.0.0.1"),
        ("PGDATABASE", "databricks_postgres"),
        ("PGUSER", local.client_id()),
        ("PGSSLMODE", "disable"),
    ] {
        assert_eq!(get(name), Some(expected), "{name}");
    }
    let (port, password) = (get("PGPORT"), get("PGPASSWORD"));
    let (port, password) = (port.expect("a port"), password.expect("a password"));
    let url = get("DATABASE_URL").expect("a URL");
    let place = format!(":{password}@127.0.0.1:{port}/databricks_postgres");
    assert!(url.contains(&place), "{url}");
    assert_eq!(get("PGSERVICE"), None);
    for secret in local.secrets().iter().filter(|it| it.starts_with("eyJ")) {
        assert!(!ran.out.contains(secret));
    }

    for (command, code) in [
        (&["sh", "-c", "exit 7"][..], 7),
        (&["sh", "-c", "kill -KILL $$"], 128 + 9),
        (&["no-such-program"], 127),
        (&["/"], 126),
    ] {
        let ran = run(with(command), &local.env(), &changes).await;
        assert_eq!(ran.code, Some(code), "{command:?}: {}", ran.err);
    }
    if has_psql() {
        let sql = "SELECT session_user";
        let ran = run(with(&["psql", "-XAtwc", sql]), &local.env(), &changes).await;
        let expected = format!("{}\n", local.client_id());
        assert_eq!((ran.code, ran.out), (Some(0), expected), "{}", ran.err);
    }
}

#[tokio::test]
async fn sigterm_reaches_the_command_of_a_proxy() {
    let local = local().await;
    let script = "trap 'exit 5' TERM; echo up; while :; do read _ || :; done";
    let args = ["--listen", "127.0.0.1:0", "--", "sh", "-c", script];
    let mut proxy = Running::start(&local, &args, &[]).await;
    assert_eq!(proxy.line().await, "up");
    proxy.signal(Signal::SIGTERM);
    let (code, errors) = proxy.end().await;
    assert_eq!((code, errors.as_str()), (Some(5), ""));
}

#[tokio::test]
async fn transactions_of_other_programs_finish_after_sigterm_has_ended_the_command() {
    let local = local().await;
    let folder = folder();
    let script = "trap 'echo down; exit 5' TERM; echo up; while :; do read _ || :; done";
    let socket = path_of(&folder);
    let args = [
        "--grace", "50", "--socket", &socket, "--", "sh", "-c", script,
    ];
    let mut proxy = Running::start(&local, &args, &[]).await;
    assert_eq!(proxy.line().await, "up");
    let url = format!("host={socket} user=any sslmode=disable");
    let (idle, busy) = (client(&url).await, client(&url).await);
    busy.batch_execute("BEGIN").await.expect("begun");
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.line().await, "down");
    closed(&idle).await;
    busy.batch_execute("COMMIT").await.expect("committed");
    let (code, errors) = proxy.end().await;
    assert_eq!((code, errors.as_str()), (Some(5), ""));
}

/// A proxy on a socket, and its URL.
async fn on_a_socket(local: &LocalLakebase, folder: &TempDir) -> (Running, String) {
    let args = ["--json", "--socket", &path_of(folder)];
    let mut proxy = Running::start(local, &args, &[("LAKEBASE_SCHEMA", SCHEMA)]).await;
    let listeners = proxy.listeners().await;
    let url = url_of(&listeners[0]).to_owned();
    (proxy, url)
}

#[tokio::test]
async fn psql_copies_a_file_in_and_out() {
    if !has_psql() {
        return;
    }
    let local = local_with_schema().await;
    let folder = folder();
    let (proxy, url) = on_a_socket(&local, &folder).await;
    let (input, back) = (folder.path().join("in"), folder.path().join("out"));
    let rows: String = (0..100_000).map(|n| format!("{n}\trow {n}\n")).collect();
    fs::write(&input, &rows).expect("written");
    let script = format!(
        "CREATE TABLE lines (n int8, line text);\n\
         \\copy lines FROM '{}'\n\
         \\copy (SELECT * FROM lines ORDER BY n) TO '{}'\n",
        input.display(),
        back.display()
    );
    let file = folder.path().join("script.sql");
    fs::write(&file, script).expect("written");
    let script = file.display().to_string();
    let output = output_of(psql(&url).args(["-v", "ON_ERROR_STOP=1", "-f", &script])).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(fs::read_to_string(&back).expect("text") == rows);
    proxy.terminate().await;
}

#[tokio::test]
async fn psql_receives_the_notifications_of_another_session() {
    if !has_psql() {
        return;
    }
    let local = local_with_schema().await;
    let folder = folder();
    let (proxy, url) = on_a_socket(&local, &folder).await;
    let mut listening = psql(&url).stdin(Stdio::piped()).spawn().expect("psql runs");
    let mut input = listening.stdin.take().expect("input");
    let mut lines = BufReader::new(listening.stdout.take().expect("output")).lines();
    let listen = b"LISTEN news;\nSELECT 'listens';\n";
    input.write_all(listen).await.expect("written");
    let line = soon(lines.next_line()).await.expect("text");
    assert_eq!(line.as_deref(), Some("listens"));
    queried(&url, "NOTIFY news, 'now'").await;
    // psql prints notifications after a statement.
    let notification = loop {
        input.write_all(b"SELECT 1;\n").await.expect("written");
        let line = soon(lines.next_line()).await.expect("text");
        let line = line.expect("no end");
        if line != "1" {
            break line;
        }
    };
    assert!(
        notification.contains("\"news\" with payload \"now\""),
        "{notification}"
    );
    drop(input);
    let status = soon(listening.wait()).await.expect("an end");
    assert!(status.success());
    proxy.terminate().await;
}

const SLEEP: &str = "SELECT pg_sleep(60)";

/// Until Postgres runs the statement that a test cancels.
async fn sleeping(local: &LocalLakebase) {
    let sql = format!(
        "DO $$ BEGIN
             WHILE NOT EXISTS (SELECT FROM pg_stat_activity WHERE state = 'active' AND query = '{SLEEP}') LOOP
                 PERFORM pg_stat_clear_snapshot();
             END LOOP;
         END $$"
    );
    soon(local.sql(&sql)).await.expect("an answer");
}

#[tokio::test]
async fn ctrl_c_in_psql_cancels_the_statement() {
    if !has_psql() {
        return;
    }
    let local = local_with_schema().await;
    let folder = folder();
    let (proxy, url) = on_a_socket(&local, &folder).await;
    let arguments = ["-v", "VERBOSITY=verbose", "-c", SLEEP];
    let child = psql(&url).args(arguments).spawn().expect("psql runs");
    sleeping(&local).await;
    kill(pid_of(&child), Signal::SIGINT).expect("a signal");
    let output = soon(child.wait_with_output()).await.expect("an end");
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("57014"), "{errors}");
    proxy.terminate().await;
}

#[tokio::test]
async fn ctrl_c_in_a_terminal_cancels_the_statement_and_does_not_end_exec() {
    if !has_psql() {
        return;
    }
    let local = local_with_schema().await;
    let home = folder();
    // A terminal sends the signal to all processes of the foreground's group.
    let script = format!("trap : INT; psql -XAtc '{SLEEP}'; psql -XAtc 'SELECT 7'");
    let changes = [("HOME", &*path_of(&home))];
    let child = lakebase(["exec", "sh", "-c", &script], &local.env(), &changes)
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    sleeping(&local).await;
    killpg(pid_of(&child), Signal::SIGINT).expect("a signal");
    let output = soon(child.wait_with_output()).await.expect("an end");
    let errors = text(&output.stderr);
    assert_eq!(text(&output.stdout), "7\n", "{errors}");
    assert_eq!(output.status.code(), Some(0), "{errors}");
    assert!(errors.contains("user request"), "{errors}");
}

/// Where pgbench is, if it is installed.
fn pgbench() -> Option<PathBuf> {
    let asked = std::process::Command::new("pg_config")
        .arg("--bindir")
        .output();
    let folder = asked.ok().map(|output| text(&output.stdout));
    let found = folder.map(|folder| Path::new(folder.trim_end()).join("pgbench"));
    let found = found.filter(|path| path.exists());
    if found.is_none() {
        skipped("pgbench is not installed");
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn pgbench_runs_for_longer_than_three_tokens_in_every_mode() {
    let Some(pgbench) = pgbench() else {
        return;
    };
    let local = local_with_schema().await;
    let home = folder();
    let home = path_of(&home);
    let program = pgbench.display().to_string();
    let changes = [("HOME", home.as_str()), ("LAKEBASE_SCHEMA", SCHEMA)];
    let vars = local.env();
    let ran = run(["exec", &program, "-i", "-q"], &vars, &changes).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let modes: [&[&str]; 4] = [
        &["-M", "simple"],
        &["-M", "extended"],
        &["-M", "prepared"],
        // A new connection, and so a login, for each transaction.
        &["-C"],
    ];
    let before = local.counters();
    let runs = modes.map(|mode| {
        let load = ["-n", "-c", "2", "-T", LOAD_SECONDS];
        let args = [&["exec", &program], &load[..], mode].concat();
        let (vars, changes) = (&vars, &changes);
        async move { (mode, run(args, vars, changes).await) }
    });
    for (mode, ran) in soon(futures_util::future::join_all(runs)).await {
        assert_eq!(ran.code, Some(0), "{mode:?}: {}", ran.err);
        assert!(ran.out.contains("tps = "), "{mode:?}: {}", ran.out);
        assert!(!ran.err.contains("error"), "{mode:?}: {}", ran.err);
    }
    let after = local.counters();
    assert!(after.logins - before.logins > 20, "{after:?}");
    assert!(after.minted - before.minted > 3, "{after:?}");
}
