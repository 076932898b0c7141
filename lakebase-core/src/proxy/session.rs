//! One driver's session, from its first byte to its last.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use secrecy::SecretString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::timeout;

use super::Clients;
use super::checks::Checks;
use super::client::{Key, Parameters, Request, knows_password, read_request};
use super::follow::Follow;
use super::login::{self, Session};
use super::peer::Peer;
use super::relay::{Relay, wait_for_drain};
use super::socket::Stream;
use super::{report, server};
use crate::lakebase::Lakebase;
use crate::target::Target;
use crate::telemetry;

/// Limit for a driver's startup packet and password.
const STARTUP_LIMIT: Duration = Duration::from_secs(15);

/// State that the sessions of a proxy share.
pub(super) struct Sessions {
    pub(super) lakebase: Lakebase,
    pub(super) clients: Clients,
    pub(super) password: Option<SecretString>,
    /// See [`Builder::ignore`](super::Builder::ignore).
    pub(super) ignored: Parameters,
    pub(super) checks: Checks,
    /// The running sessions, for cancel requests. Sessions on two servers can have the same key; the newest counts.
    pub(super) running: Mutex<HashMap<Key, Weak<Running>>>,
}

/// The server of a running session.
pub(super) struct Running {
    target: Arc<Target>,
    address: SocketAddr,
}

impl Sessions {
    /// Serves a driver until one side closes its connection. `permit` is dropped after the login.
    pub(super) async fn serve(
        &self,
        mut client: Box<dyn Stream>,
        peer: Peer,
        permit: OwnedSemaphorePermit,
        mut drain: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let client = &mut *client;
        let request = tokio::select! {
            request = timeout(STARTUP_LIMIT, self.admit(client, peer)) => request??,
            () = wait_for_drain(&mut drain) => return Ok(()),
        };
        let parameters = match request {
            Some(Request::Session(parameters)) => parameters,
            Some(Request::Cancel(key)) => {
                let running = self.running().get(&key).and_then(Weak::upgrade);
                if let Some(running) = running {
                    server::cancel(&running.target, running.address, key).await;
                }
                // The end of the connection tells drivers that the request was sent on.
                return Ok(());
            }
            None => return Ok(()),
        };
        let session = tokio::select! {
            session = self.log_in(&parameters) => session,
            // Drivers send nothing during a login: this one has closed the connection, or violates the protocol.
            _ = client.read_u8() => return Ok(()),
            () = wait_for_drain(&mut drain) => Err(report::ended()),
        };
        drop(permit);
        let (mut session, _running) = match session {
            Ok(session) => session,
            Err(response) => return client.write_all(&response).await,
        };
        let mut follow = Follow::default();
        let greeting = std::mem::take(&mut session.greeting);
        if follow.server_sent(&greeting).is_err() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        client.write_all(&greeting).await?;
        drop(greeting);
        let counts = self.lakebase.counts();
        counts.sessions_begun.fetch_add(1, Ordering::Relaxed);
        let _open = telemetry::Running::new(counts, |counts| &counts.sessions);
        let relay = Relay::new(client, &mut *session.wire, follow, &self.checks);
        let end = relay.run(drain).await;
        tracing::debug!(name: "lakebase.proxy.session_ended", target: "lakebase::proxy", ?end, "session ended");
        Ok(())
    }

    /// Reads the driver's request. Returns `None` after it has rejected the driver.
    async fn admit(&self, client: &mut dyn Stream, peer: Peer) -> io::Result<Option<Request>> {
        let request = read_request(client).await?;
        let is_cancel = matches!(request, Request::Cancel(_));
        let rejection = match (&self.clients, peer, &self.password) {
            (Clients::ThisProcess, Peer::ThisUser | Peer::OtherUser, _) => {
                "this auth proxy serves only the process that started it"
            }
            (Clients::ThisUser, Peer::OtherUser, _) => {
                "this auth proxy serves only the user that started it"
            }
            // A cancel request has no place for a password, and its key is a secret.
            (_, _, Some(password)) if !is_cancel && !knows_password(client, password).await? => {
                "wrong password for the auth proxy: use the one in its URL"
            }
            _ => return Ok(Some(request)),
        };
        client.write_all(&report::rejected(rejection)).await?;
        Ok(None)
    }

    /// Logs in to the server. The error is the response to the driver.
    async fn log_in(
        &self,
        parameters: &[(String, String)],
    ) -> Result<(Session, Arc<Running>), Vec<u8>> {
        let outcome = self.lakebase.login(|login| async move {
            let session = login::log_in(&login, parameters, &self.ignored).await?;
            Ok((session, login.target))
        });
        let (session, target) = outcome.await.map_err(|error| report::failed(&error))?;
        let address = session.address;
        let running = Arc::new(Running { target, address });
        let mut all = self.running();
        all.retain(|_, running| running.strong_count() > 0);
        if let Some(key) = session.key {
            all.insert(key, Arc::downgrade(&running));
        }
        drop(all);
        Ok((session, running))
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Key, Weak<Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
