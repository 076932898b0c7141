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

use crate::control::{self, Outcome};
use crate::{Builder, LocalLakebase, SignIn};

const HELP: &str = "\
A Databricks Lakebase on this machine: workspace API,
TLS gateway and a real Postgres.

Usage: %NAME% [OPTIONS]
       %NAME% [OPTIONS] CMD [ARGS]..
       %NAME% ctl COMMAND

Without CMD, it prints export lines and serves until Ctrl-C.
With CMD, it runs CMD with these variables, ends with it,
and exits with its status. `ctl` controls a running one: see
`%NAME% ctl --help`.

Options:
  --token-lifetime SECONDS
          Lifetime of database tokens [default: 3600]
  --workspace-token-lifetime SECONDS
          Lifetime of workspace tokens [default: 3600]
  --sign-in STRATEGY
          Authentication of programs, for example pat or
          databricks-cli [default: oauth-m2m]
  --api-port PORT
          Port of the workspace API [default: a free port]
  --postgres-port PORT
          Port of Postgres [default: a free port]
  --postgres-url URL
          A running server on this machine, as superuser.
          `ps` shows it to other users: prefer
          LAKEBASE_LOCAL_PG_URL
  --postgres-bin DIR
          Folder with `initdb` and `postgres`
  -h, --help
          Print help
  -V, --version
          Print version

Environment variables:
  LAKEBASE_LOCAL_PG_URL
          URL of a running server, as --postgres-url
  LAKEBASE_LOCAL_PG_BIN
          Folder, as --postgres-bin [default: that of
          pg_config, of PATH, or one of the usual folders]
  RUST_LOG
          Logs to standard error, for example
          lakebase_local=debug
";

/// Variables of the developer's shell that would give a program another target or identity.
const CLEARED_VARIABLES: &[&str] = &[
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
            // The stand-ins come first.
            if name == "PATH"
                && let Some(path) = std::env::var_os(name)
            {
                *value = format!("{value}:{}", path.to_string_lossy());
            }
        }
        vars
    }
}

enum Parsed {
    Run(Box<Options>),
    Print(String),
}

/// Runs the command line. `args` does not contain the program's name; texts use `name`.
/// Creates its own runtime, and sets up logging unless the program has done so.
pub fn main(name: &str, args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let print_error = |text: &str| print_error(name, text);
    let _ = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .try_init();
    let mut args = args.into_iter().peekable();
    if args.next_if(|first| first == "ctl").is_some() {
        return match control::command(name, args) {
            Outcome::Done(text) => {
                print_text(&text);
                ExitCode::SUCCESS
            }
            Outcome::Failed(text) => {
                print_error(&text);
                ExitCode::FAILURE
            }
            Outcome::Misused(text) => {
                print_error(&format!("{text}\nTry `{name} ctl --help`."));
                ExitCode::from(2)
            }
        };
    }
    let options = match parse(name, Parser::from_args(args)) {
        Ok(Parsed::Run(options)) => options,
        Ok(Parsed::Print(text)) => {
            print_text(&text);
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            print_error(&format!("{error}\nTry `{name} --help`."));
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            print_error(&format!("cannot start: {error}"));
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
            print_error(&text);
            ExitCode::FAILURE
        }
    }
}

fn parse(name: &str, mut parser: Parser) -> Result<Parsed, lexopt::Error> {
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
                return Ok(Parsed::Print(HELP.replace("%NAME%", name)));
            }
            Arg::Short('V') | Arg::Long("version") => {
                return Ok(Parsed::Print(format!(
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
                    return Err(format!("--sign-in {way}: no variable sets the addresses of Azure's services, so it works only from Rust (`env_for` and `azure_login_url`)").into());
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
        // The exported PATH would keep a removed folder, which another user could create again.
        return Err(format!("--sign-in {way} needs a command to run: its stand-in is on the PATH of that command only").into());
    }
    Ok(Parsed::Run(Box::new(Options {
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

/// Serves until a signal ends it.
async fn alone(name: &str, vars: Vec<(String, String)>) -> Result<u8, Box<dyn std::error::Error>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut text = format!("unset {}\n", CLEARED_VARIABLES.join(" "));
    for (name, value) in vars {
        text.push_str(&format!(
            "export {name}='{}'\n",
            value.replace('\'', r"'\''")
        ));
    }
    print_text(&text);
    print_error(name, "a local Lakebase is ready; Ctrl-C stops it");
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
    // Ctrl-C reaches the program as well. This process waits for it to end.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut command = Command::new(program);
    for name in CLEARED_VARIABLES {
        command.env_remove(name);
    }
    let mut child = match command.args(args).envs(vars).spawn() {
        Ok(child) => child,
        Err(error) => {
            print_error(name, &format!("cannot run {}: {error}", program.display()));
            // The exit codes of shells.
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

/// Returns the exit code, or 128 plus the signal, as shells do.
fn exit_code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt as _;

    let code = status.code().or_else(|| Some(128 + status.signal()?));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

fn print_text(text: &str) {
    // A closed pipe is not an error.
    let _ = std::io::stdout().write_all(text.as_bytes());
    let _ = std::io::stdout().flush();
}

fn print_error(name: &str, text: &str) {
    let _ = writeln!(std::io::stderr(), "{name}: {text}");
}
