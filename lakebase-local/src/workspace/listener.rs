//! A listener that can reset connections, and the outages of the API.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// An outage of the whole workspace API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outage {
    /// Connections are reset, as by a load balancer with a failed host.
    Down,
    /// Every call fails with 503.
    Unavailable,
    /// No call gets a response.
    Silent,
}

/// The current outage, and its end if it has one.
#[derive(Debug, Default)]
pub(crate) struct Switch(Mutex<Option<(Outage, Option<Instant>)>>);

impl Switch {
    pub(crate) fn set(&self, outage: Option<Outage>, end: Option<Instant>) {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *current = outage.map(|outage| (outage, end));
    }

    pub(crate) fn outage(&self) -> Option<Outage> {
        let current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (outage, end) = (*current)?;
        end.is_none_or(|end| Instant::now() < end).then_some(outage)
    }
}

pub(super) struct Gated {
    listener: TcpListener,
    switch: Arc<Switch>,
}

impl Gated {
    pub(super) fn new(listener: TcpListener, switch: Arc<Switch>) -> Self {
        Self { listener, switch }
    }
}

impl Listener for Gated {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (socket, address) = Listener::accept(&mut self.listener).await;
            if self.switch.outage() != Some(Outage::Down) {
                let _ = socket.set_nodelay(true);
                return (socket, address);
            }
            // The client gets a reset.
            let _ = socket.set_zero_linger();
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}
