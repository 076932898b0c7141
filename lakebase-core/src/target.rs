//! The database as resolved: what a driver needs besides the credential.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::ClientConfig;

use crate::config::{Config, Plaintext};
use crate::error::Error;
use crate::settings::host_name::{direct_host, is_loopback, is_pooled_host};
use crate::tls::Roots;

/// Host, port, database, user and TLS of one Lakebase.
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

    /// Host name; TLS verifies it.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Address to connect to instead of resolving the name.
    pub fn hostaddr(&self) -> Option<IpAddr> {
        self.hostaddr
    }

    /// Port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Database.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Postgres role.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// `application_name` for the startup packet.
    pub fn application_name(&self) -> &str {
        &self.application_name
    }

    /// The search path to ask for at startup, if a schema is configured: quoted, `public` last. None on a
    /// pooled host, which takes none there; [`adapter::login`](crate::adapter::login) checks the role's own path there.
    pub fn search_path(&self) -> Option<String> {
        if self.is_pooled() {
            return None;
        }
        let schema = self.schema.as_deref()?.replace('"', "\"\"");
        Some(format!("\"{schema}\",public"))
    }

    /// [`search_path`](Self::search_path) as the startup parameter `options`, for drivers that take that as text.
    pub fn startup_options(&self) -> Option<String> {
        let path = self.search_path()?;
        // A backslash protects a space there.
        let path = path.replace('\\', r"\\").replace(' ', r"\ ");
        Some(format!("-c search_path={path}"))
    }

    /// Whether the host is the built-in PgBouncer, which pools by transaction: nothing may be kept
    /// on a session, prepared statements included.
    pub fn is_pooled(&self) -> bool {
        is_pooled_host(&self.host)
    }

    /// Another database beside it.
    pub(crate) fn with_database(&self, name: &str) -> Arc<Self> {
        Arc::new(Self {
            database: name.to_owned(),
            ..self.clone()
        })
    }

    /// The same database past its pooler.
    pub(crate) fn direct(self: &Arc<Self>) -> Arc<Self> {
        if !self.is_pooled() {
            return Arc::clone(self);
        }
        Arc::new(Self {
            host: direct_host(&self.host),
            ..Self::clone(self)
        })
    }

    /// Whether the connection goes through (verified) TLS. False on loopback only, unless plaintext
    /// was allowed dangerously.
    pub fn uses_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The TLS configuration: verifies chain and name, on a crypto provider of its own.
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
