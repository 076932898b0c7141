//! The command line: runs a local Lakebase, alone or around another program.

use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use lexopt::{Arg, Parser, ValueExt as _};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::control::{self, Said};
use crate::{Builder, LocalLakebase, SignIn};

const HELP: &str = "\
A Databricks Lakebase on this machine: workspace API, TLS gateway, real Postgres.

Usage: %NAME% [OPTIONS]               prints export lines, serves until Ctrl-C
       %NAME% [OPTIONS] CMD [ARGS]..  runs CMD with the variables set, passes its
                                      exit status on
       %NAME% ctl COMMAND             controls a running one, see ctl --help

Options:
  --token-lifetime SECONDS            lifetime of database tokens [default: 3600]
  --workspace-token-lifetime SECONDS  lifetime of workspace tokens [default: 3600]
  --sign-in NAME                      the way programs sign in, for example pat or databricks-cli
                                      [default: oauth-m2m]
  --api-port PORT                     port of the workspace API [default: a free one]
  --postgres-port PORT                port of Postgres [default: a free one]
  --postgres-url URL                  a running server on this machine, as superuser; `ps` shows it
                                      to other users: prefer LAKEBASE_LOCAL_PG_URL
  --postgres-bin DIR                  folder with `initdb` and `postgres` [default: looked for]
  -h, --help                          this text
  -V, --version                       the version

LAKEBASE_LOCAL_PG_URL is the URL of a running server. Else the Postgres programs are looked for with
LAKEBASE_LOCAL_PG_BIN, pg_config, PATH and in the usual folders.
RUST_LOG=lakebase_local=debug shows what happens.
";

/// What would lead a program elsewhere, or to another identity, if the developer's shell has it.
const IN_THE_WAY: &[&str] = &[
    "ARM_CLIENT_ID",
    "ARM_CLIENT_SECRET",
    "ARM_TENANT_ID",
    "ARM_USE_MSI",
    "DATABRICKS_ACCOUNT_ID",
    "DATABRICKS_AUTH_TYPE",
    "DATABRICKS_AZURE_RESOURCE_ID",
    "DATABRICKS_CLIENT_ID",
    "DATABRICKS_CLIENT_SECRET",
    "DATABRICKS_CONFIG_PROFILE",
    "DATABRICKS_DISCOVERY_URL",
    "DATABRICKS_GOOGLE_SERVICE_ACCOUNT",
    "DATABRICKS_GROUP_ID",
    "DATABRICKS_LAKEBASE_ENDPOINT",
    "DATABRICKS_METADATA_SERVICE_URL",
    "DATABRICKS_OIDC_TOKEN",
    "DATABRICKS_OIDC_TOKEN_ENV",
    "DATABRICKS_OIDC_TOKEN_FILE",
    "DATABRICKS_OIDC_TOKEN_FILEPATH",
    "DATABRICKS_PASSWORD",
    "DATABRICKS_TOKEN",
    "DATABRICKS_TOKEN_AUDIENCE",
    "DATABRICKS_USERNAME",
    "DATABRICKS_WORKSPACE_ID",
    "ENDPOINT_NAME",
    "GOOGLE_CREDENTIALS",
    "LAKEBASE_INSTANCE_NAME",
    "LAKEBASE_PG_URL",
    "PGHOST",
    "PGHOSTADDR",
    "PGPASSWORD",
    "PGUSER",
];

struct Options {
    builder: Builder,
    sign_in: Option<SignIn>,
    command: Vec<OsString>,
}

impl Options {
    fn env(&self, local: &LocalLakebase) -> Vec<(String, String)> {
        let Some(sign_in) = self.sign_in else {
            return local.env();
        };
        let mut vars = local.env_for(sign_in);
        for (name, value) in &mut vars {
            // The stand-ins come before whatever is there.
            if name == "PATH"
                && let Some(path) = std::env::var_os(name)
            {
                *value = format!("{value}:{}", path.to_string_lossy());
            }
        }
        vars
    }
}

enum Wish {
    Run(Box<Options>),
    Print(String),
}

/// Parses the arguments (without the program's name, which is `name` in texts) and does what they say.
/// Makes its own runtime, and sets up logging unless the program has done so.
pub fn main(name: &str, args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let complain = |text: &str| complain(name, text);
    let _ = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .try_init();
    let mut args = args.into_iter().peekable();
    if args.next_if(|first| first == "ctl").is_some() {
        return match control::command(name, args) {
            Said::Done(text) => {
                say(&text);
                ExitCode::SUCCESS
            }
            Said::Failed(text) => {
                complain(&text);
                ExitCode::FAILURE
            }
            Said::Misused(text) => {
                complain(&format!("{text}\nTry ctl --help."));
                ExitCode::from(2)
            }
        };
    }
    let options = match parse(name, Parser::from_args(args)) {
        Ok(Wish::Run(options)) => options,
        Ok(Wish::Print(text)) => {
            say(&text);
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            complain(&format!("{error}\nTry --help."));
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(name, *options)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let mut text = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            complain(&text);
            ExitCode::FAILURE
        }
    }
}

fn parse(name: &str, mut parser: Parser) -> Result<Wish, lexopt::Error> {
    let mut builder = LocalLakebase::builder();
    let mut command = Vec::new();
    let mut sign_in = None;
    let seconds = |parser: &mut Parser, option: &str| -> Result<Duration, lexopt::Error> {
        let value = parser.value()?.string()?;
        let seconds = value.parse().ok().map(Duration::try_from_secs_f64);
        let seconds = seconds.and_then(Result::ok);
        seconds.ok_or_else(|| format!("--{option}: {value:?} is not a number of seconds").into())
    };
    let port = |parser: &mut Parser, option: &str| -> Result<u16, lexopt::Error> {
        let value = parser.value()?.string()?;
        value
            .parse()
            .map_err(|_| format!("--{option}: {value:?} is not a port").into())
    };
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Short('h') | Arg::Long("help") => {
                return Ok(Wish::Print(HELP.replace("%NAME%", name)));
            }
            Arg::Short('V') | Arg::Long("version") => {
                return Ok(Wish::Print(format!(
                    "{name} {}\n",
                    env!("CARGO_PKG_VERSION")
                )));
            }
            Arg::Long("token-lifetime") => {
                builder = builder.token_lifetime(seconds(&mut parser, "token-lifetime")?);
            }
            Arg::Long("workspace-token-lifetime") => {
                builder = builder
                    .workspace_token_lifetime(seconds(&mut parser, "workspace-token-lifetime")?);
            }
            Arg::Long("sign-in") => {
                let way = parser.value()?.string()?;
                let way = way.parse::<SignIn>().map_err(|error| error.to_string())?;
                if matches!(way, SignIn::AzureClientSecret | SignIn::AzureMsi) {
                    return Err(format!("--sign-in {way}: variables cannot lead a program to the stand-ins of Azure's services, so this one is for tests in Rust only (`env_for` and `azure_login_url`)").into());
                }
                sign_in = Some(way);
            }
            Arg::Long("api-port") => builder = builder.api_port(port(&mut parser, "api-port")?),
            Arg::Long("postgres-port") => {
                builder = builder.postgres_port(port(&mut parser, "postgres-port")?);
            }
            Arg::Long("postgres-url") => {
                builder = builder.postgres_url(parser.value()?.string()?);
            }
            Arg::Long("postgres-bin") => builder = builder.postgres_bin_dir(parser.value()?),
            Arg::Value(program) => {
                command.push(program);
                command.extend(parser.raw_args()?);
            }
            other => return Err(other.unexpected()),
        }
    }
    if let Some(way @ (SignIn::DatabricksCli | SignIn::AzureCli)) = sign_in
        && command.is_empty()
    {
        // Exported, its folder would stay on the PATH after it is gone, for anybody to make again.
        return Err(format!("--sign-in {way} needs a program to run: its stand-in is found on the PATH, where it must not outlive us").into());
    }
    Ok(Wish::Run(Box::new(Options {
        builder,
        sign_in,
        command,
    })))
}

async fn run(name: &str, options: Options) -> Result<u8, Box<dyn std::error::Error>> {
    let local = options.builder.clone().start().await?;
    let vars = options.env(&local);
    let code = match options.command.split_first() {
        Some((program, args)) => around(name, vars, program, args).await,
        None => alone(name, vars).await,
    };
    local.stop().await;
    code
}

/// Serves until it is stopped.
async fn alone(name: &str, vars: Vec<(String, String)>) -> Result<u8, Box<dyn std::error::Error>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut text = format!("unset {}\n", IN_THE_WAY.join(" "));
    for (name, value) in vars {
        text.push_str(&format!(
            "export {name}='{}'\n",
            value.replace('\'', r"'\''")
        ));
    }
    say(&text);
    complain(name, "a local Lakebase is ready; Ctrl-C stops it");
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(0)
}

/// Runs a program with the variables set.
async fn around(
    name: &str,
    vars: Vec<(String, String)>,
    program: &OsString,
    args: &[OsString],
) -> Result<u8, Box<dyn std::error::Error>> {
    // A Ctrl-C reaches the program as well, which decides what to do; we outlive it.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut command = Command::new(program);
    for name in IN_THE_WAY {
        command.env_remove(name);
    }
    let mut child = match command.args(args).envs(vars).spawn() {
        Ok(child) => child,
        Err(error) => {
            complain(name, &format!("cannot run {}: {error}", program.display()));
            // As shells say it.
            return Ok(if error.kind() == std::io::ErrorKind::NotFound {
                127
            } else {
                126
            });
        }
    };
    let pid = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .map(Pid::from_raw);
    let pass_on = |wanted: Signal| {
        if let Some(pid) = pid {
            let _ = kill(pid, wanted);
        }
    };
    loop {
        tokio::select! {
            status = child.wait() => return Ok(exit_code(status?)),
            _ = interrupt.recv() => {}
            _ = terminate.recv() => pass_on(Signal::SIGTERM),
            _ = hangup.recv() => pass_on(Signal::SIGHUP),
        }
    }
}

/// As shells do: the code, or 128 plus the signal.
fn exit_code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt as _;

    let code = status.code().or_else(|| Some(128 + status.signal()?));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

fn say(text: &str) {
    // A closed pipe on the other side is no reason to fail.
    let _ = std::io::stdout().write_all(text.as_bytes());
    let _ = std::io::stdout().flush();
}

fn complain(name: &str, text: &str) {
    let _ = writeln!(std::io::stderr(), "{name}: {text}");
}
