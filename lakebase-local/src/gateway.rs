//! The TLS gateway: checks a login as Lakebase does, then relays bytes to the real Postgres.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;

use crate::Error;
use crate::compute::{Admission, Compute, Cut};
use crate::events::{EventKind, EventLog, Login};
use crate::faults::{LoginFault, LoginFaults};
use crate::ids::Ids;
use crate::issuer::{Issuer, TokenState};
use crate::place::Place;
use crate::postgres::{self, DATABASE, OUR_PATH, Server, quote_literal};
use crate::protocol::{self, AuthStep, First, Startup};
use crate::roles::{RoleKind, Roles};
use crate::vanish;

/// Timeout of each step before the session, so that slow clients do not accumulate.
const STARTUP_LIMIT: Duration = Duration::from_secs(15);
/// Timeout for the last bytes of a session.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(1);
/// Timeout for sessions that are cut.
const CUT_LIMIT: Duration = Duration::from_secs(5);
/// Maximum number of connections before their login.
const MAX_PENDING: usize = 500;

pub(crate) struct Gateway {
    /// Of its branch.
    pub(crate) place: Place,
    pub(crate) tls: TlsAcceptor,
    pub(crate) issuer: Arc<Issuer>,
    pub(crate) roles: Roles,
    pub(crate) ids: Ids,
    pub(crate) compute: Arc<Compute>,
    pub(crate) postgres: Server,
    pub(crate) events: Arc<EventLog>,
    pub(crate) rules: Rules,
    /// The version of the identities that each database has.
    pub(crate) identities_versions: tokio::sync::Mutex<HashMap<String, u64>>,
}

/// Settings that can change while it runs.
#[derive(Debug)]
pub(crate) struct Rules {
    /// SQLSTATE and severity of rejected logins; the platform's are not documented.
    pub(crate) refusal: Mutex<(String, String)>,
    pub(crate) connection_limit: AtomicUsize,
    pub(crate) native_login: AtomicBool,
    pub(crate) login_faults: LoginFaults,
    pub(crate) open: AtomicUsize,
}

impl Rules {
    /// A copy for another branch, without open connections and planned faults.
    fn copy(&self) -> Self {
        let refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = self.connection_limit.load(Ordering::Relaxed);
        let native_login = self.native_login.load(Ordering::Relaxed);
        Self {
            refusal: Mutex::new(refusal.clone()),
            connection_limit: AtomicUsize::new(limit),
            native_login: AtomicBool::new(native_login),
            ..Self::default()
        }
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            refusal: Mutex::new(("28P01".to_owned(), "FATAL".to_owned())),
            connection_limit: AtomicUsize::new(200),
            native_login: AtomicBool::new(true),
            login_faults: LoginFaults::default(),
            open: AtomicUsize::new(0),
        }
    }
}

/// The error of a rejected login.
struct Refusal {
    severity: String,
    sqlstate: String,
    message: String,
}

impl Refusal {
    fn fatal(sqlstate: &str, message: impl Into<String>) -> Self {
        Self {
            severity: "FATAL".to_owned(),
            sqlstate: sqlstate.to_owned(),
            message: message.into(),
        }
    }
}

/// Accepts connections until the handle is dropped.
pub(crate) async fn serve(
    gateway: Arc<Gateway>,
    listener: Arc<TcpListener>,
    mut stop: watch::Receiver<bool>,
) {
    let pending = Arc::new(Semaphore::new(MAX_PENDING));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let Ok((socket, _)) = accepted else {
            // Probably out of file descriptors: wait until others are closed.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&pending).try_acquire_owned() else {
            continue;
        };
        let gateway = Arc::clone(&gateway);
        let mut stop = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                result = gateway.client(socket, permit) => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "client disconnected");
                    }
                }
                _ = stop.wait_for(|stop| *stop) => {}
            }
        });
    }
}

impl Gateway {
    /// Creates the gateway of a branch of this one, with the same roles and rules.
    pub(crate) fn of_branch(&self, place: Place, tls: Arc<ServerConfig>, postgres: Server) -> Self {
        Self {
            place,
            tls: TlsAcceptor::from(tls),
            issuer: Arc::clone(&self.issuer),
            roles: self.roles.copy(),
            ids: self.ids.copy(),
            compute: Arc::new(Compute::new(Arc::clone(&self.events))),
            postgres,
            events: Arc::clone(&self.events),
            rules: self.rules.copy(),
            identities_versions: tokio::sync::Mutex::default(),
        }
    }

    async fn client(
        &self,
        mut socket: TcpStream,
        permit: tokio::sync::OwnedSemaphorePermit,
    ) -> io::Result<()> {
        let _ = socket.set_nodelay(true);
        let timed_out = || io::Error::new(io::ErrorKind::TimedOut, "timeout during the login");
        let encrypted = async {
            loop {
                match protocol::read_first(&mut socket).await? {
                    First::GssEnc => socket.write_all(b"N").await?,
                    First::Ssl => break,
                    First::Cancel(packet) => {
                        self.cancel(&packet).await?;
                        return Ok(None);
                    }
                    // The platform's error for plaintext.
                    First::Startup(_) => {
                        let refusal = protocol::error_response(
                            "FATAL",
                            "08P01",
                            "Invalid protocol version: 196608",
                        );
                        socket.write_all(&refusal).await?;
                        return Ok(None);
                    }
                    First::Unknown(version) => {
                        let text = format!("Invalid protocol version: {version}");
                        let refusal = protocol::error_response("FATAL", "08P01", &text);
                        socket.write_all(&refusal).await?;
                        return Ok(None);
                    }
                }
            }
            socket.write_all(b"S").await?;
            io::Result::Ok(Some(self.tls.accept(socket).await?))
        };
        let encrypted = tokio::time::timeout(STARTUP_LIMIT, encrypted).await;
        let Some(mut stream) = encrypted.map_err(|_| timed_out())?? else {
            return Ok(());
        };
        let host = stream.get_ref().1.server_name().map(str::to_owned);
        let first = tokio::time::timeout(STARTUP_LIMIT, protocol::read_first(&mut stream))
            .await
            .map_err(|_| timed_out())??;
        match first {
            First::Startup(startup) => self.login(stream, startup, host, permit).await,
            First::Cancel(packet) => {
                self.cancel(&packet).await?;
                stream.shutdown().await
            }
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "no startup message",
            )),
        }
    }

    /// Forwards a cancel request. The client waits for the end of the connection, so the connection ends after the
    /// server's.
    async fn cancel(&self, packet: &[u8]) -> io::Result<()> {
        let mut server = self.postgres.open().await?;
        server.write_all(packet).await?;
        server.shutdown().await?;
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(STARTUP_LIMIT, server.read_to_end(&mut rest)).await;
        Ok(())
    }

    async fn login(
        &self,
        mut stream: TlsStream<TcpStream>,
        mut startup: Startup,
        host: Option<String>,
        permit: tokio::sync::OwnedSemaphorePermit,
    ) -> io::Result<()> {
        let user = startup.get("user").unwrap_or_default().to_owned();
        let mut login = Login {
            database: startup.get("database").unwrap_or(&user).to_owned(),
            application_name: startup
                .get("application_name")
                .unwrap_or_default()
                .to_owned(),
            user,
            host,
            branch: self.place.branch.clone(),
            token: None,
        };
        // All these names are 127.0.0.1 for a resolver, but a branch has another address.
        if login
            .host
            .as_deref()
            .is_some_and(|host| self.place.is_elsewhere(host))
        {
            let text = "this host belongs to another branch: resolve it as the address of that branch's \
                        hosts.host";
            let refusal = Refusal::fatal("08P01", text);
            return self.refuse(&mut stream, login, refusal).await;
        }
        match self.compute.admit().await {
            Admission::Enter => {}
            Admission::Close => return Ok(()),
            Admission::StartingUp => {
                let refusal = Refusal::fatal("57P03", "the database system is starting up");
                return self.refuse(&mut stream, login, refusal).await;
            }
        }
        let signal = self.compute.cut_signal();
        let kind = match self.roles.kind(&login.user) {
            RoleKind::Unknown | RoleKind::MadeInSql => self.discover(&login.user).await,
            // Created again in SQL: the server does not require its password.
            RoleKind::Native if !self.postgres.asks_password(&login.user).await => {
                RoleKind::Unknown
            }
            known => known,
        };
        let label = login
            .host
            .as_deref()
            .and_then(|host| host.split('.').next());
        let label = label.unwrap_or_default().to_owned();
        let verdict = match kind {
            RoleKind::Native if !self.rules.native_login.load(Ordering::Relaxed) => {
                // The platform closes the connection without an error.
                self.events.record(EventKind::Refused {
                    login,
                    sqlstate: String::new(),
                    message: "native login is disabled".to_owned(),
                });
                return stream.shutdown().await;
            }
            RoleKind::Native if label.ends_with("-pooler") => check_pooler_parameters(&startup),
            RoleKind::Native => Ok(()),
            _ if label.ends_with("-pooler") => Err(Refusal::fatal(
                "28000",
                "the connection pooler takes native passwords only",
            )),
            RoleKind::OAuth | RoleKind::Group(_) | RoleKind::MadeInSql | RoleKind::Unknown => {
                stream.write_all(protocol::ask_cleartext_password()).await?;
                stream.flush().await?;
                let password =
                    tokio::time::timeout(STARTUP_LIMIT, protocol::read_password(&mut stream));
                let password = password.await.map_err(|_| {
                    io::Error::new(io::ErrorKind::TimedOut, "timeout waiting for the password")
                })??;
                match self.rules.login_faults.take() {
                    None => self.check_password(&mut login, &kind, &password).await,
                    Some(LoginFault::Close) => return Ok(()),
                    Some(LoginFault::Refuse {
                        sqlstate,
                        severity,
                        message,
                    }) => Err(Refusal {
                        severity,
                        sqlstate,
                        message,
                    }),
                }
            }
        };
        if let Err(refusal) = verdict {
            return self.refuse(&mut stream, login, refusal).await;
        }
        if label.trim_end_matches("-pooler").ends_with("-ro") {
            startup.add_setting("default_transaction_read_only=on");
        }
        let Some(seat) = Seat::take(&self.rules) else {
            let refusal = Refusal::fatal("53300", "sorry, too many clients already");
            return self.refuse(&mut stream, login, refusal).await;
        };
        startup.set("database", self.postgres.database(&login.database));
        let user = login.user.clone();
        let is_made_in_sql = self.roles.kind(&user) == RoleKind::MadeInSql;
        let session = async {
            if is_made_in_sql {
                let adopted = self.postgres.adopt(&user).await;
                adopted.map_err(io::Error::other)?;
            }
            let mut server = self.postgres.open().await?;
            server.write_all(&startup.encode()).await?;
            let step = match self.postgres.password_of(&user) {
                Some(password) => {
                    let last = postgres::log_in(&mut server, &password).await?;
                    stream.write_all(&last).await?;
                    protocol::auth_step(&last)
                }
                None => pass_login(&mut stream, &mut server).await?,
            };
            io::Result::Ok((server, step))
        };
        let session = tokio::time::timeout(STARTUP_LIMIT, session).await;
        let (mut server, step) = session
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "timeout during the login"))??;
        drop(permit);
        if let AuthStep::Refused { sqlstate, message } = step {
            self.events.record(EventKind::Refused {
                login,
                sqlstate,
                message,
            });
            return stream.shutdown().await;
        }
        // Only after the login, so that a rejected client writes nothing.
        if tokio::time::timeout(STARTUP_LIMIT, self.update_identities(&login.database))
            .await
            .is_err()
        {
            tracing::warn!("timeout updating the identities in the database");
        }
        let open = self.compute.open_session();
        self.events.record(EventKind::LoggedIn(login));
        let cut = relay(&mut stream, &mut server, signal).await;
        drop((server, seat));
        if cut == Some(Cut::Vanish)
            && let Err(error) = vanish::swallow(stream.get_ref().0)
        {
            tracing::debug!(%error, "cannot drop packets; the session is only unresponsive");
        }
        let end = match cut {
            // With a timeout: the client may not read.
            None => tokio::time::timeout(SHUTDOWN_LIMIT, stream.shutdown())
                .await
                .unwrap_or(Ok(())),
            Some(Cut::Reset) => stream.get_ref().0.set_zero_linger(),
            Some(Cut::Message | Cut::Close | Cut::Vanish) => Ok(()),
        };
        // Only now: `sessions_ended` means that the end is on its way to the client.
        let held_open = (cut == Some(Cut::Vanish)).then_some(stream);
        drop(open);
        self.events.record(EventKind::Ended { user });
        if held_open.is_some() {
            // Keeps the connection open until everything stops.
            return std::future::pending().await;
        }
        end
    }

    /// Ends every open session. Returns when the end is on its way to the clients.
    pub(crate) async fn cut_sessions(&self, cut: Cut) -> Result<(), Error> {
        let ended = self.compute.sessions_ended();
        match cut {
            Cut::Message => self.terminate_backends().await?,
            Cut::Close | Cut::Reset | Cut::Vanish => self.compute.cut(cut),
        }
        // With a timeout: a client may not read.
        let _ = tokio::time::timeout(CUT_LIMIT, ended).await;
        Ok(())
    }

    async fn terminate_backends(&self) -> Result<(), Error> {
        // Postgres sends 57P01.
        let roles = self.roles.names();
        let roles: Vec<String> = roles.iter().map(|role| quote_literal(role)).collect();
        let sql = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename IN ({})",
            roles.join(", ")
        );
        let admin = self.postgres.admin(DATABASE, OUR_PATH).await?;
        admin
            .batch_execute(&sql)
            .await
            .map_err(|error| Error::because("Postgres failed to end the sessions", error))
    }

    /// Checks a clear-text password by Lakebase's rules. Only logins are checked, not sessions.
    async fn check_password(
        &self,
        login: &mut Login,
        kind: &RoleKind,
        password: &str,
    ) -> Result<(), Refusal> {
        let (sqlstate, severity) = self
            .rules
            .refusal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let refuse = |message: String| {
            Err(Refusal {
                severity: severity.clone(),
                sqlstate: sqlstate.clone(),
                message,
            })
        };
        let user = login.user.clone();
        let identity = match self.issuer.check_token(password) {
            TokenState::Valid { serial, identity } => {
                login.token = Some(serial);
                identity
            }
            TokenState::Expired { serial } | TokenState::Revoked { serial } => {
                login.token = Some(serial);
                return refuse("Invalid authorization for databricks identity login".to_owned());
            }
            TokenState::Undecodable { serial } => {
                login.token = Some(serial);
                return refuse(format!("Failed to decode token for role \"{user}\""));
            }
            TokenState::Foreign => {
                return refuse("Invalid authorization for databricks identity login".to_owned());
            }
            TokenState::Garbage => {
                return refuse(
                    "Provided authentication token is not a valid JWT encoding".to_owned(),
                );
            }
        };
        match kind {
            RoleKind::OAuth if identity == user => Ok(()),
            RoleKind::Group(members) if members.contains(&identity) => Ok(()),
            RoleKind::Unknown if self.exists(&user).await => refuse(match self.postgres.mark() {
                None => format!("password authentication failed for user \"{user}\""),
                Some(_) => format!(
                    "role \"{user}\" on the borrowed server was not made by this local Lakebase: choose \
                     another name, or drop the role"
                ),
            }),
            RoleKind::Unknown => Err(Refusal::fatal(
                "28000",
                format!("role \"{user}\" does not exist"),
            )),
            _ => refuse(format!(
                "token's identity \"{identity}\" did not match the security label configured for role \"{user}\""
            )),
        }
    }

    /// Copies the workspace's identities into a database, for `databricks_create_role`.
    async fn update_identities(&self, database: &str) {
        let mut known = self.identities_versions.lock().await;
        let version = self.issuer.identities_version();
        if known.get(database) == Some(&version) {
            return;
        }
        let (names, kinds): (Vec<_>, Vec<_>) = self.issuer.identities().into_iter().unzip();
        let kinds: Vec<&str> = kinds;
        // The login reports a missing database.
        let Ok(admin) = self.postgres.admin(database, OUR_PATH).await else {
            return;
        };
        // Only a superuser's table: triggers on another one would run as the superuser.
        let is_ours = "SELECT 1 FROM pg_class JOIN pg_roles AS owner ON owner.oid = relowner \
                       WHERE pg_class.oid = to_regclass('lakebase_local.identity') AND owner.rolsuper";
        if !matches!(admin.query_opt(is_ours, &[]).await, Ok(Some(_))) {
            return;
        }
        let sql = "INSERT INTO lakebase_local.identity SELECT * FROM unnest($1::text[], $2::text[]) \
                   ON CONFLICT (name) DO NOTHING";
        if let Err(error) = admin.execute(sql, &[&names, &kinds]).await {
            tracing::debug!(%error, database, "cannot update the identities in the database");
        }
        known.insert(database.to_owned(), version);
    }

    /// Looks up a role that `databricks_create_role` created. Read only, as the login is not checked yet.
    async fn discover(&self, role: &str) -> RoleKind {
        let Ok(admin) = self.postgres.admin("postgres", OUR_PATH).await else {
            return RoleKind::Unknown;
        };
        let sql = "SELECT split_part(setting, '=', 2) FROM pg_db_role_setting, unnest(setconfig) AS setting \
                   WHERE setrole = (SELECT oid FROM pg_roles WHERE rolname = $1) \
                   AND setting LIKE 'lakebase\\_local.kind=%' \
                   AND ($2::text IS NULL OR shobj_description(setrole, 'pg_authid') = $2)";
        let mark = self.postgres.mark();
        let kind = match admin.query_opt(sql, &[&role, &mark]).await {
            Ok(Some(row)) => row.get::<_, String>(0),
            _ => return RoleKind::Unknown,
        };
        self.roles.set(role, RoleKind::MadeInSql);
        match kind.as_str() {
            "GROUP" => RoleKind::Group(self.issuer.members(role)),
            _ => RoleKind::OAuth,
        }
    }

    async fn exists(&self, role: &str) -> bool {
        let Ok(admin) = self.postgres.admin("postgres", OUR_PATH).await else {
            return false;
        };
        let found = admin
            .query_opt("SELECT 1 FROM pg_roles WHERE rolname = $1", &[&role])
            .await;
        matches!(found, Ok(Some(_)))
    }

    async fn refuse(
        &self,
        stream: &mut TlsStream<TcpStream>,
        login: Login,
        refusal: Refusal,
    ) -> io::Result<()> {
        let Refusal {
            severity,
            sqlstate,
            message,
        } = refusal;
        let packet = protocol::error_response(&severity, &sqlstate, &message);
        self.events.record(EventKind::Refused {
            login,
            sqlstate,
            message,
        });
        stream.write_all(&packet).await?;
        stream.shutdown().await
    }
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

/// PgBouncer accepts only the startup parameters that it tracks per client.
fn check_pooler_parameters(startup: &Startup) -> Result<(), Refusal> {
    const TRACKED: &[&str] = &[
        "application_name",
        "client_encoding",
        "database",
        "datestyle",
        "intervalstyle",
        "standard_conforming_strings",
        "timezone",
        "user",
    ];
    for name in startup.names() {
        if !TRACKED.contains(&name.to_ascii_lowercase().as_str()) {
            let text = format!("unsupported startup parameter: {name}");
            return Err(Refusal::fatal("08P01", text));
        }
    }
    Ok(())
}

/// One of the connections that may be open.
struct Seat<'a>(&'a AtomicUsize);

impl<'a> Seat<'a> {
    fn take(rules: &'a Rules) -> Option<Self> {
        let limit = rules.connection_limit.load(Ordering::Relaxed);
        rules
            .open
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |open| {
                (open < limit).then_some(open + 1)
            })
            .ok()?;
        Some(Self(&rules.open))
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Relays the login between client and Postgres.
async fn pass_login(
    client: &mut TlsStream<TcpStream>,
    server: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> io::Result<AuthStep> {
    loop {
        let message = protocol::read_message(server).await?;
        client.write_all(&message).await?;
        client.flush().await?;
        match protocol::auth_step(&message) {
            AuthStep::PassOn => {}
            AuthStep::Answer => {
                server
                    .write_all(&protocol::read_message(client).await?)
                    .await?
            }
            end => return Ok(end),
        }
    }
}

/// Copies both ways until the server closes its side or the session is cut. A client that has closed its writing
/// side still gets the rest.
async fn relay(
    client: &mut TlsStream<TcpStream>,
    server: &mut (impl AsyncRead + AsyncWrite + Unpin),
    mut cut: watch::Receiver<Option<Cut>>,
) -> Option<Cut> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let upstream = async {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
        let _ = to_server.shutdown().await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = tokio::io::copy(&mut from_server, &mut to_client) => None,
        () = upstream => None,
        _ = cut.changed() => *cut.borrow(),
    }
}
