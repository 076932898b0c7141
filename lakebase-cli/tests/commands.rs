//! `exec`, `url`, `token`, `grant` and `local`, as a shell sees them.

#![allow(clippy::expect_used)]

mod support;

use std::process::Stdio;
use std::time::Duration;

use lakebase_local::{Call, Fault, LocalLakebase, SignIn};
use nix::sys::signal::{Signal, kill};
use support::{has_psql, lakebase, local, pid_of, run, soon};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

/// A home folder, in which the cache of roots is.
struct Home(tempfile::TempDir);

fn home() -> Home {
    Home(tempfile::tempdir().expect("a folder"))
}

impl Home {
    fn path(&self) -> String {
        self.0.path().display().to_string()
    }
}

/// The variables that a child of `lakebase exec` has, by name.
async fn child_env(
    local: &LocalLakebase,
    changes: &[(&str, &str)],
    args: &[&str],
) -> Vec<(String, String)> {
    let args = args.iter().copied().chain(["exec", "--", "env", "-0"]);
    let ran = run(args, &local.env(), changes).await;
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    ran.out
        .split('\0')
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn get<'a>(vars: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let (_, value) = vars.iter().find(|(known, _)| known == name)?;
    Some(value)
}

#[tokio::test]
async fn a_command_finds_the_proxy_in_its_environment_and_no_token_anywhere() {
    let local = local().await;
    let home = home();
    let changes = [
        ("HOME", home.path()),
        ("PGSERVICE", "elsewhere".to_owned()),
        ("PGCHANNELBINDING", "require".to_owned()),
        ("PGTARGETSESSIONATTRS", "standby".to_owned()),
        ("PGHOSTADDR", "127.0.0.1".to_owned()),
        ("PGOPTIONS", "-c geqo=off".to_owned()),
        ("DATABASE_URL", "postgres://elsewhere".to_owned()),
    ];
    let changes = changes
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    let vars = child_env(&local, &changes, &["--schema", "My App"]).await;
    assert_eq!(local.counters().minted, 1, "the check of the schema");
    for (name, expected) in [
        ("PGPORT", "5432"),
        ("PGDATABASE", "databricks_postgres"),
        ("PGUSER", local.client_id()),
        ("PGSSLMODE", "disable"),
        ("PGOPTIONS", "-c geqo=off"),
        ("DATABASE_SCHEMA", "My App"),
        ("LAKEBASE_SCHEMA", "My App"),
    ] {
        assert_eq!(get(&vars, name), Some(expected), "{name}");
    }
    for name in [
        "PGPASSWORD",
        "PGSERVICE",
        "PGCHANNELBINDING",
        "PGTARGETSESSIONATTRS",
        "PGHOSTADDR",
    ] {
        assert_eq!(get(&vars, name), None, "{name}");
    }
    let folder = get(&vars, "PGHOST").expect("a folder");
    assert!(!std::path::Path::new(folder).exists(), "it is gone by now");
    let url = get(&vars, "DATABASE_URL").expect("a URL");
    assert!(url.contains("sslmode=disable"), "{url}");
    let secrets = local.secrets();
    let minted = secrets.iter().filter(|secret| secret.starts_with("eyJ"));
    for secret in minted {
        assert!(!vars.iter().any(|(_, value)| value.contains(secret)));
    }
}

#[tokio::test]
async fn global_options_before_exec_apply_to_its_command() {
    let local = local().await;
    let home = home();
    let profile = "[second]\nscopes = all-apis\n";
    std::fs::write(home.0.path().join(".databrickscfg"), profile).expect("written");
    let (path, port) = (home.path(), local.postgres_port());
    let url = format!(
        "postgresql://localhost:{port}/databricks_postgres?schema=other&application_name=x"
    );
    let changes = [("HOME", path.as_str()), ("LAKEBASE_PG_URL", &url)];
    let args = ["--profile", "second", "--timeout", "2.5", "--schema", "app"];
    let vars = child_env(&local, &changes, &args).await;
    for (name, expected) in [
        ("DATABRICKS_CONFIG_PROFILE", "second"),
        // Longer than the proxy's own.
        ("PGCONNECT_TIMEOUT", "4"),
        ("LAKEBASE_SCHEMA", "app"),
        ("PGAPPNAME", "x"),
    ] {
        assert_eq!(get(&vars, name), Some(expected), "{name}");
    }
    // For programs that log in for themselves.
    let own = get(&vars, "LAKEBASE_PG_URL").expect("a URL");
    let place = format!(
        "{}@localhost:{port}/databricks_postgres?",
        local.client_id()
    );
    assert!(own.contains(&place) && !own.contains("other"), "{own}");
    let url = format!("{url}&connect_timeout=1.5");
    let vars = child_env(&local, &[changes[0], ("LAKEBASE_PG_URL", &url)], &[]).await;
    assert_eq!(get(&vars, "PGCONNECT_TIMEOUT"), Some("3"));
}

#[tokio::test]
async fn both_the_variables_and_the_url_log_in_through_libpq() {
    if !has_psql() {
        return;
    }
    let local = local().await;
    local
        .sql("CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO PUBLIC")
        .await
        .expect("a schema");
    let home = home();
    let path = home.path();
    let changes = [("HOME", path.as_str()), ("LAKEBASE_SCHEMA", "app")];
    let sql = "psql -XAtc 'SELECT session_user, current_schema'";
    let by_url = format!("{sql} \"$DATABASE_URL\"");
    let expected = format!("{}|app\n", local.client_id());
    for script in [
        sql.to_owned(),
        format!("env -u PGHOST -u PGUSER -u PGPORT -u PGDATABASE {by_url}"),
    ] {
        let ran = run(["exec", "sh", "-c", &script], &local.env(), &changes).await;
        assert_eq!(
            (ran.out.as_str(), ran.code),
            (expected.as_str(), Some(0)),
            "{script}: {}",
            ran.err
        );
    }
    // Without our file, the roots of the system apply, which do not contain the local authority.
    let changes = [("HOME", path.as_str()), ("PGSSLROOTCERT", "")];
    let ran = run(
        ["exec", "psql", "-XAtc", "SELECT 1"],
        &local.env(),
        &changes,
    )
    .await;
    assert!(
        ran.code == Some(2) && ran.err.contains("no trusted TLS connection"),
        "{}",
        ran.err
    );
}

#[tokio::test]
async fn exec_exits_with_the_status_or_signal_of_its_command() {
    let local = local().await;
    let home = home();
    let path = home.path();
    let changes = [("HOME", path.as_str())];
    for (args, code) in [
        (&["exec", "--", "sh", "-c", "exit 7"][..], 7),
        (&["exec", "no-such-program"], 127),
        (&["exec", "/"], 126),
        (&["exec"], 2),
        (&["exec", "--databse", "x", "true"], 2),
        (&["exec", ""], 2),
        (&["--endpoint", "nonsense", "exec", "true"], 2),
    ] {
        let ran = run(args.iter().copied(), &local.env(), &changes).await;
        assert_eq!(ran.code, Some(code), "{args:?}: {}", ran.err);
    }
    let mut child = lakebase(
        ["exec", "sh", "-c", "echo up; read _"],
        &local.env(),
        &changes,
    )
    .stdin(Stdio::piped())
    .stdout(Stdio::piped())
    .spawn()
    .expect("it runs");
    let mut line = String::new();
    let out = child.stdout.as_mut().expect("output");
    BufReader::new(out)
        .read_line(&mut line)
        .await
        .expect("a line");
    kill(pid_of(&child), Signal::SIGTERM).expect("a signal");
    // Waiting closes it otherwise, and then the command ends by itself.
    let _input = child.stdin.take();
    // As shells report a command that a signal has ended.
    assert_eq!(child.wait().await.expect("an end").code(), Some(128 + 15));
}

#[tokio::test]
async fn every_signal_that_a_program_may_handle_reaches_the_command() {
    let local = local().await;
    let home = home();
    let path = home.path();
    // Waits for the end of its input, as signals do not end `read` in all shells.
    let script = "for name in HUP INT QUIT USR1 USR2 WINCH; do trap \"echo $name\" $name; done; \
                  trap 'exit 5' TERM; exec 3<&0; cat <&3 >/dev/null 2>&1 & echo up; until wait $!; do :; done";
    let args = ["exec", "sh", "-c", script];
    let mut child = lakebase(args, &local.env(), &[("HOME", &path)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let pid = pid_of(&child);
    // Waiting closes it otherwise, and then the command ends by itself.
    let _input = child.stdin.take();
    let mut lines = BufReader::new(child.stdout.take().expect("output")).lines();
    let mut next = async || soon(lines.next_line()).await.expect("text");
    assert_eq!(next().await.as_deref(), Some("up"));
    // A shell cannot handle what was ignored when it started.
    let hangup = match ignores_sighup() {
        true => (Signal::SIGINT, "INT"),
        false => (Signal::SIGHUP, "HUP"),
    };
    for (signal, name) in [
        (Signal::SIGUSR1, "USR1"),
        (Signal::SIGUSR2, "USR2"),
        (Signal::SIGINT, "INT"),
        hangup,
        (Signal::SIGQUIT, "QUIT"),
        (Signal::SIGWINCH, "WINCH"),
        (Signal::SIGUSR1, "USR1"),
    ] {
        kill(pid, signal).expect("a signal");
        tokio::select! {
            line = next() => assert_eq!(line.as_deref(), Some(name)),
            status = child.wait() => panic!("{signal} has ended exec: {status:?}"),
        }
    }
    kill(pid, Signal::SIGTERM).expect("a signal");
    assert_eq!(soon(child.wait()).await.expect("an end").code(), Some(5));
}

/// Returns whether these tests run under nohup.
fn ignores_sighup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.map(|mask| u64::from_str_radix(mask.trim(), 16).expect("a mask"));
    ignored.is_some_and(|mask| mask & 1 << (Signal::SIGHUP as i32 - 1) != 0)
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_command_under_nohup_survives_the_end_of_the_terminal() {
    let local = local().await;
    let home = home();
    // As nohup does. Waits for the end of its input, as signals do not end `read` in all shells.
    let command = "trap 'echo USR1' USR1; exec 3<&0; cat <&3 >/dev/null 2>&1 & echo up; \
                   until wait $!; do :; done; exit 5";
    let script = "trap '' HUP; exec \"$0\" exec sh -c \"$1\"";
    let program = env!("CARGO_BIN_EXE_lakebase");
    let mut child = tokio::process::Command::new("sh")
        .args(["-c", script, program, command])
        .env("HOME", home.path())
        .envs(local.env())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it runs");
    let pid = pid_of(&child);
    let mut lines = BufReader::new(child.stdout.take().expect("output")).lines();
    let mut next = async || soon(lines.next_line()).await.expect("text");
    assert_eq!(next().await.as_deref(), Some("up"));
    // A SIGHUP would be forwarded before the second signal.
    kill(pid, Signal::SIGHUP).expect("a signal");
    kill(pid, Signal::SIGUSR1).expect("a signal");
    assert_eq!(next().await.as_deref(), Some("USR1"));
    // Waiting closes its input, which ends the command.
    assert_eq!(soon(child.wait()).await.expect("an end").code(), Some(5));
}

#[tokio::test]
async fn a_signal_before_the_command_runs_ends_exec_and_leaves_nothing_behind() {
    let local = local().await;
    // The check of the schema, which comes before the command, waits for it.
    local.fail(Call::Credential, Fault::Silence);
    for (args, signal, code) in [
        (&["exec"][..], Signal::SIGTERM, 128 + 15),
        (&["exec"], Signal::SIGINT, 128 + 2),
        (&["proxy", "--"], Signal::SIGTERM, 128 + 15),
        (&["proxy", "--"], Signal::SIGINT, 128 + 2),
    ] {
        let home = home();
        let path = home.path();
        let changes = [
            ("HOME", &*path),
            ("TMPDIR", &path),
            ("LAKEBASE_SCHEMA", "app"),
        ];
        let args = [args, &["echo", "it runs"]].concat();
        let before = local.counters().credential_calls;
        let child = lakebase(&args, &local.env(), &changes)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        soon(local.wait_until(|_| local.counters().credential_calls > before)).await;
        let left = || std::fs::read_dir(home.0.path()).expect("a folder").count();
        assert_eq!(left(), 1, "{args:?}: the socket's folder");
        kill(pid_of(&child), signal).expect("a signal");
        let output = soon(child.wait_with_output()).await.expect("an end");
        assert_eq!(output.status.code(), Some(code), "{args:?} {signal}");
        let (out, errors) = (output.stdout.is_empty(), output.stderr.is_empty());
        assert!(out && errors, "{args:?}: {output:?}");
        assert_eq!(left(), 0, "{args:?} {signal}");
    }
}

#[tokio::test]
async fn a_command_gets_the_reason_of_a_failed_login() {
    let local = local().await;
    let home = home();
    let path = home.path();
    let changes = [
        ("HOME", path.as_str()),
        ("DATABRICKS_CLIENT_SECRET", "dose-wrong"),
    ];
    let ran = run(
        ["exec", "psql", "-XAtc", "SELECT 1"],
        &local.env(),
        &changes,
    )
    .await;
    assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""));
    assert!(ran.err.contains("secret"), "{}", ran.err);
    assert!(!ran.err.contains("dose-wrong"));
}

#[tokio::test]
async fn a_url_is_masked_without_with_password() {
    let local = local().await;
    let masked = run(["url"], &local.env(), &[]).await;
    assert!(masked.out.contains(":***@localhost:"), "{}", masked.out);
    assert_eq!(local.counters().minted, 0, "for nothing");
    let open = run(["url", "--with-password"], &local.env(), &[]).await;
    assert!(
        local
            .secrets()
            .iter()
            .any(|secret| open.out.contains(secret))
    );
}

#[tokio::test]
async fn a_url_has_the_looked_up_user_encoded() {
    let local = local().await;
    let vars = local.env_for(SignIn::Pat);
    let ran = run(["--database", "my db", "url"], &vars, &[]).await;
    let user = local.user().replace('@', "%40");
    let expected = format!(
        "postgresql://{user}:***@localhost:{}/my%20db?sslmode=verify-full\n",
        local.postgres_port()
    );
    assert_eq!(ran.out, expected);
}

#[tokio::test]
async fn token_prints_the_token_alone_or_as_json_with_expiry_and_user() {
    let local = local().await;
    let ran = run(["token"], &local.env(), &[]).await;
    let token = ran.out.trim_end();
    assert!(local.secrets().contains(&token.to_owned()) && ran.err.is_empty());
    let ran = run(["token", "--json"], &local.env(), &[]).await;
    for word in ["\"token\": \"ey", "\"expires_at\": \"2", local.client_id()] {
        assert!(ran.out.contains(word), "{word}");
    }
    let native = [("LAKEBASE_ENDPOINT", ""), ("PGPASSWORD", "secret")];
    let ran = run(["token"], &local.env(), &native).await;
    assert!(ran.code == Some(2) && ran.err.contains("PGPASSWORD") && !ran.err.contains("secret"));
}

#[tokio::test]
async fn a_dry_run_prints_the_sql_that_a_grant_runs() {
    let local = local().await;
    let (id, secret) = local.add_service_principal();
    let owner = local.env_for(SignIn::Pat);
    let args = [
        "--schema",
        "app",
        "grant",
        &id,
        "--create",
        "service-principal",
        "--access",
        "write",
    ];
    let dry: Vec<&str> = args.iter().copied().chain(["--dry-run"]).collect();
    let before = local.counters();
    let shown = run(&dry, &owner, &[]).await;
    assert!(
        shown.out.starts_with("BEGIN;\n") && shown.out.contains("\nCREATE EXTENSION"),
        "{}{}",
        shown.out,
        shown.err
    );
    assert_eq!(
        (local.counters().requests, local.counters().logins),
        (before.requests, before.logins)
    );

    let ran = run(args, &owner, &[]).await;
    assert!(
        ran.code == Some(1) && ran.err.contains("schema first"),
        "{}",
        ran.err
    );
    let sql = format!(
        "CREATE SCHEMA app AUTHORIZATION \"{0}\"; CREATE TABLE app.orders (id SERIAL); ALTER TABLE app.orders OWNER TO \"{0}\"",
        local.user()
    );
    local.sql(&sql).await.expect("a schema");
    for _ in 0..2 {
        let ran = run(args, &owner, &[]).await;
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        assert!(shown.out.ends_with(&format!("{}COMMIT;\n", ran.out)));
    }
    let newcomer = [
        ("DATABRICKS_CLIENT_ID", id.as_str()),
        ("DATABRICKS_CLIENT_SECRET", &secret),
        ("PGUSER", ""),
    ];
    let ran = run(["--schema", "app", "doctor"], &local.env(), &newcomer).await;
    assert_eq!(ran.code, Some(0), "{}", ran.out);
}

#[tokio::test]
async fn wrong_arguments_exit_with_2() {
    let local = local().await;
    for (args, word) in [
        (
            &["grant", "x", "--access", "everything"][..],
            "possible values",
        ),
        (&["grant", "x", "--access", "read"], "--schema"),
        (&["grant", "x"], "nothing to do"),
        (&["grant", "x", "--made-by", "y"], "--access"),
        (&["--timeout", "soon", "url"], "not a number"),
        (&["--timeout=-1", "url"], "--timeout"),
        (&["frobnicate"], "frobnicate"),
        (&["--schema", "app", "local", "true"], "no global options"),
        (
            &["--database", "postgresql://me:sekrit@h/db", "url"],
            "contains a URL",
        ),
    ] {
        let ran = run(args.iter().copied(), &local.env(), &[]).await;
        assert_eq!(ran.code, Some(2), "{args:?}: {}", ran.err);
        assert!(ran.err.contains(word), "{args:?}: {}", ran.err);
        assert!(!ran.err.contains("sekrit"), "{}", ran.err);
    }
}

#[tokio::test]
async fn the_option_endpoint_replaces_the_host_of_the_environment() {
    let local = local().await;
    let home = home();
    let path = home.path();
    let changes = [("HOME", path.as_str()), ("LAKEBASE_ENDPOINT", "")];
    // The environment knows a host only, as where an application runs.
    let endpoint = local.endpoint();
    let url = ("LAKEBASE_PG_URL", "postgresql://production.example.com/db");
    let host = ("PGHOST", "production.example.com");
    let other = [host, url, changes[0], changes[1]];
    let ran = run(["--endpoint", &endpoint, "url"], &local.env(), &other).await;
    assert!(ran.out.contains("@localhost:"), "{}{}", ran.out, ran.err);
    // The same applies to a program that it runs, and the crates mint for themselves: with a schema, with another endpoint,
    // and behind a TCP listener with its password.
    let program = env!("CARGO_BIN_EXE_lakebase");
    local
        .sql("CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO PUBLIC")
        .await
        .expect("a schema");
    let below: [&[&str]; 3] = [
        &["--schema", "app", "exec", program, "doctor", "--json"],
        &["exec", program, "--endpoint", &endpoint, "doctor", "--json"],
        &[
            "proxy",
            "--listen",
            "127.0.0.1:0",
            "--",
            program,
            "doctor",
            "--json",
        ],
    ];
    for args in below {
        let ran = run(args.iter().copied(), &local.env(), &[("HOME", &path)]).await;
        assert!(
            ran.code == Some(0) && ran.out.contains("\"oauth-m2m, as"),
            "{args:?}: {}{}",
            ran.out,
            ran.err
        );
    }
    let args = ["--endpoint", &endpoint, "exec", program, "doctor", "--json"];
    let ran = run(args, &local.env(), &other).await;
    assert!(
        ran.code == Some(0) && ran.out.contains("\"oauth-m2m, as"),
        "{}{}",
        ran.out,
        ran.err
    );
}

#[tokio::test]
async fn names_with_percent_signs_log_in_through_the_url() {
    if !has_psql() {
        return;
    }
    let local = local().await;
    local
        .create_native_role("per%41cent @/", "p%41 w:@/")
        .await
        .expect("a role");
    let home = home();
    let path = home.path();
    let changes = [
        ("HOME", path.as_str()),
        ("LAKEBASE_ENDPOINT", ""),
        ("PGUSER", "per%41cent @/"),
        ("PGPASSWORD", "p%41 w:@/"),
    ];
    let script = "env -i PATH=\"$PATH\" psql \"$DATABASE_URL\" -XAtc 'SELECT session_user'";
    let args = ["exec", "sh", "-c", script];
    let ran = run(args, &local.env(), &changes).await;
    assert_eq!(ran.out, "per%41cent @/\n", "{}", ran.err);
    // A program that logs in for itself has the password, too.
    for args in [
        &["exec", env!("CARGO_BIN_EXE_lakebase"), "doctor", "--json"][..],
        &[
            "proxy",
            "--listen",
            "127.0.0.1:0",
            "--",
            env!("CARGO_BIN_EXE_lakebase"),
            "doctor",
            "--json",
        ],
    ] {
        let ran = run(args.iter().copied(), &local.env(), &changes).await;
        assert_eq!(ran.code, Some(0), "{args:?}: {}{}", ran.out, ran.err);
    }
    let url = run(["url", "--with-password"], &local.env(), &changes)
        .await
        .out;
    let psql = tokio::process::Command::new("psql")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").expect("a path"))
        .args([url.trim_end(), "-XAtc", "SELECT 1"])
        .stdin(Stdio::null())
        .output()
        .await
        .expect("it runs");
    assert!(
        psql.status.success(),
        "{}",
        String::from_utf8_lossy(&psql.stderr)
    );
}

#[tokio::test]
async fn a_cache_folder_that_other_users_can_write_to_is_an_error() {
    use std::os::unix::fs::PermissionsExt;

    let local = local().await;
    let home = home();
    let path = home.path();
    let folder = home.0.path().join(".cache/lakebase");
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o777)).expect("set");
    let changes = [("HOME", path.as_str()), ("PGSSLROOTCERT", "")];
    let args = ["url", "--with-password"];
    let ran = run(args, &local.env(), &changes).await;
    assert!(
        ran.code == Some(1) && ran.err.contains("other users can write"),
        "{}",
        ran.err
    );
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).expect("set");
    let ran = run(args, &local.env(), &changes).await;
    assert!(
        ran.code == Some(0) && ran.out.contains("sslrootcert="),
        "{}",
        ran.err
    );
}

#[tokio::test]
async fn a_local_lakebase_runs_around_a_command() {
    let path = std::env::var("PATH").expect("a path");
    let program = env!("CARGO_BIN_EXE_lakebase");
    let home = home();
    let vars = [("HOME".to_owned(), home.path()), ("PATH".to_owned(), path)];
    let args = [
        "local",
        "--token-lifetime",
        "60",
        program,
        "doctor",
        "--json",
    ];
    let ran = run(args, &vars, &[]).await;
    assert!(
        ran.code == Some(0) && ran.out.contains("\"ok\": true"),
        "{}{}",
        ran.out,
        ran.err
    );
    let ran = run(["local", program, "local", "ctl", "status"], &vars, &[]).await;
    assert!(
        ran.code == Some(0) && ran.out.contains("open sessions"),
        "{}{}",
        ran.out,
        ran.err
    );
    let help = run(["local", "--help"], &vars, &[]).await;
    assert!(
        help.out.contains("lakebase local [OPTIONS] CMD"),
        "{}",
        help.out
    );
}

#[tokio::test]
async fn a_closed_pipe_is_no_failure() {
    let local = local().await;
    let mut child = lakebase(["doctor"], &local.env(), &[])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    drop(child.stdout.take());
    let mut errors = String::new();
    let mut stderr = child.stderr.take().expect("errors");
    stderr.read_to_string(&mut errors).await.expect("text");
    let status = tokio::time::timeout(Duration::from_secs(20), child.wait()).await;
    assert!(
        status.expect("an end").expect("a status").success(),
        "{errors}"
    );
    assert_eq!(errors, "");
}
