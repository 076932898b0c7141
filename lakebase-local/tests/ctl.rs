//! `lakebase-local ctl` controls a running one from outside.

#![allow(clippy::expect_used)] // a test fails by panicking

mod support;

use std::path::Path;
use std::process::{Child, Command, Output};

use nix::sys::signal::Signal;
use support::{Vars, assert_becomes_empty, http, program, scratch, send, serving, sqlstate};
use tempfile::TempDir;
use tokio_postgres::Client;

const DATABASE: &str = "databricks_postgres";

struct Running {
    scratch: TempDir,
    child: Child,
    vars: Vars,
}

impl Running {
    fn start() -> Self {
        let scratch = scratch();
        let (child, vars) = serving(&mut program(scratch.path()));
        Self {
            scratch,
            child,
            vars,
        }
    }

    fn command(&self) -> Command {
        let mut command = program(self.scratch.path());
        let dir = self.vars.get("LAKEBASE_LOCAL_DIR");
        command.env("LAKEBASE_LOCAL_DIR", dir).arg("ctl");
        command
    }

    /// The output of a successful command.
    fn ctl(&self, words: &str) -> String {
        let output = self.command().args(words.split(' ')).output();
        let output = output.expect("run");
        assert!(output.status.success(), "{words}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    fn status(&self, name: &str) -> String {
        let status = self.ctl("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name}: {status}"))
            .trim()
            .to_owned()
    }

    async fn try_log_in(&self, token: &str) -> Result<Client, String> {
        let user = self.vars.get("PGUSER");
        let login = self.vars.log_in(user, token, DATABASE).await;
        login.map_err(|error| sqlstate(&error))
    }

    async fn token(&self) -> String {
        let bearer = self.vars.workspace_token().await;
        self.vars.database_token(&bearer).await
    }

    async fn api(&self) -> std::io::Result<support::Reply> {
        http(
            self.vars.api(),
            "GET",
            "/.well-known/databricks-config",
            &[],
            "",
        )
        .await
    }

    fn stop(mut self) {
        send(&self.child, Signal::SIGTERM);
        assert!(self.child.wait().expect("ended").success());
        assert_becomes_empty(self.scratch.path());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_revoked_and_expire_on_demand() {
    let running = Running::start();
    for command in ["revoke", "expire"] {
        let token = running.token().await;
        running.try_log_in(&token).await.expect("a valid token");
        running.ctl(command);
        let state = running.try_log_in(&token).await.expect_err("rejected");
        assert_eq!(state, "28P01", "{command}");
        let next = running.token().await;
        running.try_log_in(&next).await.expect("a new token");
    }
    let bearer = running.vars.workspace_token().await;
    let bearer = format!("Authorization: Bearer {bearer}");
    let me = async || {
        let path = "/api/2.0/preview/scim/v2/Me";
        let reply = http(running.vars.api(), "GET", path, &[&bearer], "").await;
        reply.expect("a reply").status
    };
    assert_eq!(me().await, 200);
    running.ctl("expire workspace");
    assert_eq!(me().await, 401);

    let token = running.token().await;
    running.ctl("fresh-branch 3600 08006");
    let state = running.try_log_in(&token).await.expect_err("rejected");
    assert_eq!(state, "08006");
    running.ctl("fresh-branch 0");
    running.try_log_in(&token).await.expect("no longer fresh");
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_cut_and_the_compute_is_suspended_on_demand() {
    let running = Running::start();
    let token = running.token().await;
    for (command, expected) in [
        ("cut", Some("57P01")),
        ("cut close", None),
        ("cut reset", None),
        ("suspend", Some("57P01")),
    ] {
        let client = running.try_log_in(&token).await.expect("a session");
        let sleeping = client.batch_execute("SELECT pg_sleep(60)");
        let cutting = async {
            // In a statement, not before it.
            let other = running.try_log_in(&token).await.expect("a session");
            let sql = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'";
            while other.query(sql, &[]).await.expect("an answer").is_empty() {}
            running.ctl(command);
        };
        let (outcome, ()) = tokio::join!(sleeping, cutting);
        let error = outcome.expect_err("it ends");
        let state = error.code().map(|code| code.code());
        assert_eq!(state, expected, "{command}: {error}");
    }
    assert_eq!(running.status("compute"), "suspended");
    running.try_log_in(&token).await.expect("it resumes");
    assert_eq!(running.status("compute"), "active");

    running.ctl("suspend 3600 reject");
    let state = running.try_log_in(&token).await.expect_err("not yet");
    assert_eq!(state, "57P03");
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_workspace_api_fails_and_its_clock_is_wrong_on_demand() {
    let running = Running::start();
    let status = async || running.api().await.map(|reply| reply.status);
    assert_eq!(status().await.expect("a reply"), 200);
    running.ctl("outage 503");
    assert_eq!(status().await.expect("a reply"), 503);
    running.ctl("outage down");
    status().await.expect_err("reset");
    assert_eq!(running.status("workspace API"), "down");
    running.ctl("outage silent");
    assert_eq!(running.status("workspace API"), "silent");
    {
        let asking = running.api();
        tokio::pin!(asking);
        let silence = tokio::time::timeout(std::time::Duration::from_millis(200), &mut asking);
        silence.await.expect_err("no reply");
    }
    running.ctl("outage off");
    assert_eq!(status().await.expect("a reply"), 200);
    running.ctl("outage 503 0.05");
    // It ends by itself.
    while status().await.expect("a reply") != 200 {}
    assert_eq!(running.status("workspace API"), "in order");

    for (command, shown, ahead) in [
        ("clock ahead 900", "900s ahead", 900),
        ("clock behind 900", "900s behind", -900),
        ("clock right", "right", 0),
    ] {
        running.ctl(command);
        assert_eq!(running.status("clock"), shown);
        let head = running.api().await.expect("a reply").head;
        let date = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("date").then(|| value.to_owned())
        });
        let date = jiff::fmt::rfc2822::parse(&date.expect("a date")).expect("a date");
        let distance = date.timestamp().as_second() - jiff::Timestamp::now().as_second();
        assert!((distance - ahead).abs() < 60, "{command}: {distance}");
    }
    running.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn status_shows_addresses_identities_and_counters() {
    let running = Running::start();
    let branches = running.ctl("branches");
    let words: Vec<&str> = branches.split_whitespace().collect();
    assert_eq!(words, ["production", "READY", "localhost"]);
    assert_eq!(
        running.status("endpoint"),
        running.vars.get("LAKEBASE_ENDPOINT")
    );
    assert_eq!(
        running.status("workspace  "),
        running.vars.get("DATABRICKS_HOST")
    );
    let port = running.vars.get("PGPORT");
    assert_eq!(running.status("host"), format!("localhost:{port}"));
    assert_eq!(
        running.status("service principal"),
        running.vars.get("PGUSER")
    );
    assert_eq!(running.status("logins accepted"), "0");
    let token = running.token().await;
    let _session = running.try_log_in(&token).await.expect("a session");
    assert_eq!(running.status("logins accepted"), "1");
    assert_eq!(running.status("open sessions"), "1");
    assert_eq!(running.status("database tokens minted"), "1");
    assert!(!running.ctl("status").contains(&token));
    running.stop();
}

#[test]
fn ctl_finds_it_by_the_variable_or_by_the_option_dir() {
    let scratch = scratch();
    let script = "\"$0\" ctl revoke && env -u LAKEBASE_LOCAL_DIR \"$0\" ctl --dir \"$LAKEBASE_LOCAL_DIR\" status";
    let output = program(scratch.path())
        .args(["sh", "-c", script, env!("CARGO_BIN_EXE_lakebase-local")])
        .output()
        .expect("run");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(text.contains("revoked every database token"), "{text}");
    assert!(text.contains("open sessions"), "{text}");
    assert_becomes_empty(scratch.path());
}

#[test]
fn wrong_commands_are_errors_with_the_next_step() {
    let here = scratch();
    let ask = |args: &[&str]| -> (Output, String) {
        let output = program(here.path()).arg("ctl").args(args).output();
        let output = output.expect("run");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        (output, text)
    };
    for (args, expected, code) in [
        (&["status"][..], "LAKEBASE_LOCAL_DIR is not set", 2),
        (
            &["--dir", "/nowhere", "status"],
            "cannot reach a local Lakebase in /nowhere",
            1,
        ),
        (
            &["--dir", "/nowhere", "explode"],
            "unknown command: explode",
            2,
        ),
        (&[], "a command is missing", 2),
        (
            &["suspend", "soon"],
            "\"soon\" is not a number of seconds",
            2,
        ),
        (&["clock", "ahead", "1e300"], "\"1e300\"", 2),
        (&["outage", "partial"], "unknown command: outage partial", 2),
        (&["fresh-branch", "3", "nonsense"], "is not an SQLSTATE", 2),
    ] {
        let (output, text) = ask(args);
        assert!(text.contains(expected), "{args:?}: {text}");
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
    }
    let (output, _) = ask(&["--help"]);
    let help = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success() && help.contains("revoke"));
    assert!(help.lines().all(|line| line.len() <= 60), "{help}");
    assert_eq!(
        std::fs::read_dir(Path::new(here.path()))
            .expect("the folder")
            .count(),
        0
    );
}
