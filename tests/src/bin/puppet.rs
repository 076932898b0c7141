//! An application whose every step is ordered through its standard input, so that a test can stop the whole
//! process in between: `puppet ADAPTER`, set up by its environment, or `puppet ADAPTER FILE`, set up by the
//! variables in a file and in no way by its environment.
//!
//! Says `ready`; each line makes it log in and say `ok`, or `failed` and why.

#![allow(clippy::print_stdout)] // that is how it answers

use std::process::ExitCode;

use lakebase_core::{Config, Lakebase};
use lakebase_tests::{ADAPTERS, App};
use tokio::io::{AsyncBufReadExt as _, BufReader, stdin};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("failed {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let adapter = ADAPTERS
        .into_iter()
        .find(|adapter| adapter.name() == wanted)
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
