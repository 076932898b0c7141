//! Drivers of other languages log in through `lakebase exec` and `lakebase proxy` for longer than three tokens.
//!
//! `tests/clients/install.sh` installs them in `tests/clients`. The test of a missing one prints that and passes.

#![allow(clippy::expect_used)]

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use lakebase_local::LocalLakebase;
use support::{run, skipped};

const TOKEN_LIFETIME: Duration = Duration::from_secs(3);
/// Longer than three tokens.
const SECONDS: &str = "10";
/// Far more than it takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/clients")
}

/// Runs the script over the socket of `exec` and over the TCP port of `proxy`.
async fn runs_longer_than_three_tokens(program: &Path, script: &str, needs: &str) {
    let needs = clients().join(needs);
    let version = std::process::Command::new(program)
        .arg("--version")
        .output();
    if !needs.exists() || version.is_err() {
        let needs = needs.display();
        skipped(&format!(
            "{script}: {needs} is missing; run tests/clients/install.sh"
        ));
        return;
    }
    let local = LocalLakebase::builder().token_lifetime(TOKEN_LIFETIME);
    let local = local.start().await.expect("a local Lakebase");
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path().display().to_string();
    let changes = [
        ("HOME", home.as_str()),
        ("EXPECTED_USER", local.client_id()),
    ];
    let program = program.display().to_string();
    let script = clients().join(script).display().to_string();
    let vars = local.env();
    let over = |way: &[&'static str]| {
        let command = [&program, &script, SECONDS];
        let args = [way, &command].concat();
        let (vars, changes) = (&vars, &changes);
        async move { run(args, vars, changes).await }
    };
    let both = async {
        tokio::join!(
            over(&["exec"]),
            over(&["proxy", "--listen", "127.0.0.1:0", "--"]),
        )
    };
    let (by_socket, by_port) = tokio::time::timeout(PATIENCE, both).await.expect("in time");
    let mut connections = 0;
    for ran in [by_socket, by_port] {
        assert_eq!(
            (ran.code, ran.err.as_str()),
            (Some(0), ""),
            "{script}: {}",
            ran.out
        );
        let made: u64 = ran.out.trim_end().parse().expect("a number");
        assert!(made > 10, "{script}: {made}");
        connections += made;
    }
    let counters = local.counters();
    assert!(counters.logins >= connections, "{counters:?}");
    assert!(counters.minted > 3, "{counters:?}");
}

fn python() -> PathBuf {
    clients().join("venv/bin/python")
}

#[tokio::test(flavor = "multi_thread")]
async fn psycopg_logs_in_for_longer_than_three_tokens() {
    runs_longer_than_three_tokens(&python(), "psycopg_connections.py", "venv/complete").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sqlalchemy_pool_replaces_ended_connections_for_longer_than_three_tokens() {
    runs_longer_than_three_tokens(&python(), "sqlalchemy_pool.py", "venv/complete").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pg_package_of_node_logs_in_for_longer_than_three_tokens() {
    let node = Path::new("node");
    runs_longer_than_three_tokens(node, "connections.mjs", "node_modules/pg").await;
}
