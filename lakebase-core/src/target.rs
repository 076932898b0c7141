//! The resolved database: the settings that a driver needs besides the credential.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::ClientConfig;

use crate::config::{Config, Plaintext};
use crate::error::Error;
use crate::settings::host_name::{direct_host, is_loopback, is_pooled_host};
use crate::tls::Roots;

/// Host, port, database, user and TLS of a Lakebase database: see [`Lakebase::target`](crate::Lakebase::target).
#[derive(Clone)]
pub struct Target {
    pub(crate) host: String,
    pub(crate) hostaddr: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) database: String,
    pub(crate) user: String,
    pub(crate) application_name: String,
    pub(crate) schema: Option<String>,
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

impl Target {
    pub(crate) async fn new(config: &Config, host: String, user: String) -> Result<Self, Error> {
        let plaintext = match config.plaintext {
            Plaintext::Never => false,
            Plaintext::OnLoopback => {
                is_loopback(&host) && config.hostaddr.is_none_or(|address| address.is_loopback())
            }
            Plaintext::Always => true,
        };
        let tls = if plaintext {
            None
        } else {
            let roots = match &config.roots {
                Some(roots) => roots.clone(),
                None => Roots::system().await?,
            };
            Some(Arc::new(roots.client_config()?))
        };
        Ok(Self {
            host,
            hostaddr: config.hostaddr,
            port: config.port,
            database: config.database.clone(),
            user,
            application_name: config.application_name.clone(),
            schema: config.schema.clone(),
            tls,
        })
    }

    /// The host name, which TLS verifies.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The address to connect to instead of resolving the host name, if one is configured.
    pub fn hostaddr(&self) -> Option<IpAddr> {
        self.hostaddr
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The name of the database.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The Postgres role.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The startup parameter `application_name`.
    pub fn application_name(&self) -> &str {
        &self.application_name
    }

    /// The search path for the startup packet, if a schema is configured: the quoted schema, then `public`. `None` on a pooled host, which
    /// rejects it; [`adapter::login`](crate::adapter::login) checks the search path of the role there.
    pub fn search_path(&self) -> Option<String> {
        if self.is_pooled() {
            return None;
        }
        let schema = self.schema.as_deref()?.replace('"', "\"\"");
        Some(format!("\"{schema}\",public"))
    }

    /// The startup parameter `options` with the [`search_path`](Self::search_path).
    pub fn startup_options(&self) -> Option<String> {
        let path = self.search_path()?;
        // Spaces need a backslash there.
        let path = path.replace('\\', r"\\").replace(' ', r"\ ");
        Some(format!("-c search_path={path}"))
    }

    /// Returns whether the host is the built-in PgBouncer, which pools by transaction: sessions keep no state but the statements
    /// that a driver has prepared.
    pub fn is_pooled(&self) -> bool {
        is_pooled_host(&self.host)
    }

    /// Another database on the same server.
    pub(crate) fn with_database(&self, name: &str) -> Arc<Self> {
        Arc::new(Self {
            database: name.to_owned(),
            ..self.clone()
        })
    }

    /// The same database on the direct host.
    pub(crate) fn direct(self: &Arc<Self>) -> Arc<Self> {
        if !self.is_pooled() {
            return Arc::clone(self);
        }
        Arc::new(Self {
            host: direct_host(&self.host),
            ..Self::clone(self)
        })
    }

    /// Returns whether the connection uses verified TLS. It does, except on loopback or if the configuration allows plaintext.
    pub fn uses_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The TLS configuration, which verifies chain and name and has its own crypto provider.
    pub fn tls_config(&self) -> Option<&ClientConfig> {
        self.tls.as_deref()
    }
}

/// `user@host:port/database`.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            user,
            host,
            port,
            database,
            ..
        } = self;
        write!(f, "{user}@{host}:{port}/{database}")
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({self}, tls: {})", self.uses_tls())
    }
}
