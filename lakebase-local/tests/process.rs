//! The program: variables, exit status, and nothing left behind however it ends.

#![allow(clippy::expect_used)] // a test fails by panicking

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A folder of our own for temporary files, so that what stays behind is seen.
fn scratch() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;

    let dir = tempfile::tempdir().expect("a folder");
    // When we are root, Postgres runs as somebody else, who must get in.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).expect("opened");
    dir
}

fn program(scratch: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lakebase-local"));
    command.env("TMPDIR", scratch);
    command
}

/// Waits until the folder is empty; the supervisors need a moment after their program is gone.
fn assert_becomes_empty(scratch: &Path) {
    let names = || {
        let entries = std::fs::read_dir(scratch).expect("the folder");
        entries
            .map(|entry| entry.expect("an entry").file_name())
            .collect::<Vec<_>>()
    };
    for _ in 0..500 {
        if names().is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("left behind: {:?}", names());
}

/// Starts it without a command and waits until it serves.
fn serving(scratch: &Path) -> Child {
    let mut child = program(scratch)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    let mut lines = BufReader::new(child.stdout.as_mut().expect("piped")).lines();
    let found = lines.any(|line| {
        line.expect("a line")
            .starts_with("export NODE_EXTRA_CA_CERTS=")
    });
    assert!(found, "it ended before it served");
    child
}

fn send(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).expect("a pid");
    kill(Pid::from_raw(pid), signal).expect("sent");
}

#[test]
fn a_program_runs_with_the_variables_set_and_its_exit_status_is_passed_on() {
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
    assert_eq!(status.code(), Some(128 + 15), "as a shell would say");
    assert_becomes_empty(scratch.path());
}

#[test]
fn it_runs_within_itself_and_whatever_the_developers_shell_has_set() {
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
fn mistakes_on_the_command_line_are_told_before_anything_starts() {
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
fn the_text_of_help_fits_a_terminal() {
    let output = program(Path::new("/tmp"))
        .arg("--help")
        .output()
        .expect("run");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success() && text.contains("--token-lifetime"));
    assert!(text.lines().all(|line| line.len() <= 100), "{text}");
}

#[test]
fn ctrl_c_and_a_polite_end_leave_nothing_behind() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let scratch = scratch();
        let mut child = serving(scratch.path());
        send(&child, signal);
        assert!(child.wait().expect("ended").success(), "{signal}");
        let left = std::fs::read_dir(scratch.path())
            .expect("the folder")
            .count();
        assert_eq!(left, 0, "{signal}: gone before it ended");
    }
}

#[test]
fn a_kill_leaves_nothing_behind_either() {
    let scratch = scratch();
    let mut child = serving(scratch.path());
    send(&child, Signal::SIGKILL);
    child.wait().expect("ended");
    assert_becomes_empty(scratch.path());
}

#[test]
fn a_kill_in_the_middle_of_the_start_leaves_nothing_behind_either() {
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
async fn what_a_killed_run_left_on_a_borrowed_server_is_swept_by_the_next() {
    use lakebase_local::LocalLakebase;
    use tokio_postgres::NoTls;

    let server = LocalLakebase::start().await.expect("started");
    let folder = server.ca_file().parent().expect("a folder").to_owned();
    let host = folder.display().to_string().replace('/', "%2F");
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
            let mut child = command
                .env("LAKEBASE_LOCAL_PG_URL", url)
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("started");
            let mut lines = BufReader::new(child.stdout.as_mut().expect("piped")).lines();
            assert!(lines.any(|line| line.expect("a line").starts_with("export NODE_")));
            child
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
fn a_program_can_be_made_to_sign_in_in_another_way() {
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
        // Its service is at an address that no variable changes: on a real one, it would be asked.
        (["--sign-in", "azure-msi"], ["azure-msi", "in Rust only"]),
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
