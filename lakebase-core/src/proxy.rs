//! The auth proxy: a socket through which any Postgres driver logs in with a current token.
//!
//! [`Lakebase::proxy`] listens inside this process and for this process alone. A driver connects to
//! [`Proxy::url`], without TLS and without a secret; the proxy logs in to Lakebase through
//! [`adapter::login`](crate::adapter::login), over verified TLS and with the current token, and carries the bytes of the session
//! both ways.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let lakebase = lakebase_core::Lakebase::from_env()?;
//! let proxy = lakebase.proxy().await?;
//! // Any driver takes the URL: sqlx, libpq, tokio-postgres, ...
//! println!("{}", proxy.url());
//! # Ok(())
//! # }
//! ```

mod accept;
mod checks;
mod client;
mod follow;
mod login;
mod parameters;
mod peer;
mod pipe;
mod relay;
mod report;
mod server;
mod session;
mod socket;
#[cfg(unix)]
mod unix_socket;

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::credential::single_flight::no_runtime;
use crate::error::Error;
use crate::lakebase::Lakebase;
use crate::target::Target;
use checks::Checks;
use session::Sessions;
use socket::{Listener, Place};

/// A server that sent something within this time counts as alive.
const CHECK_AFTER: Duration = Duration::from_secs(30);

/// A running auth proxy. Cheap to clone.
///
/// It ends when the last clone and the last connection made through it are gone, when
/// [`shutdown`](Self::shutdown) is called, or with the runtime that it was started on. Then its socket is gone as well.
#[derive(Clone, Debug)]
#[must_use = "the proxy ends with its last handle"]
pub struct Proxy(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    url: SecretString,
    password: Option<SecretString>,
    place: Place,
    /// When everything has to be over. Dropping it means that the last handle is gone.
    end: watch::Sender<Option<Instant>>,
    ended: watch::Receiver<()>,
}

/// Whom a [`Proxy`] serves.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Clients {
    /// This process alone, by the process id that the kernel reports. On TCP: clients that know a password that is made
    /// for this proxy and is part of its [`url`](Proxy::url).
    ThisProcess,
    /// Processes of this user. On TCP as `ThisProcess`.
    ThisUser,
    /// Clients that send this password.
    Password(SecretString),
    /// Every process that can reach the socket. On TCP that is every user of the machine.
    Anyone,
}

/// Sets up a [`Proxy`].
///
/// ```no_run
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// use lakebase_core::proxy::{Builder, Clients};
///
/// let lakebase = lakebase_core::Lakebase::from_env()?;
/// let proxy = Builder::new(&lakebase)
///     .listen_in("/run/my-app")
///     .clients(Clients::ThisUser)
///     .start()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    lakebase: Lakebase,
    place: Option<Place>,
    clients: Clients,
    ignored: Vec<(String, String)>,
    check_after: Duration,
}

impl Lakebase {
    /// Starts an auth proxy for the drivers of this process: see [`Proxy`]. Does no network I/O.
    ///
    /// A driver that blocks its thread belongs into `tokio::task::spawn_blocking`; on a current-thread runtime, the proxy cannot
    /// answer it otherwise.
    ///
    /// It listens on a Unix socket in a new folder that only this user can enter, or, where there are no Unix sockets
    /// or no folder can be made, on a port of loopback with a one-time password in the URL.
    ///
    /// # Errors
    ///
    /// If no socket can be made, or no tokio runtime is running.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the socket and removes it.
    pub async fn proxy(&self) -> Result<Proxy, Error> {
        Builder::new(self).start().await
    }
}

impl Builder {
    /// A proxy to this Lakebase, as [`Lakebase::proxy`] starts it.
    pub fn new(lakebase: &Lakebase) -> Self {
        Self {
            lakebase: lakebase.clone(),
            place: None,
            clients: Clients::ThisProcess,
            ignored: Vec::new(),
            check_after: CHECK_AFTER,
        }
    }

    /// Listens on the Unix socket `.s.PGSQL.5432` in this folder, which must exist.
    pub fn listen_in(mut self, folder: impl Into<PathBuf>) -> Self {
        self.place = Some(Place::Folder(folder.into()));
        self
    }

    /// Listens on this TCP address. Port 0 takes a free one. What passes there is not encrypted.
    pub fn listen_on(mut self, address: SocketAddr) -> Self {
        self.place = Some(Place::Port(address));
        self
    }

    /// Sets whom the proxy serves: [`Clients::ThisProcess`] by default.
    pub fn clients(mut self, clients: Clients) -> Self {
        self.clients = clients;
        self
    }

    /// Ignores this value of a startup parameter: it comes from the driver's environment and not from the application.
    /// Of `options` it is the beginning that is ignored.
    ///
    /// For adapters to drivers that read the environment on their own.
    pub fn ignore(mut self, parameter: impl Into<String>, value: impl Into<String>) -> Self {
        self.ignored.push((parameter.into(), value.into()));
        self
    }

    /// Sets for how long a server may have sent nothing before a driver's check whether a session is alive (a lone `Sync`, an empty
    /// query) is passed on to it: 30 s by default. It then has 2 s to answer. Until then the proxy answers in its place, without
    /// a round trip.
    pub fn check_after(mut self, silence: Duration) -> Self {
        self.check_after = silence;
        self
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// If the socket cannot be made, or no tokio runtime is running.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the socket and removes it.
    pub async fn start(self) -> Result<Proxy, Error> {
        let runtime = Handle::try_current().map_err(|_| no_runtime())?;
        if let Clients::Password(password) = &self.clients
            && password.expose_secret().is_empty()
        {
            return Err(Error::config("the password of the proxy is empty"));
        }
        let what = match &self.place {
            Some(Place::Folder(folder)) => format!("in {}", folder.display()),
            Some(Place::Port(address)) => format!("on {address}"),
            None => "on loopback".to_owned(),
        };
        let bound = Listener::bind(self.place).await;
        let bound = bound.and_then(|listener| Ok((listener.place()?, listener)));
        let (place, listener) = bound.map_err(|error| {
            Error::config(format!("the proxy cannot listen {what}")).with_source(error)
        })?;
        let password = match (&self.clients, &place) {
            (Clients::Password(password), _) => Some(password.clone()),
            (Clients::ThisProcess | Clients::ThisUser, Place::Port(_)) => {
                // 244 random bits.
                let id = || uuid::Uuid::new_v4().simple().to_string();
                Some(SecretString::from(id() + &id()))
            }
            _ => None,
        };
        let url = url(&self.lakebase, &place, password.as_ref());
        let clock = Arc::clone(&self.lakebase.config().clock);
        let sessions = Sessions {
            lakebase: self.lakebase,
            clients: self.clients,
            password: password.clone(),
            ignored: self.ignored,
            checks: Checks::new(self.check_after, clock),
            running: Mutex::default(),
        };
        let (end, orders) = watch::channel(None);
        let (running, ended) = watch::channel(());
        runtime.spawn(async move {
            accept::run(listener, sessions, orders).await;
            drop(running);
        });
        // On another thread, if there is one, by the time that a driver may block this one.
        tokio::task::yield_now().await;
        Ok(Proxy(Arc::new(Shared {
            url,
            password,
            place,
            end,
            ended,
        })))
    }
}

impl Proxy {
    /// What drivers connect to. User and database in it mean nothing: they are the [`Lakebase`]'s own. It holds a secret only
    /// if the proxy has a [`password`](Self::password).
    pub fn url(&self) -> &str {
        self.0.url.expose_secret()
    }

    /// The folder of the Unix socket, which is `host` to libpq.
    pub fn folder(&self) -> Option<&Path> {
        match &self.0.place {
            Place::Folder(folder) => Some(folder),
            Place::Port(_) => None,
        }
    }

    /// The TCP address.
    pub fn address(&self) -> Option<SocketAddr> {
        match self.0.place {
            Place::Folder(_) => None,
            Place::Port(address) => Some(address),
        }
    }

    /// The password that drivers need and [`url`](Self::url) holds. None on a Unix socket, unless one was set.
    pub fn password(&self) -> Option<&str> {
        Some(self.0.password.as_ref()?.expose_secret())
    }

    /// Takes no new connections and ends those that are idle, each other one as soon as it is. After `grace` the
    /// rest is cut off. Returns when everything is over.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing: the proxy ends all the same.
    pub async fn shutdown(&self, grace: Duration) {
        let end = Instant::now() + grace.min(Duration::from_secs(24 * 3600));
        // The most urgent order counts.
        self.0
            .end
            .send_modify(|known| *known = Some(known.map_or(end, |known| known.min(end))));
        self.ended().await;
    }

    /// Waits until it has ended. Does not keep it running.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut ended = self.0.ended.clone();
        async move { while ended.changed().await.is_ok() {} }
    }
}

/// The form that sqlx, libpq and tokio-postgres all take: the folder as the host.
fn url(lakebase: &Lakebase, place: &Place, password: Option<&SecretString>) -> SecretString {
    let encode = |text: &str| -> String {
        url::form_urlencoded::byte_serialize(text.as_bytes())
            .collect::<String>()
            .replace('+', "%20")
    };
    let config = lakebase.config();
    let known = lakebase.known_target();
    let known = known.as_deref().map(Target::user);
    // Means nothing; programs may show it.
    let user = known.or(config.user.as_deref());
    let user = encode(user.unwrap_or("lakebase"));
    let host = match place {
        // The port is part of the socket's name; without it, drivers take it from their environment.
        Place::Folder(folder) => format!("{}:5432", encode(&folder.to_string_lossy())),
        Place::Port(address) => address.to_string(),
    };
    let password = password.map_or_else(String::new, |password| {
        format!(":{}", encode(password.expose_secret()))
    });
    let database = encode(lakebase.database());
    let name = encode(&config.application_name);
    SecretString::from(format!(
        "postgresql://{user}{password}@{host}/{database}?sslmode=disable&application_name={name}"
    ))
}
