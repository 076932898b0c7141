//! `lakebase`: logins for tools, and a look at what is wrong.

mod args;
mod connection;
mod doctor;
mod exec;
mod grant;
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
            let text = "local: the global options are of no use here; set variables for the command instead";
            return complain(&lakebase_core::Error::config(text));
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
        Err(error) => return complain(&error),
    };
    let outcome = runtime.block_on(run(&cli));
    // Before a command takes our place.
    drop(runtime);
    match outcome {
        Ok(Outcome::Exit(code)) => code,
        Ok(Outcome::Become(command)) => exec::become_command(command),
        Err(error) => complain(&*error),
    }
}

enum Outcome {
    Exit(ExitCode),
    Become(std::process::Command),
}

async fn run(cli: &Cli) -> Result<Outcome, Box<dyn Error>> {
    match &cli.command {
        Command::Exec {
            password_in_url,
            command,
        } => {
            let prepared = exec::prepare(&cli.target, command, *password_in_url);
            return Ok(Outcome::Become(prepared.await?));
        }
        Command::Url { with_password } => {
            let url = connection::url(&cli.target, *with_password).await?;
            say(&format!("{url}\n"))?;
        }
        Command::Token { json } => say(&connection::token(&cli.target.lakebase()?, *json).await?)?,
        Command::Doctor { json } => {
            let report = doctor::examine(&cli.target).await;
            match json {
                true => say(&format!("{:#}\n", report.to_json()))?,
                false => report.print()?,
            }
            if report.has_failed() {
                return Ok(Outcome::Exit(ExitCode::FAILURE));
            }
        }
        Command::Grant(grant) => grant::run(&cli.target, grant).await?,
        #[cfg(feature = "local")]
        Command::Local { .. } => {}
    }
    Ok(Outcome::Exit(ExitCode::SUCCESS))
}

/// To standard output. Whoever closes it early has seen enough.
fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
    }
}

fn complain(error: &(dyn Error + 'static)) -> ExitCode {
    let known = error.downcast_ref::<lakebase_core::Error>();
    let text = known.map_or_else(|| error.to_string(), lakebase_core::Error::chain);
    let _ = writeln!(io::stderr(), "lakebase: {text}");
    match known.is_some_and(lakebase_core::Error::is_config) {
        true => ExitCode::from(2),
        false => ExitCode::FAILURE,
    }
}
