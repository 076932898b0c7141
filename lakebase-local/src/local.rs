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

/// A Lakebase on this machine. Dropping it stops all processes and removes all files.
///
/// Dropping blocks until Postgres has stopped. Async code should call [`stop`](LocalLakebase::stop).
#[must_use = "dropping it stops the local Lakebase"]
pub struct LocalLakebase {
    client_id: String,
    client_secret: String,
    user: String,
    user_token: String,
    user_password: String,
    /// A token of another issuer, trusted for the service principal.
    id_token: String,
    request_token: String,
    /// Part of the URL of stand-ins without authentication.
    key: String,
    /// The private folder.
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
    /// `None` only while it is being stopped.
    folder: Option<Private>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl LocalLakebase {
    /// Starts one with the default settings: tokens live for an hour, and ports are free ones.
    ///
    /// # Errors
    ///
    /// As [`Builder::start`].
    ///
    /// # Cancel safety
    ///
    /// As [`Builder::start`].
    pub async fn start() -> Result<Self, Error> {
        Self::builder().start().await
    }

    /// Returns a builder for other settings.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Returns the variables with which a program finds this Lakebase.
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
            // Node reads this instead of PGSSLROOTCERT.
            ("NODE_EXTRA_CA_CERTS", ca),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// Returns the URL of the workspace.
    pub fn workspace_url(&self) -> String {
        format!("http://{}", self.api)
    }

    /// Returns the path of the endpoint.
    pub fn endpoint(&self) -> String {
        self.gateway.place.endpoint_path()
    }

    /// Port of Postgres. The host is `localhost`, unless [`Builder::postgres_ip`] sets another address.
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

    /// User name of the person, which is a Postgres role, too.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Personal access token of [`user`](Self::user).
    pub fn user_token(&self) -> &str {
        &self.user_token
    }

    /// The private folder, which only its user can enter. It holds the certificate, the stand-ins of tools, the
    /// socket of `lakebase-local ctl`, and the socket of Postgres, on which the superuser `lakebase_admin` logs in
    /// without a password.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// PEM file of the temporary certificate authority.
    pub fn ca_file(&self) -> &Path {
        &self.ca_file
    }

    /// Returns all secrets and tokens, for tests that check that no output contains them.
    pub fn secrets(&self) -> Vec<String> {
        self.issuer.all_secrets()
    }

    /// Returns all events so far.
    pub fn events(&self) -> Vec<Event> {
        self.events.all()
    }

    /// Waits until the log satisfies `enough`, and returns it. There is no timeout.
    ///
    /// # Cancel safety
    ///
    /// It only reads the log, so it can be cancelled.
    pub async fn wait_until(&self, enough: impl FnMut(&[Event]) -> bool) -> Vec<Event> {
        self.events.wait_until(enough).await
    }

    /// Returns the totals since the start.
    pub fn counters(&self) -> Counters {
        self.events.counters()
    }

    /// Stops everything without blocking the runtime. Dropping does the same, but blocks.
    ///
    /// # Cancel safety
    ///
    /// Cancelling it drops the rest, which blocks.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        for task in std::mem::take(&mut self.tasks) {
            let _ = task.await;
        }
        self.branches.operations.finish().await;
        // Dropping waits for processes.
        let parts = (self.branches.take(), self.folder.take());
        let _ = tokio::task::spawn_blocking(move || drop(parts)).await;
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
