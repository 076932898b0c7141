//! The Unix socket of a proxy, and the cleanup of sockets that dead processes left.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::geteuid;
use tokio::net::{UnixListener, UnixStream};

use super::peer::Peer;

/// The name that Postgres and its drivers use.
const SOCKET: &str = ".s.PGSQL.5432";
/// Prefix of [`SOCKET`], and of a socket that is not renamed yet. It is short because the kernel limits a path to about a
/// hundred bytes.
const UNNAMED: &str = ".s.";
/// Prefix of private folders; twelve hexadecimal digits follow.
const PREFIX: &str = "lakebase-proxy-";
/// A folder without a socket that is older belongs to a dead process.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Listens until it is dropped, and then removes the socket, and the folder if it is private.
#[derive(Debug)]
pub(super) struct UnixSocket {
    listener: UnixListener,
    folder: PathBuf,
    is_private: bool,
    /// The socket's inode, to distinguish it from another listener's socket.
    inode: Option<u64>,
    /// A forked child has a copy of this value and must not remove the parent's socket.
    process: u32,
}

impl UnixSocket {
    /// Listens in a new folder below the system's temporary one. Removes the folders that dead processes of this user left
    /// there. Blocks.
    pub(super) fn private() -> io::Result<Self> {
        let temporary = std::path::absolute(std::env::temp_dir())?;
        if temporary.to_str().is_none() {
            // A URL is text.
            return Err(io::Error::other("the temporary folder's name is not UTF-8"));
        }
        sweep(&temporary);
        let id = uuid::Uuid::new_v4().simple().to_string();
        let folder = temporary.join(format!("{PREFIX}{}", &id[..12]));
        create_private(&folder)?;
        Self::listen(&folder, true).inspect_err(|_| remove_private(&folder))
    }

    /// Listens in an existing folder, and replaces a socket that has no listener. Blocks.
    pub(super) fn in_folder(folder: &Path) -> io::Result<Self> {
        Self::listen(folder, false)
    }

    fn listen(folder: &Path, is_private: bool) -> io::Result<Self> {
        if is_private && !is_private_folder(&fs::symlink_metadata(folder)?) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let socket = folder.join(SOCKET);
        if fs::symlink_metadata(&socket).is_ok() && !is_dead(&socket) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        // Renamed after `listen`: before that, another process would consider it dead.
        let new = folder.join(format!("{UNNAMED}{}", std::process::id()));
        let listener = UnixListener::bind(&new)?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600))
            .and_then(|()| fs::rename(&new, &socket))
            .inspect_err(|_| drop(fs::remove_file(&new)))?;
        Ok(Self {
            listener,
            folder: folder.to_owned(),
            is_private,
            inode: inode(&socket),
            process: std::process::id(),
        })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) async fn accept(&self) -> io::Result<(UnixStream, Peer)> {
        let (stream, _) = self.listener.accept().await?;
        let credentials = stream.peer_cred()?;
        let process = credentials.pid().and_then(|pid| u32::try_from(pid).ok());
        let peer = if process == Some(std::process::id()) {
            Peer::ThisProcess
        } else if credentials.uid() == geteuid().as_raw() {
            Peer::ThisUser
        } else {
            Peer::OtherUser
        };
        Ok((stream, peer))
    }

    /// Listens again if a program that cleans temporary folders has removed the socket.
    pub(super) async fn revive(&mut self) -> io::Result<()> {
        let (folder, is_private, known) = (self.folder.clone(), self.is_private, self.inode);
        let revived = tokio::task::spawn_blocking(move || {
            if inode(&folder.join(SOCKET)) == known {
                return Ok(None);
            }
            if is_private && !folder.exists() {
                create_private(&folder)?;
            }
            Self::listen(&folder, is_private).map(Some)
        });
        if let Some(again) = revived.await?? {
            *self = again;
            tracing::warn!(name: "lakebase.proxy.socket_restored", target: "lakebase::proxy", "the proxy's socket was removed, listens again");
        }
        Ok(())
    }
}

/// Removes the socket before the listener closes: drivers retry a refused connection, but not a missing socket.
impl Drop for UnixSocket {
    fn drop(&mut self) {
        let socket = self.folder.join(SOCKET);
        if self.process != std::process::id() || inode(&socket) != self.inode {
            return;
        }
        match self.is_private {
            true => remove_private(&self.folder),
            false => drop(fs::remove_file(socket)),
        }
    }
}

fn inode(socket: &Path) -> Option<u64> {
    Some(fs::symlink_metadata(socket).ok()?.ino())
}

fn create_private(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(folder)
}

/// A folder that only this user can enter.
fn is_private_folder(found: &fs::Metadata) -> bool {
    found.is_dir() && found.uid() == geteuid().as_raw() && found.mode() & 0o077 == 0
}

/// Removes the folders that killed processes left.
fn sweep(temporary: &Path) {
    for entry in fs::read_dir(temporary).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let is_named = |id: &str| id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        if id.is_some_and(is_named) && is_left_behind(&entry).unwrap_or(false) {
            remove_private(&entry.path());
        }
    }
}

/// Whether this is a private folder of this user that has a socket without a listener or, for long, no socket.
fn is_left_behind(folder: &fs::DirEntry) -> io::Result<bool> {
    // Does not follow links.
    let found = folder.metadata()?;
    if !is_private_folder(&found) {
        return Ok(false);
    }
    let socket = folder.path().join(SOCKET);
    match fs::symlink_metadata(&socket) {
        Ok(_) => Ok(is_dead(&socket)),
        Err(_) => Ok(found.modified()?.elapsed().is_ok_and(|age| age > ABANDONED)),
    }
}

/// Removes our sockets, renamed or not, and the folder if it is empty then.
fn remove_private(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(UNNAMED.as_bytes()) {
            let _ = fs::remove_file(entry.path());
        }
    }
    let _ = fs::remove_dir(folder);
}

/// Whether the socket has no listener.
fn is_dead(socket: &Path) -> bool {
    let connect = || {
        // Nonblocking: a listener whose queue is full is alive.
        let probe = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
        probe.set_nonblocking(true)?;
        probe.connect(&socket2::SockAddr::unix(socket)?)
    };
    connect().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::*;

    async fn connects(folder: &Path) -> bool {
        UnixStream::connect(folder.join(SOCKET)).await.is_ok()
    }

    #[tokio::test]
    async fn a_removed_socket_is_created_again() {
        let mut listener = UnixSocket::private().unwrap();
        let folder = listener.folder().to_owned();
        for is_all_removed in [false, true, false] {
            listener.revive().await.unwrap();
            assert!(connects(&folder).await);
            fs::remove_file(folder.join(SOCKET)).unwrap();
            if is_all_removed {
                fs::remove_dir(&folder).unwrap();
            }
            assert!(!connects(&folder).await);
            listener.revive().await.unwrap();
            assert!(connects(&folder).await);
        }
        drop(listener);
        assert!(!folder.exists());
    }

    #[tokio::test]
    async fn a_listener_removes_no_socket_but_its_own() {
        let own = UnixSocket::private().unwrap();
        let folder = own.folder().to_owned();
        fs::remove_file(folder.join(SOCKET)).unwrap();
        let other = UnixSocket::in_folder(&folder).unwrap();
        drop(own);
        assert!(connects(&folder).await);
        assert!(
            UnixSocket::in_folder(&folder).is_err(),
            "another listener is alive"
        );
        drop(other);
        assert!(!folder.join(SOCKET).exists());
        fs::remove_dir(&folder).unwrap();
    }
}
