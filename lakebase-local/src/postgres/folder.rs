//! A temporary folder and the server in it. A supervisor removes both, even if this process is killed.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use nix::sys::statvfs::{Statvfs, statvfs};
use uuid::Uuid;

use super::owner::Owner;
use crate::Error;

/// Maximum length of a parent folder: a Unix socket's path has at most 103 bytes on some systems.
const LONGEST_PARENT: usize = 58;
/// Where Linux keeps files in memory. A cluster is a thousand small files, and a file system creates and removes those
/// many times slower.
const MEMORY: &str = "/dev/shm";
/// Free space that is required to use memory: far more than a cluster of 40 MB and its branches.
const ENOUGH_MEMORY: u64 = 4 << 30;
/// Prefix and twelve random digits. An existing folder of that name is an error.
const NAME_LENGTH: usize = 27;
pub(super) const DATA: &str = "data";
const LOG: &str = "postgres.log";
/// Lines of the server's log in an error.
const LOG_LINES: &str = "5";

/// Creates the folder, reports that, starts the server after a line on the pipe, and waits until the pipe closes
/// because this process dropped it or ended. Then it stops the server and removes the folder. It starts before the
/// folder exists, so a kill never leaves the folder behind.
const SUPERVISOR: &str = r#"
trap '' HUP INT PIPE TERM
dir=$1; shift
mkdir -m 700 "$dir" || exit 1
echo made
exec >/dev/null 2>&1
if read -r _; then
    "$@" </dev/null >>"$dir/postgres.log" 2>&1 &
    server=$!
    cat
    # A starting server ignores signals, so repeat them.
    (while kill -QUIT "$server"; do sleep 0.1; done) &
    wait "$server"
fi
rm -rf "$dir" || { sleep 1; rm -rf "$dir"; }
"#;

#[derive(Debug)]
pub(crate) struct Folder {
    dir: PathBuf,
    owner: Owner,
    supervisor: Child,
    /// Closing it starts the cleanup.
    lifeline: Option<ChildStdin>,
}

impl Folder {
    /// Creates an empty folder that belongs to `owner`. Blocks for a moment.
    pub(crate) fn create(owner: Owner, bin_dir: Option<&Path>) -> Result<Self, Error> {
        // Absolute, as the supervisor runs in another folder.
        let usual = if bin_dir.is_some() && prefers_memory() {
            PathBuf::from(MEMORY)
        } else {
            std::path::absolute(std::env::temp_dir())
                .map_err(|error| Error::because("cannot read the temporary folder", error))?
        };
        let parent = if usual.as_os_str().len() > LONGEST_PARENT {
            PathBuf::from("/tmp")
        } else {
            usual
        };
        let failed = |error: std::io::Error| {
            let who = if owner.is_other() {
                " as the user that Postgres runs as"
            } else {
                ""
            };
            let text = format!(
                "cannot make a folder in {}{who}: set TMPDIR to an existing, writable folder",
                parent.display()
            );
            Error::because(text, error)
        };
        let mut name = format!("lakebase-local-{}", Uuid::new_v4().simple());
        name.truncate(NAME_LENGTH);
        let dir = parent.join(name);
        let server = bin_dir.map(|bin_dir| {
            let program = bin_dir.join("postgres").into_os_string();
            let (data, sockets) = (dir.join(DATA).into(), dir.clone().into());
            [
                program,
                OsString::from("-D"),
                data,
                OsString::from("-k"),
                sockets,
            ]
        });
        let mut command = Command::new("sh");
        command
            .args(["-c", SUPERVISOR, "lakebase-local-supervisor"])
            .arg(&dir)
            .args(server.into_iter().flatten())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let spawned = owner.prepare(&mut command).spawn();
        let mut supervisor = spawned.map_err(|error| Error::because("cannot run `sh`", error))?;
        let mut word = String::new();
        if let Some(stdout) = supervisor.stdout.take() {
            BufReader::new(stdout)
                .read_line(&mut word)
                .map_err(failed)?;
        }
        if word.is_empty() {
            let said = supervisor.wait_with_output().map_err(failed)?;
            let said = String::from_utf8_lossy(&said.stderr).trim().to_owned();
            return Err(failed(std::io::Error::other(said)));
        }
        Ok(Self {
            lifeline: supervisor.stdin.take(),
            supervisor,
            owner,
            dir,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join(DATA)
    }

    /// Starts the server on the data folder.
    pub(crate) fn serve(&mut self) -> Result<(), Error> {
        let failed = |error| Error::because("cannot start Postgres", error);
        match &mut self.lifeline {
            Some(lifeline) => lifeline.write_all(b"serve\n").map_err(failed),
            None => Ok(()),
        }
    }

    pub(crate) fn has_stopped(&self) -> bool {
        // A server writes its pid before its first log line, and removes it at the end.
        let log = fs::metadata(self.path().join(LOG));
        log.is_ok_and(|log| log.len() > 0) && !self.data().join("postmaster.pid").exists()
    }

    /// Returns the end of the server's log. A process of the owner reads it, as the folder may be another user's.
    pub(crate) async fn log_tail(&self) -> String {
        let mut command = Command::new("tail");
        command.args(["-n", LOG_LINES]).arg(self.dir.join(LOG));
        self.owner.prepare(&mut command);
        let tail = tokio::process::Command::from(command).output().await;
        let tail = tail.map(|output| output.stdout).unwrap_or_default();
        let text = String::from_utf8_lossy(&tail);
        text.lines().collect::<Vec<_>>().join(" | ")
    }
}

/// Returns whether to create a server's folder in memory: `TMPDIR` is not set, and there is enough space.
fn prefers_memory() -> bool {
    // macOS counts blocks in 32 bits.
    #[allow(clippy::useless_conversion)]
    let is_enough = |memory: Statvfs| {
        u64::from(memory.blocks_available()) * memory.fragment_size() >= ENOUGH_MEMORY
    };
    std::env::var_os("TMPDIR").is_none() && statvfs(MEMORY).is_ok_and(is_enough)
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        let _ = self.supervisor.wait();
    }
}
