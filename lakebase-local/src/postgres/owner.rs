//! The user that Postgres runs as: our own, or an unprivileged one if we are root.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use nix::unistd::{Gid, Uid, User};

use crate::Error;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    /// `None` if we are not root: processes run as our user.
    ids: Option<(Uid, Gid)>,
}

/// Variables that child processes get besides `PATH`. Others may hold secrets.
const PASSED_ON: &[&str] = &["LD_LIBRARY_PATH"];

impl Owner {
    pub(crate) fn ourselves() -> Self {
        Self { ids: None }
    }

    pub(crate) fn of_postgres() -> Result<Self, Error> {
        if !Uid::effective().is_root() {
            return Ok(Self::ourselves());
        }
        let user = ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| User::from_name(name).ok().flatten())
            .ok_or_else(|| {
                Error::new("Postgres refuses to run as root, and there is no user `postgres` or `nobody` to run it as")
            })?;
        Ok(Self {
            ids: Some((user.uid, user.gid)),
        })
    }

    /// Makes a command run as the owner, without our environment, in a folder that the owner can enter, and in a
    /// process group of its own, so that Ctrl-C does not reach it.
    pub(crate) fn prepare<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env_clear();
        if let Ok(path) = std::env::join_paths(program_folders()) {
            command.env("PATH", path);
        }
        for name in PASSED_ON {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if let Some((uid, gid)) = self.ids {
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
        command.current_dir("/").process_group(0)
    }

    /// Returns whether Postgres runs as another user.
    pub(crate) fn is_other(&self) -> bool {
        self.ids.is_some()
    }
}

/// The absolute folders of PATH. A relative one depends on the working folder.
pub(crate) fn program_folders() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).filter(|folder| folder.is_absolute());
    let folders: Vec<PathBuf> = folders.collect();
    match folders.is_empty() {
        true => vec!["/usr/bin".into(), "/bin".into()],
        false => folders,
    }
}

/// The folder for downloads: one per user, readable for the user that Postgres runs as.
#[cfg(feature = "embedded")]
pub(crate) fn cache_dir() -> PathBuf {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    match home.filter(|home| home.is_absolute() && !Uid::effective().is_root()) {
        Some(home) => home.join(".cache/lakebase-local"),
        None => PathBuf::from("/var/cache/lakebase-local"),
    }
}
