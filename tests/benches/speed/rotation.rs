//! Logins while the token changes every two seconds and each request to the workspace takes 300 ms.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;

use crate::Table;
use crate::figures::at;
use crate::places::{Drivers, millis};
use crate::platform::{Platform, Port, SLOW};

const OURS: &str = "`Lakebase::connect`";
const STATIC: &str = "static password";
const NODE: &str = "`@databricks/lakebase` (Node)";
const PYTHON: &str = "`databricks-ai-bridge` (Python)";
/// Renewal begins at three quarters of the lifetime, which is two seconds.
const LIFETIME: Duration = Duration::from_millis(2667);
const ROW: &str = "login";
const WAITED: &str = "logins that waited for a mint, of 1,000";

/// Panics if an official client is not installed.
pub fn check_clients() {
    for needed in ["node_modules/@databricks/lakebase", "venv/complete"] {
        let path = clients().join(needed);
        assert!(
            path.exists(),
            "{} is missing: run tests/clients/install.sh",
            path.display()
        );
    }
}

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients")
}

pub fn measure(rounds: u32) -> Vec<Table> {
    // Each round has a rotation.
    let slice = Duration::from_secs(2);
    let mut platform = Platform::with(LIFETIME, SLOW, Port::Free);
    let steady = Platform::start();
    let mut table = Table::new("rotation", "ms", &[OURS, STATIC, NODE, PYTHON]);
    let waits = crate::runtime(2).block_on(async {
        let lakebase = platform.lakebase(&[]);
        let drivers = Drivers::at(&steady.vars).await;
        lakebase.credential().await.expect("the first credential");
        drop(lakebase.connect().await.expect("a login"));
        let mut waits = 0_u32;
        let began = Instant::now();
        while began.elapsed() < slice * rounds {
            waits += u32::from(lakebase.credential().now_or_never().is_none());
            let login = Instant::now();
            let session = lakebase.connect().await.expect("a login");
            table.add(ROW, OURS, millis(login.elapsed()));
            drop(session);
            let login = Instant::now();
            let session = drivers.tokio_postgres.connect(drivers.tls.clone()).await;
            table.add(ROW, STATIC, millis(login.elapsed()));
            drop(session.expect("a login"));
        }
        waits
    });
    let minted = platform.minted();
    assert!(minted > u64::from(rounds / 2), "only {minted} rotations");
    let seconds = (slice * rounds).as_secs().min(20);
    let python = clients().join("venv/bin/python");
    for took in run(&platform, Path::new("node"), "logins.mjs", seconds) {
        table.add(ROW, NODE, took);
    }
    let usual = Platform::with(LIFETIME, SLOW, Port::Usual);
    for took in run(&usual, &python, "logins.py", seconds) {
        table.add(ROW, PYTHON, took);
    }
    let p99 = |table: &Table, column| at(table.figures(ROW, column), 0.99);
    let quotient = p99(&table, OURS) / p99(&table, STATIC);
    table.fact(
        "99 % of the logins: ours / static password",
        quotient,
        Some(1.1),
    );
    table.fact(
        "calls of `Lakebase::credential` that waited",
        f64::from(waits),
        Some(0.0),
    );
    for column in [OURS, STATIC, NODE, PYTHON] {
        let all = table.figures(ROW, column);
        // No login without a mint takes half as long as a mint. A caller that comes in its second half is missed, so the
        // calls that waited are counted as well.
        let waited = all.iter().filter(|took| **took >= millis(SLOW / 2)).count();
        let share = waited as f64 * 1000.0 / all.len() as f64;
        let longest = at(all, 1.0);
        table.fact(&format!("{WAITED}: {column}"), share, None);
        table.fact(&format!("the longest login, ms: {column}"), longest, None);
    }
    vec![table]
}

/// Runs a script that logs in for some seconds. It prints the milliseconds of each login.
fn run(platform: &Platform, program: &Path, script: &str, seconds: u64) -> Vec<f64> {
    let output = Command::new(program)
        .args([script, &seconds.to_string()])
        .current_dir(clients())
        .envs(&platform.vars)
        .env_remove("PGPASSWORD")
        .output()
        .expect("a program");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{script}: {}\n{stderr}",
        output.status
    );
    let lines = String::from_utf8(output.stdout).expect("text");
    let times: Vec<f64> = lines
        .lines()
        .map(|line| line.parse().expect("a time"))
        .collect();
    assert!(!times.is_empty(), "{script} logged in never: {stderr}");
    times
}
