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

/// As Postgres and its drivers name it.
pub(super) const SOCKET: &str = ".s.PGSQL.5432";
/// Folders of ours: this, and twelve hexadecimal digits.
const PREFIX: &str = "lakebase-proxy-";

/// Listens until it is dropped.
#[derive(Debug)]
pub(super) struct Listener {
    /// Before the listener: a socket that refuses makes drivers wait, one that is gone does not.
    _place: Place,
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
        use std::os::unix::fs::DirBuilderExt as _;

        let temporary = std::env::temp_dir();
        sweep(&temporary);
        let id = uuid::Uuid::new_v4().simple().to_string();
        let path = temporary.join(format!("{PREFIX}{}", &id[..12]));
        // Under another name until somebody listens: whoever finds it then may take it for dead.
        let hidden = temporary.join(format!(".{PREFIX}{}", &id[..12]));
        fs::DirBuilder::new().mode(0o700).create(&hidden)?;
        let listener = std::os::unix::net::UnixListener::bind(hidden.join(SOCKET));
        let listener = listener.and_then(|listener| {
            listener.set_nonblocking(true)?;
            fs::rename(&hidden, &path)?;
            Ok(listener)
        });
        let listener = listener.inspect_err(|_| remove(&hidden, true))?;
        let place = Place::Folder {
            path: path.clone(),
            is_ours: true,
            process: std::process::id(),
        };
        Ok((
            Self {
                kind: Kind::Unix(UnixListener::from_std(listener)?),
                _place: place,
            },
            path,
        ))
    }

    /// In a folder that is there. Takes the place of a socket that nobody listens on. Blocks.
    #[cfg(unix)]
    pub(super) fn in_folder(folder: &Path) -> io::Result<Self> {
        use std::os::unix::fs::PermissionsExt as _;

        let socket = folder.join(SOCKET);
        if is_dead(&socket) {
            fs::remove_file(&socket)?;
        }
        let listener = std::os::unix::net::UnixListener::bind(&socket)?;
        let place = Place::Folder {
            path: folder.to_owned(),
            is_ours: false,
            process: std::process::id(),
        };
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        let kind = Kind::Unix(UnixListener::from_std(listener)?);
        Ok(Self {
            _place: place,
            kind,
        })
    }

    pub(super) async fn on_port(address: SocketAddr) -> io::Result<(Self, SocketAddr)> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let kind = Kind::Tcp(listener);
        let place = Place::Port;
        Ok((
            Self {
                _place: place,
                kind,
            },
            address,
        ))
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
                stream.set_nodelay(true)?;
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
            process,
        } = self
            && *process == std::process::id()
        {
            remove(path, *is_ours);
        }
    }
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
        let id = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let is_named =
            id.is_some_and(|id| id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let is_private = || {
            // Of the entry itself, not of what a link points to.
            let metadata = entry.metadata();
            metadata.is_ok_and(|it| it.is_dir() && it.uid() == user && it.mode() & 0o077 == 0)
        };
        if is_named && is_private() && is_dead(&entry.path().join(SOCKET)) {
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
