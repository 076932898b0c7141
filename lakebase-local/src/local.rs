//! The handle and its builder.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use uuid::Uuid;

use crate::Error;
use crate::certs;
use crate::clock::PlatformClock;
use crate::compute::{Compute, Cut, Wake};
use crate::events::{Call, Counters, Event, EventLog};
use crate::faults::{Fault, Faults};
use crate::gateway::{self, Gateway, Rules};
use crate::issuer::Issuer;
use crate::postgres::{self, ADMIN, NATIVE_GROUP, Postgres, quote_ident, quote_literal};
use crate::roles::{RoleKind, Roles};
use crate::workspace::{self, Place, Switch, Workspace};

const DATABASE: &str = "databricks_postgres";
const HOUR: Duration = Duration::from_secs(3600);

/// A Lakebase on this machine. Dropping it stops everything and leaves nothing behind.
///
/// Dropping waits a moment for Postgres to stop; async code that minds calls
/// [`stop`](LocalLakebase::stop).
#[must_use = "dropping it stops the local Lakebase"]
pub struct LocalLakebase {
    place: Place,
    client_id: String,
    client_secret: String,
    user: String,
    user_token: String,
    ca_file: PathBuf,
    api: SocketAddr,
    gateway_address: SocketAddr,
    issuer: Arc<Issuer>,
    clock: Arc<PlatformClock>,
    faults: Arc<Faults>,
    switch: Arc<Switch>,
    events: Arc<EventLog>,
    compute: Arc<Compute>,
    roles: Arc<Roles>,
    gateway: Arc<Gateway>,
    /// Gone only while being dropped.
    postgres: Option<Postgres>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

/// Starts a [`LocalLakebase`] with other than the usual settings.
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    token_lifetime: Duration,
    workspace_token_lifetime: Duration,
    api_port: u16,
    postgres_port: u16,
    postgres_ip: Ipv4Addr,
    bin_dir: Option<PathBuf>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            token_lifetime: HOUR,
            workspace_token_lifetime: HOUR,
            api_port: 0,
            postgres_port: 0,
            postgres_ip: Ipv4Addr::LOCALHOST,
            bin_dir: None,
        }
    }
}

impl Builder {
    /// Lifetime of database tokens, from 1 s; an hour by default, as on the platform.
    pub fn token_lifetime(mut self, lifetime: Duration) -> Self {
        self.token_lifetime = lifetime;
        self
    }

    /// Lifetime of workspace tokens; an hour by default.
    pub fn workspace_token_lifetime(mut self, lifetime: Duration) -> Self {
        self.workspace_token_lifetime = lifetime;
        self
    }

    /// Port of the workspace API on 127.0.0.1; a free one by default.
    pub fn api_port(mut self, port: u16) -> Self {
        self.api_port = port;
        self
    }

    /// Port of Postgres on 127.0.0.1; a free one by default.
    pub fn postgres_port(mut self, port: u16) -> Self {
        self.postgres_port = port;
        self
    }

    /// Another loopback address for Postgres. Some clients cannot be told a port; where all of
    /// 127.0.0.0/8 is loopback (Linux), they find port 5432 there beside any other Postgres.
    pub fn postgres_ip(mut self, ip: Ipv4Addr) -> Self {
        self.postgres_ip = ip;
        self
    }

    /// Folder with `initdb` and `postgres`; looked for by default.
    pub fn postgres_bin_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.bin_dir = Some(dir.into());
        self
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// Where no Postgres is found or it does not start, and where a port is taken. The text says
    /// what to do.
    pub async fn start(self) -> Result<LocalLakebase, Error> {
        if self.token_lifetime < Duration::from_secs(1) {
            return Err(Error::new("the token lifetime must be at least 1 s"));
        }
        if !self.postgres_ip.is_loopback() {
            return Err(Error::new(format!(
                "{} is not a loopback address",
                self.postgres_ip
            )));
        }
        let api = listen(Ipv4Addr::LOCALHOST, self.api_port, "the workspace API").await?;
        let gateway_listener = listen(self.postgres_ip, self.postgres_port, "Postgres").await?;
        let address = |listener: &TcpListener| {
            listener
                .local_addr()
                .map_err(|error| Error::because("cannot tell a port", error))
        };
        let (api_address, gateway_address) = (address(&api)?, address(&gateway_listener)?);
        let postgres = Postgres::start(self.bin_dir).await?;

        let place = Place {
            project: "local".to_owned(),
            branch: "production".to_owned(),
            endpoint: "primary".to_owned(),
            instance: "local-instance".to_owned(),
            // The name every resolver knows; the gateway tells kinds of hosts by TLS server name.
            host: match self.postgres_ip {
                Ipv4Addr::LOCALHOST => "localhost".to_owned(),
                other => other.to_string(),
            },
            pooled_host: "ep-local-pooler.localhost".to_owned(),
            read_only_host: "ep-local-ro.localhost".to_owned(),
        };
        let mut names = vec!["127.0.0.1".to_owned(), "ep-local.localhost".to_owned()];
        names.extend([
            place.host.clone(),
            place.pooled_host.clone(),
            place.read_only_host.clone(),
        ]);
        names.push("ep-local-ro-pooler.localhost".to_owned());
        let certs = certs::make(&names)?;
        let ca_file = postgres.dir().join("ca.pem");
        tokio::fs::write(&ca_file, &certs.ca_pem)
            .await
            .map_err(|error| Error::because("cannot write the CA certificate", error))?;

        let events = Arc::new(EventLog::new());
        let clock = Arc::new(PlatformClock::default());
        let issuer = Arc::new(Issuer::new(
            Arc::clone(&clock),
            self.token_lifetime,
            self.workspace_token_lifetime,
        ));
        let compute = Arc::new(Compute::new(Arc::clone(&events)));
        let roles = Arc::new(Roles::default());
        let faults = Arc::new(Faults::default());
        let switch = Arc::new(Switch::default());
        let stop = watch::Sender::new(false);
        let gateway = Arc::new(Gateway {
            tls: TlsAcceptor::from(certs.server),
            issuer: Arc::clone(&issuer),
            roles: Arc::clone(&roles),
            compute: Arc::clone(&compute),
            postgres: postgres.server().clone(),
            events: Arc::clone(&events),
            rules: Rules::default(),
        });
        let workspace = Arc::new(Workspace {
            base_url: format!("http://{api_address}"),
            issuer: Arc::clone(&issuer),
            clock: Arc::clone(&clock),
            compute: Arc::clone(&compute),
            events: Arc::clone(&events),
            faults: Arc::clone(&faults),
            place: place.clone(),
        });
        let tasks = vec![
            tokio::spawn(gateway::serve(
                Arc::clone(&gateway),
                gateway_listener,
                stop.subscribe(),
            )),
            tokio::spawn(workspace::serve(
                workspace,
                api,
                Arc::clone(&switch),
                stop.subscribe(),
            )),
        ];
        let local = LocalLakebase {
            place,
            client_id: Uuid::new_v4().to_string(),
            client_secret: format!("dose{}", Uuid::new_v4().simple()),
            user: "ana@example.com".to_owned(),
            user_token: format!("dapi{}", Uuid::new_v4().simple()),
            ca_file,
            api: api_address,
            gateway_address,
            issuer,
            clock,
            faults,
            switch,
            events,
            compute,
            roles,
            gateway,
            postgres: Some(postgres),
            stop,
            tasks,
        };
        local.populate().await?;
        Ok(local)
    }
}

async fn listen(ip: Ipv4Addr, port: u16, what: &str) -> Result<TcpListener, Error> {
    TcpListener::bind((ip, port))
        .await
        .map_err(|error| Error::because(format!("cannot listen on {ip}:{port} for {what}"), error))
}

impl LocalLakebase {
    /// Starts one with the usual settings: tokens live for an hour, ports are free ones.
    ///
    /// # Errors
    ///
    /// As [`Builder::start`].
    pub async fn start() -> Result<Self, Error> {
        Self::builder().start().await
    }

    /// For other than the usual settings.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The identities that every local Lakebase begins with.
    async fn populate(&self) -> Result<(), Error> {
        self.issuer
            .add_service_principal(&self.client_id, &self.client_secret);
        self.issuer.add_pat(&self.user_token, &self.user);
        for identity in [&self.client_id, &self.user] {
            self.create_role(identity).await?;
            // As for an app's service principal and a project's owner: CONNECT and CREATE on the
            // database. `public` is opened as well, to be usable without a schema of one's own.
            let ident = quote_ident(identity);
            self.sql(&format!(
                "GRANT CONNECT, CREATE ON DATABASE {DATABASE} TO {ident}; \
                 GRANT USAGE, CREATE ON SCHEMA public TO {ident}"
            ))
            .await?;
        }
        Ok(())
    }

    /// The variables a program needs to find this Lakebase.
    pub fn env(&self) -> Vec<(String, String)> {
        let ca = self.ca_file.display().to_string();
        [
            ("DATABRICKS_HOST", self.workspace_url()),
            ("DATABRICKS_CLIENT_ID", self.client_id.clone()),
            ("DATABRICKS_CLIENT_SECRET", self.client_secret.clone()),
            ("LAKEBASE_ENDPOINT", self.endpoint()),
            ("PGHOST", self.place.host.clone()),
            ("PGPORT", self.postgres_port().to_string()),
            ("PGDATABASE", DATABASE.to_owned()),
            ("PGUSER", self.client_id.clone()),
            ("PGSSLMODE", "require".to_owned()),
            ("PGSSLROOTCERT", ca.clone()),
            // What Node reads instead of PGSSLROOTCERT.
            ("NODE_EXTRA_CA_CERTS", ca),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// URL of the workspace.
    pub fn workspace_url(&self) -> String {
        format!("http://{}", self.api)
    }

    /// Path of the endpoint.
    pub fn endpoint(&self) -> String {
        self.place.endpoint_path()
    }

    /// Port of Postgres; the host is `localhost` unless another address was asked for.
    pub fn postgres_port(&self) -> u16 {
        self.gateway_address.port()
    }

    /// Host name of the built-in pooler, as the API names it. Resolve it as 127.0.0.1.
    pub fn pooled_host(&self) -> &str {
        &self.place.pooled_host
    }

    /// Host name for read-only sessions, as the API names it. Resolve it as 127.0.0.1.
    pub fn read_only_host(&self) -> &str {
        &self.place.read_only_host
    }

    /// Name of the same compute as a Provisioned instance.
    pub fn instance(&self) -> &str {
        &self.place.instance
    }

    /// Client id of the service principal, which is its Postgres role, too.
    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// The person with an account, who is a Postgres role, too.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Personal access token of [`user`](Self::user).
    pub fn user_token(&self) -> &str {
        &self.user_token
    }

    /// PEM file of the throw-away certificate authority.
    pub fn ca_file(&self) -> &Path {
        &self.ca_file
    }

    /// Everything secret that exists: to prove that none of it shows up anywhere.
    pub fn secrets(&self) -> Vec<String> {
        self.issuer.all_secrets()
    }

    // Identities and roles.

    /// A further service principal. Returns client id and secret; it has no Postgres role yet.
    pub fn add_service_principal(&self) -> (String, String) {
        let (id, secret) = (
            Uuid::new_v4().to_string(),
            format!("dose{}", Uuid::new_v4().simple()),
        );
        self.issuer.add_service_principal(&id, &secret);
        (id, secret)
    }

    /// Makes a Postgres role for an identity, as `databricks_create_role` does.
    ///
    /// # Errors
    ///
    /// What Postgres says.
    pub async fn create_role(&self, identity: &str) -> Result<(), Error> {
        self.sql(&format!("CREATE ROLE {} LOGIN", quote_ident(identity)))
            .await?;
        self.roles.set(identity, RoleKind::OAuth);
        Ok(())
    }

    /// Makes a group role that its members log in as.
    ///
    /// # Errors
    ///
    /// What Postgres says.
    pub async fn create_group_role(&self, group: &str, members: &[&str]) -> Result<(), Error> {
        self.sql(&format!("CREATE ROLE {} LOGIN", quote_ident(group)))
            .await?;
        let members = members.iter().map(|&member| member.to_owned()).collect();
        self.roles.set(group, RoleKind::Group(members));
        Ok(())
    }

    /// Makes a native role with a password.
    ///
    /// # Errors
    ///
    /// What Postgres says.
    pub async fn create_native_role(&self, name: &str, password: &str) -> Result<(), Error> {
        let (ident, literal) = (quote_ident(name), quote_literal(password));
        self.sql(&format!(
            "CREATE ROLE {ident} LOGIN PASSWORD {literal} IN ROLE {NATIVE_GROUP}; \
             GRANT CONNECT, CREATE ON DATABASE {DATABASE} TO {ident}; \
             GRANT USAGE, CREATE ON SCHEMA public TO {ident}"
        ))
        .await?;
        self.roles.set(name, RoleKind::Native);
        Ok(())
    }

    /// Switches logins with native passwords on or off for the endpoint.
    pub fn set_native_login(&self, enabled: bool) {
        self.gateway
            .rules
            .native_login
            .store(enabled, Ordering::Relaxed);
    }

    /// Runs SQL as superuser, behind the gateway's back.
    ///
    /// # Errors
    ///
    /// What Postgres says.
    pub async fn sql(&self, sql: &str) -> Result<(), Error> {
        let admin = self.gateway.postgres.admin(DATABASE).await?;
        admin
            .batch_execute(sql)
            .await
            .map_err(|error| Error::because("the statement failed", error))
    }

    /// A copy of the database as it is now; cheap. Nobody may be connected to the original.
    ///
    /// # Errors
    ///
    /// What Postgres says.
    pub async fn scratch_database(&self) -> Result<String, Error> {
        let name = format!("scratch_{}", Uuid::new_v4().simple());
        let admin = self.gateway.postgres.admin("postgres").await?;
        admin
            .batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {DATABASE}"))
            .await
            .map_err(|error| Error::because("cannot copy the database", error))?;
        let grants = format!(
            "GRANT CONNECT, CREATE ON DATABASE {name} TO {}, {}",
            quote_ident(&self.client_id),
            quote_ident(&self.user)
        );
        admin
            .batch_execute(&grants)
            .await
            .map_err(|error| Error::because("cannot open the copy", error))?;
        Ok(name)
    }

    // Tokens.

    /// Lifetime of database tokens minted from now on.
    pub fn set_token_lifetime(&self, lifetime: Duration) {
        self.issuer.set_token_lifetime(lifetime);
    }

    /// Takes back every database token minted so far, whatever its expiry.
    pub fn revoke_tokens(&self) {
        self.issuer.revoke_all();
    }

    /// Every database token is over now.
    pub fn expire_tokens(&self) {
        self.issuer.expire_all();
    }

    /// Every workspace token is over now.
    pub fn expire_workspace_tokens(&self) {
        self.issuer.expire_workspace_tokens();
    }

    /// Sets the platform's clock ahead of (or, negative, behind) this machine's.
    pub fn set_clock_skew_millis(&self, ahead: i64) {
        self.clock.set_skew(ahead);
    }

    /// SQLSTATE and severity with which logins are refused: the platform documents neither.
    pub fn set_refusal(&self, sqlstate: &str, severity: &str) {
        let mut refusal = self
            .gateway
            .rules
            .refusal
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *refusal = (sqlstate.to_owned(), severity.to_owned());
    }

    // The workspace API.

    /// Lets a call misbehave until [`heal`](Self::heal).
    pub fn fail(&self, call: Call, fault: Fault) {
        self.faults.set(call, Some(fault));
    }

    /// Lets a call misbehave a number of times.
    pub fn fail_times(&self, call: Call, times: usize, fault: Fault) {
        self.faults.push(call, times, fault);
    }

    /// Ends the misbehaviour of a call.
    pub fn heal(&self, call: Call) {
        self.faults.set(call, None);
    }

    /// Makes the whole API unreachable, or reachable again.
    pub fn set_api_down(&self, down: bool) {
        self.switch.set_down(down);
    }

    // The compute.

    /// Suspends the compute: sessions end, and the next connection wakes it after `wake_delay`.
    ///
    /// # Errors
    ///
    /// If Postgres cannot be told to end the sessions.
    pub async fn suspend(&self, cut: Cut, wake_delay: Duration, wake: Wake) -> Result<(), Error> {
        self.compute.suspend(wake_delay, wake);
        self.cut_sessions(cut).await
    }

    /// Ends every open session, as a restart does.
    ///
    /// # Errors
    ///
    /// If Postgres cannot be told to end the sessions.
    pub async fn cut_sessions(&self, cut: Cut) -> Result<(), Error> {
        if cut == Cut::Message {
            // Postgres itself says 57P01.
            self.sql(&format!(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE backend_type = 'client backend' AND usename <> '{ADMIN}'"
            ))
            .await
        } else {
            self.compute.cut(cut);
            Ok(())
        }
    }

    /// Most sessions at a time; beyond it logins get `53300`.
    pub fn set_connection_limit(&self, limit: usize) {
        self.gateway
            .rules
            .connection_limit
            .store(limit, Ordering::Relaxed);
    }

    // What happened.

    /// Everything that happened so far.
    pub fn events(&self) -> Vec<Event> {
        self.events.all()
    }

    /// Waits until the log satisfies `enough`, and returns it. Waits for ever if it never does.
    pub async fn wait_until(&self, enough: impl FnMut(&[Event]) -> bool) -> Vec<Event> {
        self.events.wait_until(enough).await
    }

    /// Totals.
    pub fn counters(&self) -> Counters {
        self.events.counters()
    }

    /// Stops everything without blocking the runtime. Dropping does the same, blocking.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        for task in std::mem::take(&mut self.tasks) {
            let _ = task.await;
        }
        if let Some(postgres) = self.postgres.take() {
            postgres.stop().await;
        }
    }
}

impl Drop for LocalLakebase {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl fmt::Debug for LocalLakebase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalLakebase")
            .field("workspace_url", &self.workspace_url())
            .field("endpoint", &self.endpoint())
            .field("postgres_port", &self.postgres_port())
            .finish_non_exhaustive()
    }
}

/// Where the server programs were found, for reports.
///
/// # Errors
///
/// If there are none.
pub async fn find_postgres() -> Result<PathBuf, Error> {
    postgres::find_bin_dir().await
}
