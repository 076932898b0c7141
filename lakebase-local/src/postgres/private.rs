//! The private folder: the certificate, the stand-ins of tools, the socket of `ctl`. It belongs to our user even if
//! Postgres runs as another one.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use nix::unistd::{Uid, symlinkat};

use super::folder::Folder;
use super::owner::Owner;
use crate::Error;

#[derive(Debug)]
pub(crate) struct Private {
    folder: Folder,
    /// Files are created through this descriptor, so a replaced folder gets none.
    dir: OwnedFd,
}

impl Private {
    pub(crate) async fn create() -> Result<Self, Error> {
        tokio::task::spawn_blocking(Self::create_blocking)
            .await
            .map_err(|error| Error::because("cannot make a folder", error))?
    }

    fn create_blocking() -> Result<Self, Error> {
        let folder = Folder::create(Owner::ourselves(), None)?;
        let failed = |error: io::Error| {
            Error::because(format!("cannot use {}", folder.path().display()), error)
        };
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let dir = File::from(
            open(folder.path(), flags, Mode::empty()).map_err(|error| failed(error.into()))?,
        );
        let found = dir.metadata().map_err(failed)?;
        if found.uid() != Uid::effective().as_raw() || found.mode() & 0o077 != 0 {
            let text = "another user has put a folder in its place";
            return Err(failed(io::Error::other(text)));
        }
        Ok(Self {
            folder,
            dir: dir.into(),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Creates a file that only our user may read.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<PathBuf, Error> {
        self.write_with(name, text, Mode::S_IRUSR | Mode::S_IWUSR)
    }

    /// Creates a program that only our user may read and run.
    pub(crate) fn write_program(&self, name: &str, text: &str) -> Result<PathBuf, Error> {
        self.write_with(name, text, Mode::S_IRWXU)
    }

    fn write_with(&self, name: &str, text: &str, mode: Mode) -> Result<PathBuf, Error> {
        let path = self.path().join(name);
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(&self.dir, name, flags, mode)
            .map_err(io::Error::from)
            .and_then(|file| File::from(file).write_all(text.as_bytes()))
            .map_err(|error| Error::because(format!("cannot write {}", path.display()), error))?;
        Ok(path)
    }

    /// Creates a symbolic link.
    pub(crate) fn link(&self, name: &str, target: &Path) -> Result<(), Error> {
        symlinkat(target, &self.dir, name).map_err(|error| {
            let path = self.path().join(name);
            Error::because(format!("cannot create {}", path.display()), error)
        })
    }
}
