//! Runs the program with exactly the variables of a local Lakebase.

#![allow(
    clippy::expect_used,
    dead_code,
    missing_debug_implementations,
    missing_docs,
    unreachable_pub
)]

use std::ffi::OsStr;
use std::io::Write as _;
use std::process::Stdio;

use lakebase_local::LocalLakebase;
use tokio::process::Command;

/// Says so even where the test runner hides what tests print.
pub fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {why}");
}

pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

pub async fn local() -> LocalLakebase {
    LocalLakebase::start().await.expect("a local Lakebase")
}

/// The program, with nothing of this process's environment but where programs are.
pub fn lakebase<S: AsRef<OsStr>>(
    args: impl IntoIterator<Item = S>,
    vars: &[(String, String)],
    changes: &[(&str, &str)],
) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lakebase"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    command
        .args(args)
        .env_clear()
        .env("PATH", path)
        .envs(vars.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    for (name, value) in changes {
        match value.is_empty() {
            true => command.env_remove(name),
            false => command.env(name, value),
        };
    }
    command
}

pub async fn run<S: AsRef<OsStr>>(
    args: impl IntoIterator<Item = S>,
    vars: &[(String, String)],
    changes: &[(&str, &str)],
) -> Ran {
    let output = lakebase(args, vars, changes)
        .output()
        .await
        .expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Ran {
        code: output.status.code(),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}
