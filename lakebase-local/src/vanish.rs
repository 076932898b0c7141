//! Drops packets, as a failed host, an expired NAT entry or a pulled cable does.

use std::io;

use tokio::net::{TcpListener, TcpStream};

/// Drops all packets that arrive for `socket`, without acknowledgement.
#[cfg(target_os = "linux")]
pub(crate) fn swallow(socket: &TcpStream) -> io::Result<()> {
    socket2::SockRef::from(socket).attach_filter(&[nothing()])
}

/// Drops the packets of new connections to `listener`, or accepts them again.
#[cfg(target_os = "linux")]
pub(crate) fn swallow_connects(listener: &TcpListener, swallows: bool) -> io::Result<()> {
    let socket = socket2::SockRef::from(listener);
    if swallows {
        socket.attach_filter(&[nothing()])
    } else {
        socket.detach_filter()
    }
}

/// A packet filter that drops every packet. The kernel applies it below TCP.
#[cfg(target_os = "linux")]
fn nothing() -> socket2::SockFilter {
    const RETURN: u16 = 0x06;
    socket2::SockFilter::new(RETURN, 0, 0, 0)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn swallow(_: &TcpStream) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn swallow_connects(_: &TcpListener, _: bool) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
