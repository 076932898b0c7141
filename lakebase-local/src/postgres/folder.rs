//! A temporary folder and the server in it, both gone when we are, however we end.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use super::owner::Owner;
use crate::Error;

/// Longest path of a Unix socket, less room for its name.
const LONGEST_SOCKET_DIR: usize = 80;
const DATA: &str = "data";
/// Lines of the server's log that an error shows.
const LOG_LINES: usize = 5;

/// Waits for a word to start the server, then until the pipe from us closes: we dropped it, exited
/// or were killed. Then it stops the server and removes the folder.
const SUPERVISOR: &str = r#"
trap '' HUP INT TERM
dir=$1; shift
if read -r _; then
    "$@" </dev/null >>"$dir/postgres.log" 2>&1 &
    server=$!
    cat >/dev/null
    kill -QUIT "$server" 2>/dev/null
    wait "$server" 2>/dev/null
fi
rm -rf "$dir" 2>/dev/null || { sleep 1; rm -rf "$dir"; }
"#;

#[derive(Debug)]
pub(crate) struct Folder {
    dir: PathBuf,
    supervisor: Child,
    /// Closing it is the signal to clean up.
    lifeline: Option<ChildStdin>,
}

impl Folder {
    pub(crate) fn create(owner: &Owner, bin_dir: &Path) -> Result<Self, Error> {
        let usual = std::env::temp_dir();
        let parent = if usual.as_os_str().len() > LONGEST_SOCKET_DIR {
            PathBuf::from("/tmp")
        } else {
            usual
        };
        let failed = |error| {
            Error::because(
                format!("cannot make a folder in {}", parent.display()),
                error,
            )
        };
        let dir = tempfile::Builder::new()
            .prefix("lakebase-local-")
            .tempdir_in(&parent)
            .map_err(failed)?;
        owner.take(dir.path()).map_err(failed)?;
        let mut command = Command::new("sh");
        command
            .args(["-c", SUPERVISOR, "lakebase-local-supervisor"])
            .arg(dir.path())
            .arg(bin_dir.join("postgres"))
            .arg("-D")
            .arg(dir.path().join(DATA))
            .arg("-k")
            .arg(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut supervisor = owner.prepare(&mut command).spawn().map_err(failed)?;
        Ok(Self {
            lifeline: supervisor.stdin.take(),
            supervisor,
            // From here on it is the supervisor's to remove.
            dir: dir.keep(),
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
        // A server writes its pid before its first line of log, and removes it when it ends.
        let log = fs::metadata(self.path().join("postgres.log"));
        log.is_ok_and(|log| log.len() > 0) && !self.data().join("postmaster.pid").exists()
    }

    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.path().join("postgres.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join(" | ")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        let _ = self.supervisor.wait();
    }
}
