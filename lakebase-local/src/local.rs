//! The handle.

mod branches;
mod builder;
mod control;
mod sign_in;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use builder::Builder;
pub use sign_in::SignIn;

use crate::Error;
use crate::branches::Branches;
use crate::clock::PlatformClock;
use crate::control::DIR_VARIABLE;
use crate::events::{Counters, Event, EventLog};
use crate::faults::Faults;
use crate::gateway::Gateway;
use crate::issuer::Issuer;
use crate::postgres::{DATABASE, Private};
use crate::workspace::{INSTANCE, Switch};

/// A Lakebase on this machine. Dropping it stops everything and leaves nothing behind.
///
/// Dropping waits a moment for Postgres to stop; async code that minds calls
/// [`stop`](LocalLakebase::stop).
#[must_use = "dropping it stops the local Lakebase"]
pub struct LocalLakebase {
    client_id: String,
    client_secret: String,
    user: String,
    user_token: String,
    user_password: String,
    /// Of another issuer, trusted for the service principal.
    id_token: String,
    request_token: String,
    /// Opens the stand-ins that ask for no secret.
    key: String,
    /// Of ours alone.
    dir: PathBuf,
    ca_file: PathBuf,
    api: SocketAddr,
    gateway_address: SocketAddr,
    issuer: Arc<Issuer>,
    clock: Arc<PlatformClock>,
    faults: Arc<Faults>,
    switch: Arc<Switch>,
    events: Arc<EventLog>,
    branches: Arc<Branches>,
    /// Of the production branch.
    gateway: Arc<Gateway>,
    /// Gone only while being stopped.
    folder: Option<Private>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
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

    /// The variables a program needs to find this Lakebase.
    pub fn env(&self) -> Vec<(String, String)> {
        let ca = self.ca_file.display().to_string();
        [
            ("DATABRICKS_HOST", self.workspace_url()),
            ("DATABRICKS_CLIENT_ID", self.client_id.clone()),
            ("DATABRICKS_CLIENT_SECRET", self.client_secret.clone()),
            ("LAKEBASE_ENDPOINT", self.endpoint()),
            ("PGHOST", self.gateway.place.host.clone()),
            ("PGPORT", self.postgres_port().to_string()),
            ("PGDATABASE", DATABASE.to_owned()),
            ("PGUSER", self.client_id.clone()),
            ("PGSSLMODE", "require".to_owned()),
            ("PGSSLROOTCERT", ca.clone()),
            (DIR_VARIABLE, self.dir.display().to_string()),
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
        self.gateway.place.endpoint_path()
    }

    /// Port of Postgres; the host is `localhost` unless another address was asked for.
    pub fn postgres_port(&self) -> u16 {
        self.gateway_address.port()
    }

    /// Host name of the built-in pooler, as the API names it. Resolve it as 127.0.0.1.
    pub fn pooled_host(&self) -> &str {
        &self.gateway.place.pooled_host
    }

    /// Host name for read-only sessions, as the API names it. Resolve it as 127.0.0.1.
    pub fn read_only_host(&self) -> &str {
        &self.gateway.place.read_only_host
    }

    /// Path of the branch, whose read-write endpoint is [`endpoint`](Self::endpoint).
    pub fn branch(&self) -> String {
        self.gateway.place.branch_path()
    }

    /// Name of the same compute as a Provisioned instance.
    pub fn instance(&self) -> &str {
        INSTANCE
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

    /// The folder of this start, which only its user can enter. In it are the certificate, the stand-ins of
    /// tools, the way in for `lakebase-local ctl`, and the socket of the Postgres inside, where the
    /// superuser `lakebase_admin` logs in without a password.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// PEM file of the throw-away certificate authority.
    pub fn ca_file(&self) -> &Path {
        &self.ca_file
    }

    /// Everything secret that exists: to prove that none of it shows up anywhere.
    pub fn secrets(&self) -> Vec<String> {
        self.issuer.all_secrets()
    }

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
        self.branches.operations.finish().await;
        // Dropping waits for processes; a blocking thread may do that.
        let made = (self.branches.take(), self.folder.take());
        let _ = tokio::task::spawn_blocking(move || drop(made)).await;
    }
}

impl Drop for LocalLakebase {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        for task in &self.tasks {
            task.abort();
        }
        drop(self.branches.take());
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
