//! Connections of tokio-postgres.

use std::error::Error as StdError;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use tokio_postgres::config::{ChannelBinding, SslMode};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres::{Client, Connection, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::{Span, debug_span};

use crate::error::Error;
use crate::error::chain::find_cause;
use crate::lakebase::Lakebase;
use crate::postgres::login::{Login, LoginFailure, TARGET};
use crate::postgres::tcp::{
    ADDRESS_LIMIT, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES, USER_TIMEOUT,
};
use crate::target::Target;
use crate::tls::Roots;

impl Lakebase {
    /// Opens one connection with tokio-postgres, over verified TLS and with a current token, which is renewed once if Postgres rejects
    /// it. Spawn the returned [`Connection`], which drives the socket.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// let lakebase = lakebase_core::Lakebase::from_env()?;
    /// let (client, connection) = lakebase.connect().await?;
    /// tokio::spawn(connection);
    /// let row = client.query_one("SELECT current_user::text", &[]).await?;
    /// println!("logged in as {}", row.get::<_, String>(0));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The cause, with a hint. [`Error::is_timeout`] after [`connect_timeout`](Self::connect_timeout); its source is that of the last
    /// failed attempt, if there was one.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection that it was opening.
    pub async fn connect(
        &self,
    ) -> Result<(Client, Connection<Socket, impl TlsStream + Send + use<>>), Error> {
        self.login(|login| async move { login.open().await }).await
    }
}

impl Login {
    /// Makes one attempt with tokio-postgres.
    ///
    /// # Errors
    ///
    /// The driver's error, classified for [`adapter::login`](crate::adapter::login).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection that it was opening.
    pub async fn open(
        &self,
    ) -> Result<(Client, Connection<Socket, impl TlsStream + Send + use<>>), LoginFailure> {
        let tls = match self.target.tls_config() {
            Some(tls) => tls.clone(),
            // Not used: the mode below is `Disable`.
            None => Roots::none()
                .client_config()
                .map_err(LoginFailure::permanent)?,
        };
        let part = Part::begin(debug_span!(target: TARGET, "lakebase.login.connect"));
        driver_config(&self.target, self.credential.expose())
            .connect(Traced(MakeRustlsConnect::new(tls), part))
            .await
            .map_err(classify)
    }
}

/// The span of the current part of a login.
#[derive(Clone)]
struct Part(Arc<Mutex<Span>>);

impl Part {
    fn begin(span: Span) -> Self {
        Self(Arc::new(Mutex::new(span)))
    }

    /// Ends the current part and begins the next one.
    fn next(&self, span: Span) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = span;
    }
}

/// TLS with spans for the parts of a login, which tokio-postgres does not have.
struct Traced<T>(T, Part);

impl<T: MakeTlsConnect<Socket>> MakeTlsConnect<Socket> for Traced<T>
where
    Traced<T::TlsConnect>: TlsConnect<Socket, Stream = T::Stream>,
    <Traced<T::TlsConnect> as TlsConnect<Socket>>::Error: Into<Box<dyn StdError + Sync + Send>>,
{
    type Stream = T::Stream;
    type TlsConnect = Traced<T::TlsConnect>;
    type Error = T::Error;

    fn make_tls_connect(&mut self, domain: &str) -> Result<Self::TlsConnect, Self::Error> {
        Ok(Traced(self.0.make_tls_connect(domain)?, self.1.clone()))
    }
}

impl<T: TlsConnect<Socket>> TlsConnect<Socket> for Traced<T>
where
    T::Future: Send + 'static,
{
    type Stream = T::Stream;
    type Error = T::Error;
    type Future = BoxFuture<'static, Result<T::Stream, T::Error>>;

    fn connect(self, stream: Socket) -> Self::Future {
        let Self(tls, part) = self;
        part.next(debug_span!(target: TARGET, "lakebase.login.tls"));
        let handshake = tls.connect(stream);
        Box::pin(async move {
            let stream = handshake.await?;
            part.next(debug_span!(target: TARGET, "lakebase.login.authentication"));
            Ok(stream)
        })
    }
}

fn driver_config(target: &Target, password: &str) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config
        .host(target.host())
        .port(target.port())
        .user(target.user())
        .password(password)
        .dbname(target.database())
        .application_name(target.application_name())
        .ssl_mode(if target.uses_tls() {
            SslMode::Require
        } else {
            SslMode::Disable
        })
        // A token is sent as a clear-text password, which has no channel binding.
        .channel_binding(ChannelBinding::Disable)
        .connect_timeout(ADDRESS_LIMIT)
        .keepalives_idle(KEEPALIVE_IDLE)
        .keepalives_interval(KEEPALIVE_INTERVAL)
        .keepalives_retries(KEEPALIVE_PROBES)
        .tcp_user_timeout(USER_TIMEOUT);
    if let Some(options) = target.startup_options() {
        config.options(options);
    }
    if let Some(address) = target.hostaddr() {
        config.hostaddr(address);
    }
    config
}

fn classify(error: tokio_postgres::Error) -> LoginFailure {
    if let Some(db) = error.as_db_error() {
        let (code, message) = (db.code().code().to_owned(), db.message().to_owned());
        return LoginFailure::postgres(code, message, error);
    }
    match find_cause::<io::Error>(&error) {
        _ if error.is_closed() => LoginFailure::closed(error),
        Some(io) if io.to_string().contains("close_notify") => LoginFailure::closed(error),
        Some(_) => LoginFailure::transport(error),
        None => LoginFailure::permanent(error),
    }
}
