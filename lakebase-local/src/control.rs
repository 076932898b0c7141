//! `ctl`: controls a running local Lakebase through a socket in its folder, which only its user can enter.

use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lexopt::{Arg, Parser, ValueExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::Error;
use crate::branches::Branches;
use crate::clock::PlatformClock;
use crate::compute::{Cut, Wake};
use crate::faults::LoginFault;
use crate::gateway::Gateway;
use crate::workspace::{Outage, Switch};

/// Names the folder of a running local Lakebase.
pub(crate) const DIR_VARIABLE: &str = "LAKEBASE_LOCAL_DIR";
/// The socket in it.
pub(crate) const SOCKET: &str = "control";
/// Timeout of one command.
const LIMIT: Duration = Duration::from_secs(30);
/// Maximum bytes of a command.
const LONGEST: u64 = 4096;
/// First lines of replies.
const DONE: &str = "done\n";
const FAILED: &str = "failed\n";

const HELP: &str = "\
Controls a running local Lakebase.

Usage: %NAME% ctl [--dir DIR] COMMAND

Commands:
  status
          Show addresses, identities, state and counters
  branches
          List the branches: id, state, host, source
  revoke
          Revoke every database token
  expire [database|workspace]
          Expire every token of a kind [default: database]
  cut [message|close|reset|vanish]
          End every open session: with an error (57P01), by
          closing or resetting the connection, or by
          dropping its packets [default: message]
  suspend [SECONDS] [wait|reject|close]
          Suspend the compute. The next login resumes it,
          which takes SECONDS [default: 0]. Until then,
          logins wait, are rejected (57P03), or their
          connections are closed [default: wait]
  outage down|503|silent [SECONDS]
          Break the workspace API for SECONDS, or until
          `outage off`: it resets connections, answers 503,
          or does not answer
  outage off
          End the outage
  clock ahead|behind SECONDS
          Set the platform's clock ahead of this machine's,
          or behind it
  clock right
          Set the platform's clock to this machine's
  fresh-branch SECONDS [SQLSTATE]
          Reject valid tokens for SECONDS, as a new branch
          does [default: 28000]

Options:
  --dir DIR
          Folder of the local Lakebase
          [env: LAKEBASE_LOCAL_DIR]
  -h, --help
          Print help

LAKEBASE_LOCAL_DIR is set in programs that %NAME%
starts, and in shells that run the lines it prints. Only the
user who runs the local Lakebase can control it.
";

/// A command for a running local Lakebase.
#[derive(Debug, PartialEq)]
enum Command {
    Status,
    Branches,
    Revoke,
    ExpireDatabaseTokens,
    ExpireWorkspaceTokens,
    Cut(Cut),
    Suspend(Duration, Wake),
    Outage(Option<Outage>, Option<Duration>),
    /// Milliseconds ahead.
    Clock(i64),
    FreshBranch(Duration, String),
}

impl Command {
    fn parse(words: &[&str]) -> Result<Self, String> {
        Ok(match words {
            ["status"] => Self::Status,
            ["branches"] => Self::Branches,
            ["revoke"] => Self::Revoke,
            ["expire"] | ["expire", "database"] => Self::ExpireDatabaseTokens,
            ["expire", "workspace"] => Self::ExpireWorkspaceTokens,
            ["cut"] => Self::Cut(Cut::Message),
            ["cut", "message"] => Self::Cut(Cut::Message),
            ["cut", "close"] => Self::Cut(Cut::Close),
            ["cut", "reset"] => Self::Cut(Cut::Reset),
            ["cut", "vanish"] => Self::Cut(Cut::Vanish),
            ["suspend"] => Self::Suspend(Duration::ZERO, Wake::SlowAccept),
            ["suspend", delay] => Self::Suspend(seconds(delay)?, Wake::SlowAccept),
            ["suspend", delay, "wait"] => Self::Suspend(seconds(delay)?, Wake::SlowAccept),
            ["suspend", delay, "reject"] => Self::Suspend(seconds(delay)?, Wake::StartingUp),
            ["suspend", delay, "close"] => Self::Suspend(seconds(delay)?, Wake::Close),
            ["outage", "off"] => Self::Outage(None, None),
            ["outage", kind, end @ ..] if end.len() <= 1 => {
                let outage = match *kind {
                    "down" => Outage::Down,
                    "503" => Outage::Unavailable,
                    "silent" => Outage::Silent,
                    _ => return Err(unknown(words)),
                };
                let end = end.first().map(|end| seconds(end)).transpose()?;
                Self::Outage(Some(outage), end)
            }
            ["clock", "right"] => Self::Clock(0),
            ["clock", "ahead", distance] => Self::Clock(millis(distance)?),
            ["clock", "behind", distance] => Self::Clock(-millis(distance)?),
            ["fresh-branch", time] => Self::FreshBranch(seconds(time)?, "28000".to_owned()),
            ["fresh-branch", time, code] => {
                let is_code =
                    code.len() == 5 && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
                if !is_code {
                    return Err(format!(
                        "{code:?} is not an SQLSTATE: five letters and digits"
                    ));
                }
                Self::FreshBranch(seconds(time)?, code.to_ascii_uppercase())
            }
            _ => return Err(unknown(words)),
        })
    }
}

fn unknown(words: &[&str]) -> String {
    match words {
        [] => "a command is missing".to_owned(),
        _ => format!("unknown command: {}", words.join(" ")),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().map(Duration::try_from_secs_f64);
    let seconds = seconds.and_then(Result::ok);
    seconds.ok_or_else(|| format!("{text:?} is not a number of seconds"))
}

fn millis(text: &str) -> Result<i64, String> {
    // A larger distance would overflow the clock.
    let millis = i64::try_from(seconds(text)?.as_millis()).ok();
    let millis = millis.filter(|millis| *millis < 100 * 365 * 86_400_000);
    millis.ok_or_else(|| format!("{text:?} seconds are more than a century"))
}

/// The parts of a local Lakebase that commands change.
pub(crate) struct Controls {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) branches: Arc<Branches>,
    pub(crate) clock: Arc<PlatformClock>,
    pub(crate) switch: Arc<Switch>,
    /// Names and values for `status`.
    pub(crate) about: Vec<(&'static str, String)>,
}

impl Controls {
    async fn run(&self, command: Command) -> Result<String, Error> {
        let gateway = &self.gateway;
        Ok(match command {
            Command::Status => return Ok(self.status()),
            Command::Branches => {
                let all = self.branches.all();
                let lines = all.iter().map(|branch| branch.to_string());
                return Ok(lines.collect::<Vec<_>>().join("\n"));
            }
            Command::Revoke => {
                gateway.issuer.revoke_all();
                "revoked every database token".to_owned()
            }
            Command::ExpireDatabaseTokens => {
                gateway.issuer.expire_all();
                "every database token has expired".to_owned()
            }
            Command::ExpireWorkspaceTokens => {
                gateway.issuer.expire_workspace_tokens();
                "every workspace token has expired".to_owned()
            }
            Command::Cut(cut) => {
                gateway.cut_sessions(cut).await?;
                "ended every open session".to_owned()
            }
            Command::Suspend(delay, wake) => {
                gateway.compute.suspend(delay, wake);
                gateway.cut_sessions(Cut::Message).await?;
                format!("suspended the compute; the next login resumes it, which takes {delay:?}")
            }
            Command::Outage(outage, time) => {
                let end = time.and_then(|time| Instant::now().checked_add(time));
                self.switch.set(outage, end);
                match (outage, end.and(time)) {
                    (None, _) => "the workspace API is in order".to_owned(),
                    (Some(_), None) => format!("the workspace API is {}", self.api()),
                    (Some(_), Some(time)) => {
                        format!("the workspace API is {} for {time:?}", self.api())
                    }
                }
            }
            Command::Clock(ahead) => {
                self.clock.set_skew(ahead);
                format!("the platform's clock is {}", self.skew())
            }
            Command::FreshBranch(time, code) => {
                let fault = LoginFault::fresh_branch(&code);
                gateway.rules.login_faults.set_for(time, fault);
                format!("valid tokens are rejected for {time:?}")
            }
        })
    }

    fn api(&self) -> &'static str {
        match self.switch.outage() {
            None => "in order",
            Some(Outage::Down) => "down",
            Some(Outage::Unavailable) => "answering 503",
            Some(Outage::Silent) => "silent",
        }
    }

    fn skew(&self) -> String {
        let millis = self.clock.skew_millis();
        let distance = Duration::from_millis(millis.unsigned_abs());
        match millis {
            0 => "right".to_owned(),
            1.. => format!("{distance:?} ahead"),
            _ => format!("{distance:?} behind"),
        }
    }

    fn status(&self) -> String {
        let compute = match self.gateway.compute.is_awake() {
            true => "active",
            false => "suspended",
        };
        let state = [
            ("compute", compute.to_owned()),
            ("workspace API", self.api().to_owned()),
            ("clock", self.skew()),
        ];
        let counters = self.gateway.events.counters();
        let counts = [
            ("API requests", counters.requests),
            ("credential calls", counters.credential_calls),
            ("token calls", counters.token_calls),
            ("database tokens minted", counters.minted),
            ("workspace tokens issued", counters.workspace_tokens),
            ("logins accepted", counters.logins),
            ("logins rejected", counters.refused),
            ("open sessions", counters.open_sessions),
        ];
        let counts = counts.map(|(name, count)| (name, count.to_string()));
        let lines = self.about.iter().chain(&state).chain(&counts);
        let lines = lines.map(|(name, value)| format!("{name:24}{value}"));
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// Runs the commands that arrive on the socket, until the handle is dropped.
pub(crate) async fn serve(
    controls: Controls,
    listener: UnixListener,
    mut stop: watch::Receiver<bool>,
) {
    let controls = Arc::new(controls);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let Ok((mut socket, _)) = accepted else {
            // Probably out of file descriptors: wait until others are closed.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let controls = Arc::clone(&controls);
        let mut stop = stop.clone();
        let answering = async move {
            let (reader, mut writer) = socket.split();
            let mut text = String::new();
            reader.take(LONGEST).read_to_string(&mut text).await?;
            let words: Vec<&str> = text.lines().collect();
            let outcome = match Command::parse(&words) {
                Ok(command) => controls.run(command).await.map_err(|error| error.chain()),
                Err(text) => Err(text),
            };
            let reply = match outcome {
                Ok(text) => format!("{DONE}{text}"),
                Err(text) => format!("{FAILED}{text}"),
            };
            writer.write_all(reply.as_bytes()).await?;
            writer.shutdown().await
        };
        tokio::spawn(async move {
            tokio::select! {
                outcome = timeout(LIMIT, answering) => {
                    if let Ok(Err(error)) = outcome {
                        tracing::debug!(%error, "ctl disconnected");
                    }
                }
                _ = stop.wait_for(|stop| *stop) => {}
            }
        });
    }
}

/// The result of `ctl`.
pub(crate) enum Outcome {
    Done(String),
    Failed(String),
    Misused(String),
}

/// Runs `ctl` with its arguments.
pub(crate) fn command(name: &str, args: impl IntoIterator<Item = OsString>) -> Outcome {
    let mut parser = Parser::from_args(args);
    let mut dir = None;
    let mut words = Vec::new();
    let mut read = || -> Result<bool, lexopt::Error> {
        while let Some(arg) = parser.next()? {
            match arg {
                Arg::Short('h') | Arg::Long("help") => return Ok(true),
                Arg::Long("dir") => dir = Some(PathBuf::from(parser.value()?)),
                Arg::Value(word) => words.push(word.string()?),
                other => return Err(other.unexpected()),
            }
        }
        Ok(false)
    };
    match read() {
        Ok(true) => return Outcome::Done(HELP.replace("%NAME%", name)),
        Ok(false) => {}
        Err(error) => return Outcome::Misused(error.to_string()),
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if let Err(text) = Command::parse(&words) {
        return Outcome::Misused(text);
    }
    let dir = dir.or_else(|| {
        let dir = std::env::var_os(DIR_VARIABLE).filter(|dir| !dir.is_empty());
        dir.map(PathBuf::from)
    });
    let Some(dir) = dir else {
        return Outcome::Misused(format!(
            "{DIR_VARIABLE} is not set: run this in a shell that has the variables of a running {name}, or name its folder with --dir"
        ));
    };
    match ask(&dir, &words.join("\n")) {
        Ok(reply) => match (reply.strip_prefix(DONE), reply.strip_prefix(FAILED)) {
            (Some(text), _) => Outcome::Done(format!("{text}\n")),
            (_, Some(text)) => Outcome::Failed(text.to_owned()),
            _ => Outcome::Failed(format!(
                "the local Lakebase in {} ended before it answered",
                dir.display()
            )),
        },
        Err(error) => Outcome::Failed(format!(
            "cannot reach a local Lakebase in {}: {error}. It has ended, or another user runs it",
            dir.display()
        )),
    }
}

fn ask(dir: &Path, text: &str) -> io::Result<String> {
    let mut socket = UnixStream::connect(dir.join(SOCKET))?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.write_all(text.as_bytes())?;
    socket.shutdown(Shutdown::Write)?;
    let mut reply = String::new();
    socket.read_to_string(&mut reply)?;
    Ok(reply)
}
