//! Where drivers connect: a Unix socket, or a TCP port.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
#[cfg(unix)]
use tokio::task::spawn_blocking;

use super::peer::Peer;
#[cfg(unix)]
use super::unix_socket::UnixSocket;
use crate::postgres::tcp::{KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES};

/// Where a proxy listens.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Folder(PathBuf),
    Port(SocketAddr),
}

/// Listens until it is dropped.
pub(super) enum Listener {
    #[cfg(unix)]
    Unix(UnixSocket),
    Tcp(TcpListener),
}

/// An open connection.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Listener {
    /// Without a place, listens in a new folder, or on a free loopback port if that fails.
    pub(super) async fn bind(place: Option<Place>) -> io::Result<Self> {
        #[cfg(unix)]
        match place.clone() {
            None => match spawn_blocking(UnixSocket::private).await? {
                Ok(socket) => return Ok(Self::Unix(socket)),
                Err(error) => {
                    tracing::debug!(name: "lakebase.proxy.on_loopback", target: "lakebase::proxy", %error, "cannot create a Unix socket, listens on loopback");
                }
            },
            Some(Place::Folder(folder)) => {
                let socket = spawn_blocking(move || UnixSocket::in_folder(&folder)).await??;
                return Ok(Self::Unix(socket));
            }
            Some(Place::Port(_)) => {}
        }
        let address = match place {
            Some(Place::Port(address)) => address,
            _ => (Ipv4Addr::LOCALHOST, 0).into(),
        };
        Ok(Self::Tcp(TcpListener::bind(address).await?))
    }

    pub(super) fn place(&self) -> io::Result<Place> {
        match self {
            #[cfg(unix)]
            Self::Unix(socket) => Ok(Place::Folder(socket.folder().to_owned())),
            Self::Tcp(listener) => Ok(Place::Port(listener.local_addr()?)),
        }
    }

    pub(super) async fn accept(&self) -> io::Result<(Box<dyn Stream>, Peer)> {
        match self {
            #[cfg(unix)]
            Self::Unix(socket) => {
                let (stream, peer) = socket.accept().await?;
                Ok((Box::new(stream), peer))
            }
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // A client whose machine is gone must not keep its transaction open.
                keep_alive(&stream)?;
                Ok((Box::new(stream), Peer::Unknown))
            }
        }
    }

    /// Listens again if its socket was removed.
    pub(super) async fn revive(&mut self) -> io::Result<()> {
        match self {
            #[cfg(unix)]
            Self::Unix(socket) => socket.revive().await,
            Self::Tcp(_) => Ok(()),
        }
    }
}

/// Disables Nagle's algorithm, and enables keepalive so that a lost peer is noticed.
pub(super) fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}
