//! Runs a command-line tool: never through a shell, never for ever.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use crate::Error;
use crate::config::attributes::Vars;
use crate::error::Kind;

/// No answer of these tools comes near it.
const LARGEST_OUTPUT: u64 = 256 * 1024;
/// Longest piece of a tool's complaint that an error repeats.
const LONGEST_QUOTE: usize = 500;

pub(super) struct Program {
    path: PathBuf,
    vars: Arc<Vars>,
}

pub(super) struct Output {
    pub(super) success: bool,
    pub(super) stdout: String,
    /// For people: cut to length, without control characters.
    pub(super) complaint: String,
}

impl Program {
    pub(super) fn new(path: PathBuf, vars: Arc<Vars>) -> Self {
        Self { path, vars }
    }

    /// Runs it with the environment that the configuration was read in. It is killed when the limit
    /// is over or the caller goes away.
    pub(super) async fn run(&self, args: &[&str], limit: Duration) -> Result<Output, Error> {
        let name = self.path.display();
        let mut command = Command::new(&self.path);
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if !self.vars.is_empty() {
            command.env_clear().envs(self.vars.iter());
        }
        let mut child = command.spawn().map_err(|error| {
            Error::new(Kind::Network, format!("cannot run {name}"))
                .with_transient(false)
                .with_source(error)
        })?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let work = async {
            let (stdout, stderr, status) = tokio::join!(read(stdout), read(stderr), child.wait());
            (stdout, stderr, status)
        };
        let (stdout, stderr, status) = tokio::time::timeout(limit, work).await.map_err(|_| {
            Error::new(
                Kind::Timeout,
                format!("{name} did not answer within {} s", limit.as_secs()),
            )
        })?;
        let status = status.map_err(|error| {
            Error::new(Kind::Network, format!("lost {name}")).with_source(error)
        })?;
        let complaint = match stderr.trim() {
            "" => format!("{name} ended with {status}"),
            text => quoted(text),
        };
        Ok(Output {
            success: status.success(),
            stdout,
            complaint,
        })
    }
}

async fn read(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // What came before an error is all there is.
        let _ = pipe.take(LARGEST_OUTPUT).read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn quoted(text: &str) -> String {
    let mut quoted: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(LONGEST_QUOTE)
        .collect();
    if text.chars().count() > LONGEST_QUOTE {
        quoted.push_str("...");
    }
    quoted
}

/// Every program of that name on the PATH, in its order.
pub(super) fn on_path<'a>(name: &'a str, vars: &'a Vars) -> impl Iterator<Item = PathBuf> + 'a {
    let path = vars.get("PATH").map(String::as_str).unwrap_or_default();
    let names = [name.to_owned(), format!("{name}.exe")];
    let names: Vec<String> = names
        .into_iter()
        .take(if cfg!(windows) { 2 } else { 1 })
        .collect();
    std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .flat_map(move |folder| {
            let found: Vec<PathBuf> = names.iter().map(|name| folder.join(name)).collect();
            found
        })
        .filter(|path| is_program(path))
        .collect::<Vec<_>>()
        .into_iter()
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
