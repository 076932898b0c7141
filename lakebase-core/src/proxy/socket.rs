//! Where drivers connect: a Unix socket in a folder of its own, or a port on loopback.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream};

use super::server::keep_alive;

/// As Postgres and its drivers name it.
pub(super) const SOCKET: &str = ".s.PGSQL.5432";
/// Folders of ours: this, and twelve hexadecimal digits.
const PREFIX: &str = "lakebase-proxy-";
/// A folder without a socket that is older is not about to get one.
const LEFT: std::time::Duration = std::time::Duration::from_secs(3600);

/// Listens until it is dropped.
#[derive(Debug)]
pub(super) struct Listener {
    /// Before the listener: a socket that refuses makes drivers wait, one that is gone does not.
    place: Place,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    #[cfg(unix)]
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// Where it listens. Dropping it removes socket and folder, if they are ours.
#[derive(Debug)]
enum Place {
    #[cfg(unix)]
    Folder {
        path: PathBuf,
        is_ours: bool,
        /// Of the socket, to tell it from another listener's.
        inode: Option<u64>,
        /// A forked child has a copy of this, and must leave the parent's socket alone.
        process: u32,
    },
    Port,
}

/// Who connected.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Peer {
    /// Its process, where the kernel says so.
    pub(super) process: Option<u32>,
    pub(super) user: Option<u32>,
}

impl Listener {
    /// In a folder of its own under the system's temporary one. Removes what dead processes of this user left
    /// there. Blocks.
    #[cfg(unix)]
    pub(super) fn private() -> io::Result<(Self, PathBuf)> {
        let temporary = std::path::absolute(std::env::temp_dir())?;
        if temporary.to_str().is_none() {
            // Drivers take text.
            return Err(io::Error::other("the temporary folder's name is not UTF-8"));
        }
        sweep(&temporary);
        let id = uuid::Uuid::new_v4().simple().to_string();
        let path = temporary.join(format!("{PREFIX}{}", &id[..12]));
        let listener = Self::in_new_folder(&path)?;
        Ok((listener, path))
    }

    #[cfg(unix)]
    fn in_new_folder(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;

        // Under another name until it listens: another process may take a folder without a listener for a dead one.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let hidden = path.with_file_name(format!(".{name}"));
        fs::DirBuilder::new().mode(0o700).create(&hidden)?;
        let listener = std::os::unix::net::UnixListener::bind(hidden.join(SOCKET));
        let listener = listener.and_then(|listener| {
            fs::rename(&hidden, path)?;
            Ok(listener)
        });
        let listener = listener.inspect_err(|_| {
            let _ = fs::remove_file(hidden.join(SOCKET));
            let _ = fs::remove_dir(&hidden);
        })?;
        Self::of(listener, path, true)
    }

    /// In a folder that is there. Takes the place of a socket that nobody listens on. Blocks.
    #[cfg(unix)]
    pub(super) fn in_folder(folder: &Path) -> io::Result<Self> {
        Self::within(folder, false)
    }

    #[cfg(unix)]
    fn within(folder: &Path, is_ours: bool) -> io::Result<Self> {
        let socket = folder.join(SOCKET);
        if fs::symlink_metadata(&socket).is_ok() && !is_dead(&socket) {
            return Err(io::Error::from(io::ErrorKind::AddrInUse));
        }
        // At once, so that of two that start together each finds the other's or its own.
        let new = folder.join(format!("{SOCKET}.{}", std::process::id()));
        let listener = std::os::unix::net::UnixListener::bind(&new)?;
        fs::rename(&new, &socket)?;
        Self::of(listener, folder, is_ours)
    }

    #[cfg(unix)]
    fn of(
        listener: std::os::unix::net::UnixListener,
        folder: &Path,
        is_ours: bool,
    ) -> io::Result<Self> {
        use std::os::unix::fs::PermissionsExt as _;

        let socket = folder.join(SOCKET);
        let place = Place::Folder {
            inode: inode(&socket),
            path: folder.to_owned(),
            is_ours,
            process: std::process::id(),
        };
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            place,
            kind: Kind::Unix(UnixListener::from_std(listener)?),
        })
    }

    /// Listens again if the socket was removed: programs that clean temporary folders do that.
    pub(super) async fn revive(&mut self) -> io::Result<()> {
        #[cfg(unix)]
        if let Place::Folder {
            path,
            is_ours,
            inode: known,
            ..
        } = &self.place
        {
            let (path, is_ours, known) = (path.clone(), *is_ours, *known);
            let revived = tokio::task::spawn_blocking(move || {
                if inode(&path.join(SOCKET)) == known {
                    return Ok(None);
                }
                match is_ours && !path.exists() {
                    true => Self::in_new_folder(&path),
                    false => Self::within(&path, is_ours),
                }
                .map(Some)
            });
            if let Some(again) = revived.await.map_err(io::Error::other)?? {
                tracing::warn!("the proxy's socket was removed, listens again");
                *self = again;
            }
        }
        Ok(())
    }

    pub(super) async fn on_port(address: SocketAddr) -> io::Result<(Self, SocketAddr)> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let kind = Kind::Tcp(listener);
        let place = Place::Port;
        Ok((Self { place, kind }, address))
    }

    pub(super) async fn accept(&self) -> io::Result<(Stream, Peer)> {
        match &self.kind {
            #[cfg(unix)]
            Kind::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let peer = stream.peer_cred()?;
                let peer = Peer {
                    process: peer.pid().and_then(|pid| u32::try_from(pid).ok()),
                    user: Some(peer.uid()),
                };
                Ok((Stream::Unix(stream), peer))
            }
            Kind::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // A client's machine that is gone must not keep its transaction.
                keep_alive(&stream)?;
                Ok((Stream::Tcp(stream), Peer::default()))
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        #[cfg(unix)]
        if let Self::Folder {
            path,
            is_ours,
            inode: known,
            process,
        } = self
            && *process == std::process::id()
            && inode(&path.join(SOCKET)) == *known
        {
            remove(path, *is_ours);
        }
    }
}

#[cfg(unix)]
fn inode(socket: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;

    Some(fs::symlink_metadata(socket).ok()?.ino())
}

/// Nothing but our socket, and the folder only if it is empty then.
#[cfg(unix)]
fn remove(folder: &Path, with_folder: bool) {
    let _ = fs::remove_file(folder.join(SOCKET));
    if with_folder {
        let _ = fs::remove_dir(folder);
    }
}

/// Removes what processes left that were killed: folders of our name, of this user, private, with a socket
/// that nobody listens on.
#[cfg(unix)]
fn sweep(temporary: &Path) {
    use std::os::unix::fs::MetadataExt as _;

    let user = nix::unistd::geteuid().as_raw();
    for entry in fs::read_dir(temporary).into_iter().flatten().flatten() {
        let name = entry.file_name();
        // With a dot while it is made.
        let name = name.to_str().map(|name| name.trim_start_matches('.'));
        let id = name.and_then(|name| name.strip_prefix(PREFIX));
        let is_named =
            id.is_some_and(|id| id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
        // Of the entry itself, not of what a link points to.
        let Some(metadata) = entry.metadata().ok().filter(|_| is_named) else {
            continue;
        };
        let is_private =
            metadata.is_dir() && metadata.uid() == user && metadata.mode() & 0o077 == 0;
        let socket = entry.path().join(SOCKET);
        let is_left = || match fs::symlink_metadata(&socket) {
            Ok(_) => is_dead(&socket),
            // Killed before it listened, or its socket was removed.
            Err(_) => metadata
                .modified()
                .is_ok_and(|at| at.elapsed().is_ok_and(|age| age > LEFT)),
        };
        if is_private && is_left() {
            remove(&entry.path(), true);
        }
    }
}

/// A socket that nobody listens on.
#[cfg(unix)]
fn is_dead(socket: &Path) -> bool {
    let refused = || {
        // Not blocking: one whose queue is full is alive.
        let probe = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
        probe.set_nonblocking(true)?;
        probe.connect(&socket2::SockAddr::unix(socket)?)
    };
    refused().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// A driver's connection.
#[derive(Debug)]
pub(super) enum Stream {
    #[cfg(unix)]
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    async fn connects(folder: &Path) -> bool {
        UnixStream::connect(folder.join(SOCKET)).await.is_ok()
    }

    #[tokio::test]
    async fn a_removed_socket_is_created_again() {
        let (mut listener, folder) = Listener::private().unwrap();
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
        let (own, folder) = Listener::private().unwrap();
        fs::remove_file(folder.join(SOCKET)).unwrap();
        let other = Listener::in_folder(&folder).unwrap();
        drop(own);
        assert!(connects(&folder).await);
        assert!(
            Listener::in_folder(&folder).is_err(),
            "another listener is alive"
        );
        drop(other);
        assert!(!folder.join(SOCKET).exists());
        fs::remove_dir(&folder).unwrap();
    }
}
