//! How long the first login of a cold process takes when each call to the workspace takes 300 ms.
//!
//! `cargo run --release -p lakebase-tests --bin cold_start`. Every row is the median of nine new handles.
//! A host of Databricks' own needs one call less than the local one, whose token endpoint is discovered.

use std::time::{Duration, Instant};

use lakebase_core::Lakebase;
use lakebase_local::{Call, Fault, LocalLakebase};
use lakebase_tests::{lakebase_with, local, tell};

const DELAY: Duration = Duration::from_millis(300);
const RUNS: usize = 9;

#[tokio::main]
async fn main() {
    let local = local().await;
    local
        .create_native_role("native", "password")
        .await
        .expect("a role");
    for call in [
        Call::Discovery,
        Call::Token,
        Call::Credential,
        Call::Endpoint,
        Call::Me,
    ] {
        local.fail(call, Fault::Slow(DELAY));
    }
    let pat = [
        ("DATABRICKS_CLIENT_ID", ""),
        ("DATABRICKS_CLIENT_SECRET", ""),
        ("DATABRICKS_TOKEN", local.user_token()),
        ("PGUSER", local.user()),
    ];
    let bare = [("PGHOST", ""), ("PGUSER", "")];
    let native = [
        ("PGUSER", "native"),
        ("PGPASSWORD", "password"),
        ("LAKEBASE_ENDPOINT", ""),
    ];
    let login = measure(&local, &native).await;
    row("native password: one login", login, Duration::ZERO, login);
    let token = measure(&local, &pat).await;
    row("access token, all set: mint", token, DELAY, login);
    let found: Vec<_> = pat.into_iter().chain(bare).collect();
    let found = measure(&local, &found).await;
    row("access token, endpoint only: mint", found, DELAY, login);
    let all = measure(&local, &[]).await;
    row(
        "service principal, all set: discovery, token, mint",
        all,
        3 * DELAY,
        login,
    );
    let bare = measure(&local, &bare).await;
    row(
        "service principal, endpoint only: the same",
        bare,
        3 * DELAY,
        login,
    );
}

async fn measure(local: &LocalLakebase, changes: &[(&str, &str)]) -> Duration {
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let lakebase: Lakebase = lakebase_with(local, changes);
        let began = Instant::now();
        lakebase.connect().await.map(drop).expect("a login");
        times.push(began.elapsed());
    }
    times.sort_unstable();
    times[RUNS / 2]
}

fn row(what: &str, took: Duration, calls: Duration, login: Duration) {
    let expected = calls + login;
    let ratio = took.as_secs_f64() / expected.as_secs_f64();
    tell(&format!(
        "{:7.1} ms, {ratio:.2} of {:.1} ms: {what}",
        took.as_secs_f64() * 1e3,
        expected.as_secs_f64() * 1e3
    ));
}
