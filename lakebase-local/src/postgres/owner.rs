//! Whom Postgres runs as: ourselves, or an unprivileged user when we are root.

use std::process::Command;

use std::os::unix::process::CommandExt as _;

use nix::unistd::{Gid, Uid, User};

use crate::Error;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    /// `None` when we are not root: processes run as we do.
    ids: Option<(Uid, Gid)>,
}

impl Owner {
    pub(crate) fn current() -> Result<Self, Error> {
        if !Uid::effective().is_root() {
            return Ok(Self { ids: None });
        }
        // Postgres refuses to run as root.
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

    /// Makes a command run as the owner, in a folder that the owner can enter, and out of reach
    /// of a Ctrl-C in our terminal.
    pub(crate) fn prepare<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        if let Some((uid, gid)) = self.ids {
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
        command.current_dir("/").process_group(0)
    }

    /// Not ourselves.
    pub(crate) fn is_other(&self) -> bool {
        self.ids.is_some()
    }
}

/// Where downloads are kept: per user, and readable for the user that Postgres runs as.
#[cfg(feature = "embedded")]
pub(crate) fn cache_dir() -> std::path::PathBuf {
    use std::path::PathBuf;

    let home = std::env::var_os("HOME").filter(|_| !Uid::effective().is_root());
    match home {
        Some(home) => PathBuf::from(home).join(".cache/lakebase-local"),
        None => PathBuf::from("/var/cache/lakebase-local"),
    }
}
