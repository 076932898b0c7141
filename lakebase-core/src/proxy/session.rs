//! One driver's session, from its first byte to its last.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secrecy::SecretString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::timeout;

use super::Clients;
use super::client::{Wish, knows_password, read_wish};
use super::follow::Follow;
use super::relay::{Checks, Relay};
use super::server::Session;
use super::socket::{Peer, Stream};
use super::{report, server};
use crate::lakebase::Lakebase;
use crate::target::Target;

/// For what a driver has to send before its login.
const STARTUP_LIMIT: Duration = Duration::from_secs(15);

type Key = (i32, i32);

/// What the sessions of one proxy share.
pub(super) struct Sessions {
    lakebase: Lakebase,
    clients: Clients,
    password: Option<SecretString>,
    /// Values of startup parameters that do not count.
    defaults: Vec<(String, String)>,
    checks: Checks,
    /// Where the session with a key runs. Another session may have the same key on another server.
    keys: Mutex<HashMap<Key, Running>>,
}

/// Where a session runs.
type Running = (Arc<Target>, SocketAddr, Arc<()>);

impl Sessions {
    pub(super) fn new(
        lakebase: Lakebase,
        (clients, password): (Clients, Option<SecretString>),
        defaults: Vec<(String, String)>,
        checks: Checks,
    ) -> Self {
        Self {
            lakebase,
            clients,
            password,
            defaults,
            checks,
            keys: Mutex::default(),
        }
    }

    /// Serves a driver until one side ends.
    pub(super) async fn serve(
        &self,
        mut client: Stream,
        peer: Peer,
        permit: OwnedSemaphorePermit,
        draining: watch::Receiver<bool>,
    ) {
        let served = self.log_in(&mut client, peer, draining.clone()).await;
        drop(permit);
        match served {
            Ok(Some((mut session, _key))) => {
                let mut follow = Follow::default();
                if follow.server_sent(&session.greeting).is_err() {
                    return;
                }
                let greeting = std::mem::take(&mut session.greeting);
                if client.write_all(&greeting).await.is_err() {
                    return;
                }
                let wire = &mut *session.wire;
                let relay = Relay::new(&mut client, wire, follow, &self.checks);
                let end = relay.run(draining).await;
                tracing::debug!(?end, "session ended");
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "a driver did not log in"),
        }
    }

    /// Reads what the driver wants, checks who it is, and logs in. None if there is nothing more to do.
    async fn log_in(
        &self,
        client: &mut Stream,
        peer: Peer,
        mut draining: watch::Receiver<bool>,
    ) -> io::Result<Option<(Session, KeyGuard<'_>)>> {
        let late = || io::Error::from(io::ErrorKind::TimedOut);
        let wish = tokio::select! {
            wish = timeout(STARTUP_LIMIT, self.admit(client, peer)) => wish,
            () = ordered(&mut draining) => return Ok(None),
        };
        let parameters = match wish.map_err(|_| late())?? {
            Some(Wish::Session(parameters)) => self.without_defaults(parameters),
            Some(Wish::Cancel(key)) => {
                let running = self.keys().get(&key).cloned();
                if let Some((target, address, _)) = running {
                    server::cancel(&target, address, key).await;
                }
                // Its end tells the driver that the request was passed on.
                return Ok(None);
            }
            None => return Ok(None),
        };
        let login = self.lakebase.login(|login| {
            let parameters = &parameters;
            async move {
                let session = server::log_in(&login, parameters).await?;
                Ok((session, login.target))
            }
        });
        let failure = tokio::select! {
            outcome = login => match outcome {
                Ok((session, target)) => {
                    let key = KeyGuard::new(self, session.key, (target, session.address));
                    return Ok(Some((session, key)));
                }
                Err(error) => report::failed(&error),
            },
            // Drivers wait in silence: this one has given up, or does not speak the protocol.
            _ = client.read_u8() => return Ok(None),
            () = ordered(&mut draining) => report::ended(),
        };
        client.write_all(&failure).await?;
        Ok(None)
    }

    /// What the driver wants, if it may have it.
    async fn admit(&self, client: &mut Stream, peer: Peer) -> io::Result<Option<Wish>> {
        let wish = read_wish(client).await?;
        if matches!(wish, Wish::Cancel(_)) && peer.user.is_none() {
            // Its key is secret enough, and there is nowhere to put a password.
            return Ok(Some(wish));
        }
        let refusal = match &self.clients {
            Clients::ThisProcess
                if peer.user.is_some() && peer.process != Some(std::process::id()) =>
            {
                "this proxy serves the process that started it alone"
            }
            Clients::ThisUser if peer.user.is_some_and(|user| user != own_user()) => {
                "this proxy serves the user that started it alone"
            }
            _ => match &self.password {
                Some(password)
                    if !matches!(wish, Wish::Cancel(_))
                        && !knows_password(client, password).await? =>
                {
                    "wrong password for the proxy"
                }
                _ => return Ok(Some(wish)),
            },
        };
        client.write_all(&report::refused("28000", refusal)).await?;
        Ok(None)
    }

    /// The parameters that the application asks for.
    fn without_defaults(&self, mut parameters: Vec<(String, String)>) -> Vec<(String, String)> {
        for (name, default) in &self.defaults {
            let found = parameters.iter_mut().find(|(known, _)| known == name);
            let Some((_, value)) = found else {
                continue;
            };
            if name == "options" {
                let rest = value.strip_prefix(default.as_str());
                *value = rest.unwrap_or(value).trim_start().to_owned();
            } else if value == default {
                value.clear();
            }
        }
        parameters
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<Key, Running>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn ordered(draining: &mut watch::Receiver<bool>) {
    let _ = draining.wait_for(|draining| *draining).await;
}

/// Forgets a session's key when it is over.
struct KeyGuard<'a> {
    sessions: &'a Sessions,
    key: Option<Key>,
    /// Tells it from another session that has the same key.
    own: Arc<()>,
}

impl<'a> KeyGuard<'a> {
    fn new(sessions: &'a Sessions, key: Option<Key>, place: (Arc<Target>, SocketAddr)) -> Self {
        let own = Arc::new(());
        if let Some(key) = key {
            let (target, address) = place;
            let running = (target, address, Arc::clone(&own));
            sessions.keys().insert(key, running);
        }
        Self { sessions, key, own }
    }
}

impl Drop for KeyGuard<'_> {
    fn drop(&mut self) {
        let mut keys = self.sessions.keys();
        if let Some(key) = self.key
            && keys
                .get(&key)
                .is_some_and(|(_, _, own)| Arc::ptr_eq(own, &self.own))
        {
            keys.remove(&key);
        }
    }
}

#[cfg(unix)]
fn own_user() -> u32 {
    nix::unistd::geteuid().as_raw()
}

#[cfg(not(unix))]
fn own_user() -> u32 {
    0
}
