//! The program: variables, exit status, and nothing left behind however it ends.

#![allow(clippy::expect_used)] // a test fails by panicking

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use support::{assert_becomes_empty, program, scratch, send, serving};

#[test]
fn a_program_gets_the_variables_and_sets_the_exit_status() {
    let scratch = scratch();
    let script = r#"test -n "$LAKEBASE_ENDPOINT" && test -r "$PGSSLROOTCERT" && exit "$1""#;
    for (argument, expected) in [("0", 0), ("7", 7)] {
        let status = program(scratch.path())
            .args(["--token-lifetime", "5", "sh", "-c", script, "sh", argument])
            .status()
            .expect("run");
        assert_eq!(status.code(), Some(expected));
    }
    let status = program(scratch.path())
        .args(["sh", "-c", "kill -TERM $$"])
        .status()
        .expect("run");
    assert_eq!(status.code(), Some(128 + 15), "as shells report it");
    assert_becomes_empty(scratch.path());
}

#[test]
fn variables_of_the_shell_do_not_reach_the_program() {
    let scratch = scratch();
    let script = r#"test -z "$PGPASSWORD$DATABRICKS_TOKEN$LAKEBASE_PG_URL$PGHOSTADDR""#;
    let status = program(scratch.path())
        .envs([
            ("PGPASSWORD", "x"),
            ("DATABRICKS_TOKEN", "x"),
            ("PGHOSTADDR", "10.0.0.1"),
        ])
        .envs([
            ("LAKEBASE_PG_URL", "x"),
            ("PGPORT", "7777"),
            ("PGDATA", "/nowhere"),
        ])
        .arg(env!("CARGO_BIN_EXE_lakebase-local"))
        .args(["sh", "-c", script])
        .status()
        .expect("run");
    assert_eq!(status.code(), Some(0));
    assert_becomes_empty(scratch.path());
}

#[test]
fn wrong_arguments_are_errors_and_leave_nothing_behind() {
    let scratch = scratch();
    for (arguments, expected) in [
        (&["--token-lifetime", "soon"][..], "soon"),
        (&["--token-lifetime", "0.5"], "at least 1 s"),
        (&["--no-such-option"], "--no-such-option"),
        (
            &["--postgres-bin", "/nowhere"],
            "/nowhere holds no `initdb`",
        ),
        (&["/no/such/program"], "cannot run /no/such/program"),
        (
            &["--api-port", "80000"],
            "--api-port: \"80000\" is not a port",
        ),
    ] {
        let output = program(scratch.path())
            .args(arguments)
            .output()
            .expect("run");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && text.contains(expected),
            "{arguments:?}: {text}"
        );
    }
    assert_becomes_empty(scratch.path());
}

#[test]
fn the_help_fits_a_narrow_terminal() {
    let output = program(Path::new("/tmp"))
        .arg("--help")
        .output()
        .expect("run");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success() && text.contains("--token-lifetime"));
    assert!(text.lines().all(|line| line.len() <= 60), "{text}");
}

#[test]
fn signals_end_it_and_leave_nothing_behind() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let scratch = scratch();
        let mut child = serving(&mut program(scratch.path())).0;
        send(&child, signal);
        assert!(child.wait().expect("ended").success(), "{signal}");
        let left = std::fs::read_dir(scratch.path())
            .expect("the folder")
            .count();
        assert_eq!(left, 0, "{signal}: gone before it ended");
    }
}

#[test]
fn a_kill_leaves_nothing_behind() {
    let scratch = scratch();
    let mut child = serving(&mut program(scratch.path())).0;
    send(&child, Signal::SIGKILL);
    child.wait().expect("ended");
    assert_becomes_empty(scratch.path());
}

#[test]
fn a_kill_during_the_start_leaves_nothing_behind() {
    let scratch = scratch();
    let mut child = program(scratch.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("started");
    // As soon as there is something to leave behind.
    while std::fs::read_dir(scratch.path())
        .expect("the folder")
        .next()
        .is_none()
    {
        std::thread::yield_now();
    }
    send(&child, Signal::SIGKILL);
    child.wait().expect("ended");
    assert_becomes_empty(scratch.path());
}

#[tokio::test]
async fn the_next_run_removes_the_objects_of_a_killed_one_from_a_borrowed_server() {
    use lakebase_local::LocalLakebase;
    use tokio_postgres::NoTls;

    let server = LocalLakebase::start().await.expect("started");
    let host = server.dir().display().to_string().replace('/', "%2F");
    let url = format!("postgresql://lakebase_admin@{host}/postgres");
    let ours = async || {
        let config: tokio_postgres::Config = url.parse().expect("a URL");
        let (client, connection) = config.connect(NoTls).await.expect("a session");
        tokio::spawn(connection);
        let sql = "SELECT datname::text FROM pg_database WHERE datname LIKE 'lakebase_local_%' \
                   UNION ALL SELECT rolname::text FROM pg_roles \
                   WHERE shobj_description(oid, 'pg_authid') LIKE 'lakebase_local_%'";
        client.query(sql, &[]).await.expect("an answer").len()
    };
    let scratch = scratch();
    let borrowing = || {
        let url = url.clone();
        let scratch = scratch.path().to_owned();
        tokio::task::spawn_blocking(move || {
            let mut command = program(&scratch);
            serving(command.env("LAKEBASE_LOCAL_PG_URL", url)).0
        })
    };
    let mut first = borrowing().await.expect("no panic");
    let mut second = borrowing().await.expect("no panic");
    assert_eq!(
        ours().await,
        6,
        "two databases with two roles each: the living are left alone"
    );
    send(&first, Signal::SIGKILL);
    first.wait().expect("ended");
    // The server notices the end of a client that was killed in its own time.
    for _ in 0..500 {
        let mut third = borrowing().await.expect("no panic");
        send(&third, Signal::SIGTERM);
        assert!(
            tokio::task::spawn_blocking(move || third.wait())
                .await
                .expect("no panic")
                .expect("ended")
                .success()
        );
        if ours().await == 3 {
            break;
        }
    }
    assert_eq!(ours().await, 3, "the second one's");
    send(&second, Signal::SIGTERM);
    assert!(
        tokio::task::spawn_blocking(move || second.wait())
            .await
            .expect("no panic")
            .expect("ended")
            .success()
    );
    assert_eq!(ours().await, 0);
    assert_becomes_empty(scratch.path());
}

#[test]
fn the_option_sign_in_chooses_the_strategy_of_the_program() {
    let scratch = scratch();
    let script = "databricks auth token --host \"$DATABRICKS_HOST\"; echo \"${PGUSER:-none}\"";
    let output = program(scratch.path())
        .args(["--sign-in", "databricks-cli", "sh", "-c", script])
        .env("PGUSER", "in-the-way")
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("\"access_token\""), "{output:?}");
    assert!(text.trim_end().ends_with("none"), "{output:?}");

    for (args, words) in [
        (["--sign-in", "magic"], ["magic", "azure-msi"]),
        // No variable changes the address of its service.
        (["--sign-in", "azure-msi"], ["azure-msi", "only from Rust"]),
        (["--sign-in", "azure-cli"], ["azure-cli", "needs a command"]),
        (["--token-lifetime", "abc"], ["--token-lifetime", "abc"]),
    ] {
        let output = program(scratch.path()).args(args).output();
        let output = output.expect("it runs");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
    assert_becomes_empty(scratch.path());
}

#[test]
fn without_a_temporary_folder_nothing_is_removed_and_the_error_names_it() {
    let here = scratch();
    std::fs::write(here.path().join("work"), "kept").expect("a file");
    // Without a Postgres as well: no folder of programs is to be seen.
    let hidden = "mount -t tmpfs none /usr/lib/postgresql && exec \"$0\"";
    let can_hide = Path::new("/usr/lib/postgresql").is_dir()
        && Command::new("unshare")
            .args(["--mount", "sh", "-c", hidden, "true"])
            .status()
            .is_ok_and(|status| status.success());
    let mut ways = vec![Command::new(env!("CARGO_BIN_EXE_lakebase-local"))];
    if can_hide {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", hidden]);
        command.arg(env!("CARGO_BIN_EXE_lakebase-local"));
        ways.push(command);
    } else {
        support::tell("SKIPPED without a Postgres: it cannot be hidden here");
    }
    for mut way in ways {
        let output = way
            .env("TMPDIR", "/nonexistent")
            .current_dir(here.path())
            .output()
            .expect("run");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(
            text.contains("cannot make a folder in /nonexistent"),
            "{text}"
        );
        let left = std::fs::read_to_string(here.path().join("work"));
        assert_eq!(left.expect("the file"), "kept");
    }
}

#[test]
fn programs_of_the_working_folder_are_not_run() {
    let here = scratch();
    let bin = here.path().join("bin");
    std::fs::create_dir(&bin).expect("a folder");
    let program_file = bin.join("pg_config");
    std::fs::write(&program_file, "#!/bin/sh\necho ran >ran\n").expect("a program");
    std::fs::set_permissions(&program_file, std::fs::Permissions::from_mode(0o755)).expect("set");
    let path = std::env::var("PATH").expect("a path");
    let scratch = scratch();
    let status = program(scratch.path())
        .env("PATH", format!("bin:{path}"))
        .current_dir(here.path())
        .arg("true")
        .status()
        .expect("run");
    assert!(status.success());
    assert!(!here.path().join("ran").exists() && !Path::new("/ran").exists());
    assert_becomes_empty(scratch.path());
}
