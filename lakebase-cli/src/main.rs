//! `lakebase`: logins for tools, and checks of a set-up.

mod args;
mod branch;
mod command;
mod connection;
mod doctor;
mod grant;
mod http;
mod listen;
mod metrics;
mod proxy;
mod roots;
mod terminal;

use std::error::Error;
use std::io::{self, Write as _};
use std::process::ExitCode;

use args::{Cli, Command};
use clap::Parser as _;
use terminal::print_error;

fn main() -> ExitCode {
    let cli = Cli::parse();
    args::anstream_choice(cli.color).write_global();
    #[cfg(feature = "local")]
    if let Command::Local { args } = cli.command {
        if cli.target.is_given() {
            let text = "`lakebase local` takes no global options: set variables for the command";
            return exit_code(&lakebase_core::Error::config(text));
        }
        return lakebase_local::command::main("lakebase local", args);
    }
    tracing_subscriber::fmt()
        .with_writer(anstream::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return exit_code(&error),
    };
    match runtime.block_on(run(&cli)) {
        Ok(code) => code,
        Err(error) => exit_code(&*error),
    }
}

async fn run(cli: &Cli) -> Result<ExitCode, Box<dyn Error>> {
    match &cli.command {
        Command::Exec(args) => return proxy::exec(&cli.target, args).await,
        Command::Proxy(args) => return proxy::run(&cli.target, args).await,
        Command::Url { with_password } => {
            let url = connection::url(&cli.target, *with_password).await?;
            write_stdout(&format!("{url}\n"))?;
        }
        Command::Token { json } => {
            write_stdout(&connection::token(&cli.target.lakebase()?, *json).await?)?
        }
        Command::Doctor { json } => {
            if !doctor::run(&cli.target, *json).await? {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Branch { command } => branch::run(&cli.target, command).await?,
        Command::Grant(grant) => grant::run(&cli.target, grant).await?,
        #[cfg(feature = "local")]
        Command::Local { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn write_stdout(text: &str) -> io::Result<()> {
    let mut out = anstream::stdout();
    unless_closed(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// A closed pipe is not an error.
fn unless_closed(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
    }
}

fn exit_code(error: &(dyn Error + 'static)) -> ExitCode {
    let known = error.downcast_ref::<lakebase_core::Error>();
    print_error(&known.map_or_else(|| error.to_string(), lakebase_core::Error::chain));
    match known.is_some_and(lakebase_core::Error::is_config) {
        true => ExitCode::from(2),
        false => ExitCode::FAILURE,
    }
}
