//! Runs a command-line tool without a shell and with a time limit, and kills all processes that it has started.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use crate::error::Error;
use crate::error::Kind;
use crate::error::foreign::clean_text;
use crate::settings::attributes::Vars;

/// Far more than the output of these tools.
const LARGEST_OUTPUT: u64 = 256 * 1024;
/// Time to read the rest of the output: child processes of the tool may keep its pipes open.
const PIPE_PATIENCE: Duration = Duration::from_secs(1);

pub(super) struct Program {
    path: PathBuf,
    vars: Arc<Vars>,
    /// Variables for this program that differ from `vars`; `None` unsets one.
    changes: Vec<(&'static str, Option<String>)>,
}

pub(super) struct Output {
    pub(super) success: bool,
    pub(super) stdout: String,
    pub(super) stderr: String,
    complaint: String,
}

impl Output {
    /// Error text with the tool's message.
    pub(super) fn no_token(&self) -> String {
        format!("cannot get access token: {}", self.complaint)
    }
}

impl Program {
    pub(super) fn new(path: PathBuf, vars: Arc<Vars>) -> Self {
        Self {
            path,
            vars,
            changes: Vec::new(),
        }
    }

    pub(super) fn with(mut self, variable: &'static str, value: Option<String>) -> Self {
        self.changes.push((variable, value));
        self
    }

    /// Runs the program with the environment of the configuration. Kills it after `limit`, or when the future is dropped.
    pub(super) async fn run(&self, args: &[&str], limit: Duration) -> Result<Output, Error> {
        let name = self.path.display();
        let mut command = Command::new(&self.path);
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // Its child processes are in its group.
        #[cfg(unix)]
        command.process_group(0);
        if !self.vars.is_empty() {
            command.env_clear().envs(self.vars.iter());
        }
        for (variable, value) in &self.changes {
            match value {
                Some(value) => command.env(variable, value),
                None => command.env_remove(variable),
            };
        }
        let failed = |what: &str, error: io::Error| {
            Error::new(Kind::Network, format!("{what} {name}")).with_source(error)
        };
        let child = command.spawn();
        let child = child.map_err(|error| failed("cannot run", error).with_transient(false))?;
        let ended = tokio::time::timeout(limit, Running(child).finish()).await;
        let ended = ended.map_err(|_| {
            let text = format!("{name} did not answer within {} s", limit.as_secs());
            Error::new(Kind::Timeout, text)
        })?;
        let (stdout, stderr, status) = ended.map_err(|error| failed("lost", error))?;
        let complaint = match stderr.trim() {
            "" => format!("{name} ended with {status}"),
            text => clean_text(text),
        };
        Ok(Output {
            success: status.success(),
            stdout,
            stderr,
            complaint,
        })
    }
}

/// Kills the program and its child processes when it is dropped.
struct Running(Child);

impl Running {
    async fn finish(mut self) -> io::Result<(String, String, ExitStatus)> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let pipes = (self.0.stdout.take(), self.0.stderr.take());
        let status = {
            let reading =
                async { tokio::join!(read(pipes.0, &mut stdout), read(pipes.1, &mut stderr)) };
            let mut reading = std::pin::pin!(reading);
            tokio::select! {
                _ = &mut reading => self.0.wait().await?,
                status = self.0.wait() => {
                    let _ = tokio::time::timeout(PIPE_PATIENCE, reading).await;
                    status?
                }
            }
        };
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok((text(stdout), text(stderr), status))
    }
}

#[cfg(unix)]
impl Drop for Running {
    fn drop(&mut self) {
        use nix::sys::signal::{Signal, killpg};
        use nix::unistd::Pid;

        // After `wait` there is no id, which may be another process's.
        let id = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(id) = id {
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

async fn read(pipe: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) {
    if let Some(pipe) = pipe {
        let mut pipe = pipe.take(LARGEST_OUTPUT);
        while pipe.read_buf(into).await.is_ok_and(|read| read > 0) {}
    }
}

/// All programs with this name on the `PATH`, in its order.
pub(super) fn on_path(name: &str, vars: &Vars) -> Vec<PathBuf> {
    let is_path = |key: &str| key == "PATH" || cfg!(windows) && key.eq_ignore_ascii_case("PATH");
    let path = vars.iter().find(|(key, _)| is_path(key));
    let path = path.map(|(_, value)| value.as_str()).unwrap_or_default();
    let endings: &[&str] = match cfg!(windows) {
        true => &[".exe", ".cmd", ".bat"],
        false => &[""],
    };
    std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .flat_map(|folder| {
            endings
                .iter()
                .map(move |end| folder.join(format!("{name}{end}")))
        })
        .filter(|path| is_program(path))
        .collect()
}

#[cfg(unix)]
fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;

    path.metadata()
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_program(path: &Path) -> bool {
    path.is_file()
}
