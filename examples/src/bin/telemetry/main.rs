//! The shop with OpenTelemetry: it sends metrics and spans over OTLP to a collector in this program. It needs no set-up, because it
//! runs on a local Lakebase.
//!
//! Prints the received numbers. Fails if an instrument or a span of `docs/telemetry.md` is missing, or if a secret was received.

mod collector;
mod export;
mod pools;
mod report;

use std::process::ExitCode;
use std::time::Duration;

use collector::Collector;
use export::Export;
use lakebase_examples::Result;
use lakebase_local::{Call, Fault, LocalLakebase};
use pools::Observed;
use tokio::time::{sleep, timeout};

/// Short, so that the program renews them.
const TOKENS: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let (collector, url) = Collector::start().await?;
    let export = Export::start(&url)?;
    let local = LocalLakebase::builder()
        .token_lifetime(TOKENS)
        .start()
        .await?;
    let local = std::sync::Arc::new(local);

    let pools = vec![
        pools::bb8(&local).await?,
        pools::deadpool(&local).await?,
        pools::seaorm(&local).await?,
        #[cfg(feature = "r2d2")]
        {
            let local = std::sync::Arc::clone(&local);
            tokio::task::spawn_blocking(move || pools::r2d2(&local)).await??
        },
    ];
    until(&pools, |pool| mints(pool) > 1).await?;
    let rejection = Fault::status(403, "PERMISSION_DENIED", "on purpose");
    local.fail_times(Call::Credential, 1, rejection);
    until(&pools, |pool| failures(pool) > 0).await?;

    // Before the observations end with the pools.
    export.end().await?;
    drop(pools);

    let received = collector.received();
    report::print(&received);
    let mut problems = report::differences(&received);
    let mut secrets = local.secrets();
    secrets.extend([pools::CUSTOMER, "shop.orders"].map(str::to_owned));
    problems.extend(secrets.iter().filter_map(|secret| {
        let mut parts = received.bytes.windows(secret.len());
        let is_there = parts.any(|part| part == secret.as_bytes());
        is_there.then(|| "received a secret, a parameter or a statement".to_owned())
    }));
    for problem in &problems {
        eprintln!("{problem}");
    }
    Ok(match problems.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Waits until `is_true` is true for one of the pools.
async fn until(pools: &[Observed], is_true: impl Fn(&Observed) -> bool) -> Result<()> {
    let wait = async {
        while !pools.iter().any(&is_true) {
            sleep(Duration::from_millis(50)).await;
        }
    };
    Ok(timeout(PATIENCE, wait).await?)
}

fn mints(pool: &Observed) -> u64 {
    let token = pool.lakebase.stats().token;
    token.map_or(0, |token| token.mints.count)
}

fn failures(pool: &Observed) -> u64 {
    let token = pool.lakebase.stats().token;
    token.map_or(0, |token| token.failures)
}
