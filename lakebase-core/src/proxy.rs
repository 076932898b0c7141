//! The auth proxy: a local socket through which any Postgres driver logs in with a current token.
//!
//! [`Lakebase::proxy`] listens inside this process and serves only this process. A driver connects to [`Proxy::url`] without TLS
//! and without a secret. For each connection, the proxy logs in to Lakebase through [`adapter::login`](crate::adapter::login), over
//! verified TLS and with the current token, and then copies the bytes of the session in both directions.
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

use crate::config::LONGEST_TIMEOUT;
use crate::credential::single_flight::no_runtime;
use crate::error::Error;
use crate::lakebase::Lakebase;
use crate::target::Target;
use checks::Checks;
use session::Sessions;
use socket::{Listener, Place};

/// Default of [`Builder::check_after`].
const CHECK_AFTER: Duration = Duration::from_secs(30);

/// A running auth proxy. Cheap to clone.
///
/// It ends when the last clone is dropped and the last connection through it is closed, when [`shutdown`](Self::shutdown) is called,
/// or with the runtime that it was started on. It then removes its socket.
#[derive(Clone, Debug)]
#[must_use = "the proxy ends with its last handle"]
pub struct Proxy(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    url: SecretString,
    password: Option<SecretString>,
    place: Place,
    /// The deadline of a shutdown. It is dropped with the last handle.
    end: watch::Sender<Option<Instant>>,
    ended: watch::Receiver<()>,
}

/// The clients that a [`Proxy`] serves: see [`Builder::clients`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Clients {
    /// Only this process, by the process id that the kernel reports. On TCP, clients that send the random password of this
    /// proxy, which its [`url`](Proxy::url) contains.
    ThisProcess,
    /// Processes of this user. On TCP the same as `ThisProcess`.
    ThisUser,
    /// Clients that send this password.
    Password(SecretString),
    /// Every process that can reach the socket: on TCP, every user of the machine.
    Anyone,
}

/// Configures and starts a [`Proxy`].
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
    /// Starts an auth proxy for the drivers of this process: see [`Proxy`]. It does no network I/O.
    ///
    /// The proxy listens on a Unix socket in a new folder that only this user can enter. If that fails, or on platforms without
    /// Unix sockets, it listens on a loopback port, and its URL contains a one-time password.
    ///
    /// Run drivers that block their thread in `tokio::task::spawn_blocking`: on a current-thread runtime, a blocked thread
    /// cannot run the proxy.
    ///
    /// # Errors
    ///
    /// The socket cannot be created, or no tokio runtime is running.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes and removes the socket.
    pub async fn proxy(&self) -> Result<Proxy, Error> {
        Builder::new(self).start().await
    }
}

impl Builder {
    /// Starts from the settings of [`Lakebase::proxy`].
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

    /// Listens on this TCP address, without TLS. Port 0 takes a free port.
    pub fn listen_on(mut self, address: SocketAddr) -> Self {
        self.place = Some(Place::Port(address));
        self
    }

    /// Sets the clients that the proxy serves: [`Clients::ThisProcess`] by default.
    pub fn clients(mut self, clients: Clients) -> Self {
        self.clients = clients;
        self
    }

    /// Ignores a startup parameter that has this value. For `options`, it removes this prefix of the value.
    ///
    /// For adapters of drivers that fill in parameters from environment variables: such a value does not come from the application.
    pub fn ignore(mut self, parameter: impl Into<String>, value: impl Into<String>) -> Self {
        self.ignored.push((parameter.into(), value.into()));
        self
    }

    /// Sets when the proxy sends a driver's liveness check (a lone `Sync`, an empty query) to the server: after the server has sent
    /// nothing for this long, 30 s by default. The server then has 2 s to reply. Before that, the proxy replies itself, without a
    /// round trip.
    pub fn check_after(mut self, idle: Duration) -> Self {
        self.check_after = idle;
        self
    }

    /// Starts the proxy.
    ///
    /// # Errors
    ///
    /// The socket cannot be created, or no tokio runtime is running.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes and removes the socket.
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
        // Another worker thread, if there is one, takes the task before a driver blocks this one.
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
    /// The URL for drivers. The proxy ignores its user and database and uses those of the [`Lakebase`]. It contains a secret only
    /// if the proxy has a [`password`](Self::password).
    pub fn url(&self) -> &str {
        self.0.url.expose_secret()
    }

    /// The folder of the Unix socket, which libpq takes as `host`; `None` on TCP.
    pub fn folder(&self) -> Option<&Path> {
        match &self.0.place {
            Place::Folder(folder) => Some(folder),
            Place::Port(_) => None,
        }
    }

    /// The TCP address; `None` on a Unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match self.0.place {
            Place::Folder(_) => None,
            Place::Port(address) => Some(address),
        }
    }

    /// The password that drivers send and that [`url`](Self::url) contains. `None` on a Unix socket, unless
    /// [`Clients::Password`] sets one.
    pub fn password(&self) -> Option<&str> {
        Some(self.0.password.as_ref()?.expose_secret())
    }

    /// Ends the proxy: it accepts no new connections, closes each session when it is idle, and after `grace` (a day at most) all
    /// others. Returns when all sessions are closed.
    ///
    /// # Cancel safety
    ///
    /// The shutdown continues if the future is dropped.
    pub async fn shutdown(&self, grace: Duration) {
        let end = Instant::now() + grace.min(LONGEST_TIMEOUT);
        // Of several calls, the earliest deadline counts.
        self.0
            .end
            .send_modify(|known| *known = Some(known.map_or(end, |known| known.min(end))));
        self.ended().await;
    }

    /// Waits until the proxy has ended. The future does not keep it running.
    ///
    /// # Cancel safety
    ///
    /// The future only waits; dropping it has no effect.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut ended = self.0.ended.clone();
        async move { while ended.changed().await.is_ok() {} }
    }
}

/// sqlx, libpq and tokio-postgres all accept this form, with the folder as the host.
fn url(lakebase: &Lakebase, place: &Place, password: Option<&SecretString>) -> SecretString {
    let encode = |text: &str| -> String {
        url::form_urlencoded::byte_serialize(text.as_bytes())
            .collect::<String>()
            .replace('+', "%20")
    };
    let config = lakebase.config();
    let target = lakebase.known_target();
    // The proxy ignores it; programs may show it.
    let user = target
        .as_deref()
        .map(Target::user)
        .or(config.user.as_deref());
    let user = encode(user.unwrap_or("lakebase"));
    let host = match place {
        // The port is part of the socket's name. Without one, drivers use that of their environment.
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
