//! A listener that can play dead.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};

/// Whether the workspace API can be reached at all.
#[derive(Debug, Default)]
pub(crate) struct Switch {
    down: AtomicBool,
}

impl Switch {
    pub(crate) fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::Release);
    }

    pub(super) fn is_down(&self) -> bool {
        self.down.load(Ordering::Acquire)
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
            if !self.switch.is_down() {
                let _ = socket.set_nodelay(true);
                return (socket, address);
            }
            // The client sees a reset, as from a dead host behind a living balancer.
            let _ = socket.set_zero_linger();
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}
