//! An application in its own process, so that a test can stop it: `puppet ADAPTER` with the variables of its environment, or
//! `puppet ADAPTER FILE` with the variables of a file only.
//!
//! Prints `ready`. For each line of its input, it logs in and prints `ok` or `failed` with the error.

use lakebase_core::{Config, Lakebase};
use lakebase_tests::{ADAPTERS, App};
use tokio::io::{AsyncBufReadExt as _, BufReader, stdin};

#[tokio::main]
async fn main() {
    if let Err(error) = run().await {
        println!("failed {error}");
        std::process::exit(1);
    }
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).unwrap_or_default();
    let adapter = ADAPTERS
        .into_iter()
        .find(|adapter| adapter.name() == name)
        .ok_or("no such adapter")?;
    let config = match std::env::args().nth(2) {
        Some(file) => {
            let text = std::fs::read_to_string(file)?;
            Config::from_vars(text.lines().filter_map(|line| line.split_once('=')))?
        }
        None => Config::from_env()?,
    };
    let lakebase = Lakebase::new(config)?;
    let app = App::start(adapter, &lakebase)
        .await
        .map_err(|failure| failure.to_string())?;
    println!("ready");
    let mut orders = BufReader::new(stdin()).lines();
    while orders.next_line().await?.is_some() {
        match app.log_in().await {
            Ok(()) => println!("ok"),
            Err(failure) => println!("failed {failure}"),
        }
    }
    Ok(())
}
