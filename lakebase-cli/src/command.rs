//! Runs a command behind a proxy.

use std::convert::Infallible;
use std::error::Error;
use std::ffi::OsString;
use std::io;
#[cfg(unix)]
use std::io::IsTerminal as _;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use lakebase_core::adapter::migration::MigrationSession;
use lakebase_core::proxy::Proxy;
use lakebase_core::{Config, Lakebase};
#[cfg(unix)]
use nix::sys::signal::{Signal, kill};
#[cfg(unix)]
use nix::unistd::Pid;
use tokio::process::Command;
#[cfg(unix)]
use tokio::signal::unix as signal;

use crate::args::{self, Target};
use crate::connection::{Reader, url_of};
use crate::terminal::print_note;

/// Variables that would make a driver bypass the proxy, or require features that the proxy does not have.
const CLEARED_VARIABLES: &[&str] = &[
    "PGCHANNELBINDING",
    "PGGSSENCMODE",
    "PGHOSTADDR",
    "PGLOADBALANCEHOSTS",
    "PGMAXPROTOCOLVERSION",
    "PGMINPROTOCOLVERSION",
    "PGPASSFILE",
    "PGREQUIREAUTH",
    "PGREQUIREPEER",
    "PGREQUIRESSL",
    "PGSERVICE",
    "PGSSLCERT",
    "PGSSLCERTMODE",
    "PGSSLCRL",
    "PGSSLCRLDIR",
    "PGSSLKEY",
    "PGSSLNEGOTIATION",
    "PGSSLROOTCERT",
    "PGSSLSNI",
    "PGTARGETSESSIONATTRS",
];

/// Prefixes of the variables that `--no-credentials` removes: credentials of the workspace, and of identity providers that it
/// trusts. Those that the proxy's clients need are set afterwards.
const CREDENTIALS: &[&str] = &[
    "ACTIONS_ID_TOKEN_REQUEST_",
    "ARM_",
    "AZURE_",
    "DATABRICKS_",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_CREDENTIALS",
    "LAKEBASE_",
    "PGPASSWORD",
];

/// Timeout of the query for a warning.
const SCHEMA_CHECK: Duration = Duration::from_secs(10);

/// Checks the command line before the proxy starts.
pub(crate) fn check(command: &[OsString]) -> Result<(), lakebase_core::Error> {
    match command.first() {
        Some(program) if program.is_empty() || program.as_encoded_bytes().starts_with(b"-") => {
            let text = format!("{program:?} is not a command but an unknown option");
            Err(lakebase_core::Error::config(text))
        }
        _ => Ok(()),
    }
}

/// A command, and the proxy that it uses.
pub(crate) struct Run<'a> {
    pub(crate) target: &'a Target,
    pub(crate) config: &'a Config,
    pub(crate) lakebase: &'a Lakebase,
    pub(crate) proxy: &'a Proxy,
    pub(crate) command: &'a [OsString],
    /// It gets the credentials of this process.
    pub(crate) has_credentials: bool,
}

impl Run<'_> {
    /// Runs the command to its end and forwards signals to it. A signal before its start ends the wait.
    pub(crate) async fn to_end(&self, mut signals: Signals) -> Result<ExitCode, Box<dyn Error>> {
        tokio::select! {
            biased;
            code = signals.end() => Ok(code),
            command = self.prepare() => Ok(run(command?, signals).await?),
        }
    }

    /// Builds the command with the variables of drivers.
    async fn prepare(&self) -> Result<Command, Box<dyn Error>> {
        let (lakebase, proxy, config) = (self.lakebase, self.proxy, self.config);
        let (program, arguments) = self.command.split_first().ok_or("no command")?;
        let target = lakebase.target().await?;
        let mut command = Command::new(program);
        for name in CLEARED_VARIABLES {
            command.env_remove(name);
        }
        if !self.has_credentials {
            let names = std::env::vars_os().map(|(name, _)| name);
            let is_credential = |name: &OsString| {
                let name = name.as_encoded_bytes();
                let mut prefixes = CREDENTIALS.iter();
                prefixes.any(|prefix| name.starts_with(prefix.as_bytes()))
            };
            for name in names.filter(is_credential) {
                command.env_remove(name);
            }
        }
        let (host, port) = match (proxy.folder(), proxy.address()) {
            (Some(folder), _) => (folder.as_os_str().to_owned(), 5432),
            (None, Some(address)) => (address.ip().to_string().into(), address.port()),
            (None, None) => return Err("the proxy has no listener".into()),
        };
        command
            .args(arguments)
            .env("PGHOST", host)
            .env("PGPORT", port.to_string())
            .env("PGDATABASE", target.database())
            .env("PGUSER", target.user())
            .env("PGSSLMODE", "disable")
            .env("DATABASE_URL", proxy.url());
        if let Some(password) = proxy.password() {
            command.env("PGPASSWORD", password);
        }
        command.env("LAKEBASE_EXEC", proxy.url());
        if self.has_credentials {
            // Programs with these crates log in directly, with the original configuration.
            let roots = args::setting(config, "sslrootcert");
            let credential = match lakebase.uses_tokens() {
                true => None,
                // The environment contains a native password already.
                false => Some(lakebase.credential().await?),
            };
            let password = credential.as_ref().map(|known| known.expose());
            let own = url_of(&target, Reader::Lakebase, password, roots.as_deref())?;
            command.env("LAKEBASE_PG_URL", own.as_str());
            for (name, variable) in [
                ("endpoint", "LAKEBASE_ENDPOINT"),
                ("instance", "LAKEBASE_INSTANCE_NAME"),
            ] {
                match args::setting(config, name) {
                    Some(value) => command.env(variable, value),
                    None => command.env_remove(variable),
                };
            }
            if let Some(profile) = &self.target.profile {
                command.env("DATABRICKS_CONFIG_PROFILE", profile);
            }
        }
        if let Some(schema) = lakebase.schema() {
            warn_of_missing_schema(lakebase).await;
            command.env("LAKEBASE_SCHEMA", schema);
            // sea-orm-cli's name of it.
            command.env("DATABASE_SCHEMA", schema);
        }
        // The URL of the configuration is replaced.
        if let Some(name) = args::setting_of_url(config, "application_name") {
            command.env("PGAPPNAME", name);
        }
        // libpq takes whole seconds. Longer than the proxy's limit, so that the proxy's error arrives.
        let seconds = lakebase.connect_timeout().as_secs_f64().ceil() + 1.0;
        command.env("PGCONNECT_TIMEOUT", seconds.to_string());
        Ok(command)
    }
}

/// Postgres ignores a missing schema, and tools fail with "permission denied for schema public". The command may create the
/// schema, so this is only a warning.
async fn warn_of_missing_schema(lakebase: &Lakebase) {
    let wait = SCHEMA_CHECK.min(lakebase.connect_timeout());
    let Ok((client, connection)) = lakebase.with_connect_timeout(wait).connect().await else {
        // The command reports the error.
        return;
    };
    let session = tokio::spawn(connection);
    if let Err(error) = MigrationSession::new(lakebase).has_schema(&client).await {
        print_note(&format!("warning: {}", error.chain()));
    }
    drop(client);
    let _ = session.await;
}

async fn run(mut command: Command, mut signals: Signals) -> io::Result<ExitCode> {
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let program = command.as_std().get_program().display();
            print_note(&format!("cannot run {program}: {error}"));
            // The exit codes of shells.
            return Ok(ExitCode::from(match error.kind() {
                io::ErrorKind::NotFound => 127,
                _ => 126,
            }));
        }
    };
    let pid = child.id();
    tokio::select! {
        status = child.wait() => Ok(code_of(status?)),
        never = signals.pass_on(pid) => match never {},
    }
}

/// The signals to forward. While it exists, none of them ends this process. Signals before the command's start are kept.
/// A SIGHUP that this process ignores stays ignored, also by the command.
pub(crate) struct Signals {
    #[cfg(unix)]
    received: Vec<(Signal, signal::Signal)>,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            received: [
                Signal::SIGTERM,
                Signal::SIGHUP,
                Signal::SIGINT,
                Signal::SIGQUIT,
                Signal::SIGUSR1,
                Signal::SIGUSR2,
                Signal::SIGWINCH,
            ]
            .into_iter()
            .filter(|known| *known != Signal::SIGHUP || !ignores_sighup())
            .map(|known| {
                let kind = signal::SignalKind::from_raw(known as i32);
                Ok((known, signal::signal(kind)?))
            })
            .collect::<io::Result<_>>()?,
        })
    }

    /// Waits for a signal that ends programs. Returns the exit code of shells.
    pub(crate) async fn end(&mut self) -> ExitCode {
        #[cfg(unix)]
        let signal = self
            .next(|known| {
                matches!(
                    known,
                    Signal::SIGTERM | Signal::SIGHUP | Signal::SIGINT | Signal::SIGQUIT
                )
            })
            .await as u8;
        #[cfg(not(unix))]
        let signal = {
            let _ = tokio::signal::ctrl_c().await;
            2
        };
        ExitCode::from(128 + signal)
    }

    /// Forwards signals to the command as long as it is polled.
    #[cfg(unix)]
    async fn pass_on(&mut self, command: Option<u32>) -> Infallible {
        let pid = command.and_then(|pid| i32::try_from(pid).ok());
        // The terminal sends these to the command as well.
        let is_terminal = io::stdin().is_terminal();
        loop {
            let signal = self
                .next(|known| {
                    !is_terminal
                        || !matches!(known, Signal::SIGINT | Signal::SIGQUIT | Signal::SIGWINCH)
                })
                .await;
            if let Some(pid) = pid {
                let _ = kill(Pid::from_raw(pid), signal);
            }
        }
    }

    #[cfg(not(unix))]
    async fn pass_on(&mut self, _: Option<u32>) -> Infallible {
        std::future::pending().await
    }

    #[cfg(unix)]
    async fn next(&mut self, is_wanted: impl Fn(Signal) -> bool) -> Signal {
        let wanted = self.received.iter_mut();
        let received = wanted
            .filter(|(known, _)| is_wanted(*known))
            .map(|(known, received)| {
                Box::pin(async move {
                    received.recv().await;
                    *known
                })
            });
        futures_util::future::select_all(received).await.0
    }
}

/// Returns whether `nohup` started this process. Only Linux reports it.
#[cfg(unix)]
fn ignores_sighup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 << (Signal::SIGHUP as i32 - 1) != 0)
}

/// The exit code of shells.
fn code_of(status: ExitStatus) -> ExitCode {
    #[cfg(unix)]
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    #[cfg(not(unix))]
    let signal = None;
    let code = status.code().or(signal.map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
