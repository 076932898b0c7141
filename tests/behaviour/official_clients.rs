//! The official clients work with a local Lakebase.
//!
//! `tests/clients/install.sh` installs them. Without them, Node or Python, the tests are skipped.

use std::path::{Path, PathBuf};
use std::time::Duration;

use lakebase_local::LocalLakebase;
use lakebase_tests::{local_with_tokens_of, minted};
use tokio::process::Command;

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

fn skipped(why: &str) {
    lakebase_tests::tell(&format!("SKIPPED official client: {why}"));
}

/// Runs a script with the variables of a program. Returns false if the test is skipped.
async fn run(local: &LocalLakebase, program: &Path, script: &str, needs: &Path) -> bool {
    if !needs.exists() {
        skipped(&format!(
            "{} is missing; run tests/clients/install.sh",
            needs.display()
        ));
        return false;
    }
    let started = Command::new(program)
        .arg(script)
        .current_dir(clients())
        .envs(local.env())
        .env_remove("PGPASSWORD")
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(Duration::from_secs(60), started).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => {
            skipped(&format!("cannot run {}: {error}", program.display()));
            return false;
        }
        Err(_) => panic!("{script} hangs"),
    };
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{script}: {}\n{stdout}\n{stderr}",
        output.status
    );
    println!("{stdout}");
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_node_driver_connects_queries_and_rotates() {
    let local = local_with_tokens_of(Duration::from_secs(60)).await;
    let needs = clients().join("node_modules/@databricks/lakebase");
    if run(&local, Path::new("node"), "node.mjs", &needs).await {
        assert!(minted(&local.events()).len() >= 3, "{:?}", local.counters());
        assert_eq!(local.counters().refused, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_python_clients_connect_query_and_rotate() {
    // The bridge has no setting for the port, so it needs port 5432 of another address.
    let [.., high, low] = std::process::id().to_be_bytes();
    let started = LocalLakebase::builder()
        .token_lifetime(Duration::from_secs(60))
        .postgres_ip([127, 99, high, low.clamp(1, 254)].into())
        .postgres_port(5432)
        .start()
        .await;
    let local = match started {
        Ok(local) => local,
        Err(error) => {
            skipped(&error.to_string());
            return;
        }
    };
    let python = clients().join("venv/bin/python");
    let complete = clients().join("venv/complete");
    if run(&local, &python, "python.py", &complete).await {
        assert!(minted(&local.events()).len() >= 7, "{:?}", local.counters());
        assert_eq!(local.counters().refused, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_python_sdk_creates_reads_and_deletes_branches() {
    let local = local_with_tokens_of(Duration::from_secs(3600)).await;
    // Long enough for a poll.
    local.set_operation_delay(Duration::from_millis(1500));
    let python = clients().join("venv/bin/python");
    let complete = clients().join("venv/complete");
    if run(&local, &python, "branches.py", &complete).await {
        let counters = local.counters();
        assert_eq!(counters.branches_created, 1);
        assert_eq!(counters.branches_deleted, 2);
        assert_eq!(local.branches(), [local.branch()]);
    }
}
