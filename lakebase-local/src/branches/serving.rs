//! The Postgres of a branch, and the gateway in front of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::Error;
use crate::compute::Cut;
use crate::gateway::{self, Gateway};
use crate::postgres::{Original, Postgres};

/// Attempts to find a free address.
const ATTEMPTS: usize = 20;

#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) address: SocketAddr,
    /// `None` after the branch is purged, or everything is stopped.
    postgres: Mutex<Option<Postgres>>,
    /// `None` while the branch is deleted.
    front: Mutex<Option<Front>>,
}

#[derive(Debug)]
struct Front {
    listener: Arc<TcpListener>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Serving {
    pub(crate) fn start(
        gateway: Arc<Gateway>,
        postgres: Postgres,
        listener: TcpListener,
        address: SocketAddr,
    ) -> Self {
        let front = Mutex::new(Some(Front::open(&gateway, listener)));
        Self {
            gateway,
            address,
            postgres: Mutex::new(Some(postgres)),
            front,
        }
    }

    pub(crate) fn original(&self) -> Option<Original> {
        self.lock_postgres().as_ref()?.original()
    }

    pub(crate) fn listener(&self) -> Option<Arc<TcpListener>> {
        let front = self.front.lock().unwrap_or_else(PoisonError::into_inner);
        front.as_ref().map(|front| Arc::clone(&front.listener))
    }

    /// Listens again on the same address.
    pub(crate) async fn open(&self) -> Result<(), Error> {
        let listener = TcpListener::bind(self.address).await.map_err(|error| {
            Error::because(format!("cannot listen on {} again", self.address), error)
        })?;
        let front = Front::open(&self.gateway, listener);
        *self.front.lock().unwrap_or_else(PoisonError::into_inner) = Some(front);
        Ok(())
    }

    /// Ends every session and stops listening; the data stays.
    pub(crate) async fn close(&self) {
        if let Err(error) = self.gateway.cut_sessions(Cut::Message).await {
            tracing::debug!(%error, "sessions of a deleted branch end without a message");
        }
        let front = self
            .front
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(front) = front {
            front.stop.send_replace(true);
            let _ = front.task.await;
        }
    }

    /// Stops accepting connections at once. Dropping the result stops Postgres and removes its data, and blocks.
    pub(crate) fn take(&self) -> Option<Postgres> {
        let front = self.front.lock();
        if let Some(front) = front.unwrap_or_else(PoisonError::into_inner).take() {
            front.stop.send_replace(true);
            front.task.abort();
        }
        self.lock_postgres().take()
    }

    fn lock_postgres(&self) -> MutexGuard<'_, Option<Postgres>> {
        self.postgres.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Front {
    fn open(gateway: &Arc<Gateway>, listener: TcpListener) -> Self {
        let listener = Arc::new(listener);
        let stop = watch::Sender::new(false);
        let serve = gateway::serve(Arc::clone(gateway), Arc::clone(&listener), stop.subscribe());
        Self {
            task: tokio::spawn(serve),
            listener,
            stop,
        }
    }
}

/// Listens on a new loopback address, so that every branch has the port of production.
pub(crate) async fn listen(port: u16) -> Result<(TcpListener, SocketAddr, Ipv4Addr), Error> {
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let [a, b, c, ..] = *Uuid::new_v4().as_bytes();
        // In 127.64.0.0/10, and neither the first nor the last address of a /24.
        let ip = Ipv4Addr::new(127, 64 | (a & 0x3f), b, c.clamp(1, 254));
        match TcpListener::bind((ip, port)).await {
            Ok(listener) => return Ok((listener, SocketAddr::from((ip, port)), ip)),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => last = Some(error),
            Err(error) => {
                let text = format!(
                    "cannot listen on {ip}: each branch needs a loopback address of its own, which only Linux has"
                );
                return Err(Error::because(text, error));
            }
        }
    }
    let text = format!("found no loopback address with a free port {port} for the branch");
    Err(match last {
        Some(error) => Error::because(text, error),
        None => Error::new(text),
    })
}
