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

use std::error::Error;
use std::io::{self, Write as _};
use std::process::ExitCode;

use args::{Cli, Command};
use clap::Parser as _;

fn main() -> ExitCode {
    let cli = Cli::parse();
    args::anstream_choice(cli.color).write_global();
    #[cfg(feature = "local")]
    if let Command::Local { args } = cli.command {
        if cli.target.is_given() {
            let text = "local: the global options have no effect here; set variables for the command instead";
            return write_error(&lakebase_core::Error::config(text));
        }
        return lakebase_local::command::main("lakebase local", args);
    }
    let writer = || anstream::stderr();
    tracing_subscriber::fmt()
        .with_writer(writer)
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return write_error(&error),
    };
    match runtime.block_on(run(&cli)) {
        Ok(code) => code,
        Err(error) => write_error(&*error),
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
            let report = doctor::examine(&cli.target).await;
            match json {
                true => write_stdout(&format!("{:#}\n", report.to_json()))?,
                false => report.print()?,
            }
            if report.has_failed() {
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

/// Writes to standard output. A closed pipe is not an error.
fn write_stdout(text: &str) -> io::Result<()> {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
    }
}

fn write_error(error: &(dyn Error + 'static)) -> ExitCode {
    let known = error.downcast_ref::<lakebase_core::Error>();
    let text = known.map_or_else(|| error.to_string(), lakebase_core::Error::chain);
    let _ = writeln!(io::stderr(), "lakebase: {text}");
    match known.is_some_and(lakebase_core::Error::is_config) {
        true => ExitCode::from(2),
        false => ExitCode::FAILURE,
    }
}
