//! Configuration: the database, the Postgres role and the authentication, from the environment, a URL or code.
//!
//! # Variables
//!
//! [`Config::from_env`] reads these variables. An empty variable counts as unset.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `LAKEBASE_ENDPOINT`, else `DATABRICKS_LAKEBASE_ENDPOINT`, else `ENDPOINT_NAME` | endpoint path `projects/../branches/../endpoints/..`, or branch path `projects/../branches/..` (its read-write endpoint is looked up) | none |
//! | `LAKEBASE_INSTANCE_NAME` | name of a Provisioned instance, instead of an endpoint | none |
//! | `PGHOST` | Postgres host | looked up in the workspace |
//! | `PGHOSTADDR` | IP address to connect to; TLS still verifies the name in `PGHOST` | resolved |
//! | `PGPORT` | port | 5432 |
//! | `PGDATABASE` | database | `databricks_postgres` |
//! | `PGUSER` | Postgres role: of a person, a service principal or a group | the service principal's client id, else looked up in the workspace |
//! | `PGPASSWORD` | password of a native role; no token is minted | none |
//! | `PGSSLMODE` | see [`TlsMode`] | verified TLS |
//! | `PGSSLROOTCERT` | PEM file with the roots to trust, or `system` | Mozilla's and the system's |
//! | `PGAPPNAME` | `application_name` | `lakebase-rs_lakebase-core/{version}` |
//! | `LAKEBASE_SCHEMA` | schema that comes first in the search path of every connection | none |
//! | `PGCONNECT_TIMEOUT` | time limit for opening one connection, in seconds, with all attempts | 30 |
//! | `LAKEBASE_PG_URL` | Postgres URL; its parts take precedence over the variables above | none |
//!
//! # Authentication at the workspace
//!
//! Settings and strategies are those of the official Databricks clients: a program that works with their CLI, their SDKs
//! or in Databricks Apps needs only `LAKEBASE_ENDPOINT` besides. The settings come from code, the environment or a profile in
//! `~/.databrickscfg`, in this order. [Authentication](https://github.com/lakebase-rs/lakebase/blob/main/docs/authentication.md)
//! lists the strategies, their variables and the differences from the official clients.
//!
//! Requests use the HTTP proxies of `HTTPS_PROXY`, `HTTP_PROXY` and `ALL_PROXY`, in upper or lower case, except for the
//! hosts of `NO_PROXY` and for this machine.

mod build;
mod builder;
pub(crate) mod claim;
pub(crate) mod endpoint;
mod raw;
mod url;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

pub use builder::ConfigBuilder;
pub use claim::Claim;
pub use endpoint::HostKind;

pub use crate::settings::azure_endpoints::AzureEndpoints;

use crate::config::endpoint::Compute;
use crate::credential::clock::Watch;
use crate::credential::provider::SharedProvider;
use crate::credential::refresh::Refresh;
use crate::error::Error;
use crate::settings::attributes::Attribute;
use crate::settings::setting::Setting;
use crate::sign_in::SignIn;
use crate::sign_in::access::Access;
use crate::tls::Roots;

/// The longest time limit that a caller can set. With longer ones, `Instant + Duration` could overflow.
pub(crate) const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// A complete and valid configuration for [`Lakebase::new`](crate::Lakebase::new). Creating one does not use the network.
///
/// ```
/// use lakebase_core::Config;
///
/// let config = Config::builder()
///     .endpoint("projects/shop/branches/production/endpoints/primary")
///     .workspace_host("https://dbc-a1b2c3d4-e5f6.cloud.databricks.com")
///     .service_principal("6f2f0a2e-6a53-4c0b-9a1f-5a2b0c9d7e11", "secret")
///     .build()?;
/// # Ok::<(), lakebase_core::Error>(())
/// ```
#[derive(Clone)]
pub struct Config {
    pub(crate) login: LoginKind,
    pub(crate) compute: Option<Compute>,
    pub(crate) workspace: Option<Access>,
    pub(crate) host_kind: HostKind,
    pub(crate) host: Option<String>,
    pub(crate) hostaddr: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) database: String,
    pub(crate) user: Option<String>,
    pub(crate) application_name: String,
    pub(crate) schema: Option<String>,
    pub(crate) token_ttl: Option<Duration>,
    pub(crate) claims: Vec<Claim>,
    pub(crate) plaintext: Plaintext,
    pub(crate) roots: Option<Roots>,
    pub(crate) connect_timeout: Duration,
    pub(crate) refresh: Refresh,
    pub(crate) clock: Arc<Watch>,
    pub(crate) settings: Vec<ResolvedSetting>,
}

/// Source of the Postgres password.
#[derive(Clone)]
pub(crate) enum LoginKind {
    Password(SecretString),
    /// Minted by the workspace.
    Minted,
    Provider(SharedProvider),
}

/// A resolved setting and its source, from [`Config::settings`]. Secrets are masked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResolvedSetting {
    /// Name, for example `database`, or `client_id` for an attribute of the authentication.
    pub name: &'static str,
    /// Value, `***` for a secret.
    pub value: String,
    /// Variable, part of a URL, builder method, profile with its file, or `default`.
    pub source: String,
}

/// Where a connection to Postgres may do without TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plaintext {
    Never,
    OnLoopback,
    Always,
}

/// TLS of connections to Postgres (`PGSSLMODE`, `sslmode`), for [`ConfigBuilder::tls_mode`].
///
/// TLS always verifies the host name and the certificate chain, because the server receives the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsMode {
    /// `require`, `verify-ca`, `verify-full`: verified TLS. The default, except for a native password on a loopback host
    /// without configured roots, where the default is `Prefer`.
    Verify,
    /// `prefer`, `allow`: verified TLS; plaintext to loopback hosts.
    Prefer,
    /// `disable`: plaintext, to loopback hosts only.
    Disable,
}

impl Config {
    /// Reads the [variables](self#variables) of the environment. Only this function and [`ConfigBuilder::env`] read settings
    /// from the environment.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] if a setting is missing or invalid. The message names the variable and the valid values.
    pub fn from_env() -> Result<Self, Error> {
        Self::builder().env().build()
    }

    /// Reads the given variables instead of the environment. For tests, and for several configurations in one program.
    ///
    /// # Errors
    ///
    /// See [`from_env`](Self::from_env).
    pub fn from_vars<K, V>(vars: impl IntoIterator<Item = (K, V)>) -> Result<Self, Error>
    where
        K: Into<String>,
        V: Into<String>,
    {
        Self::builder().vars(vars).build()
    }

    /// Reads a `postgresql://user[:password]@host[:port]/database?key=value` URL.
    ///
    /// Keys: `sslmode`, `sslrootcert`, `hostaddr`, `application_name`, `connect_timeout`, `schema`, and
    /// `endpoint` for the endpoint path. Without a password, the URL needs settings of the authentication as well:
    /// `Config::builder().url(url).env().build()`.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] if a part is missing or invalid. The message names the part and does not contain the URL.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        Self::builder().url(url).build()
    }

    /// Returns the resolved settings of the database, each with its source.
    pub fn settings(&self) -> &[ResolvedSetting] {
        &self.settings
    }

    /// Returns the strategy of the authentication, for example `oauth-m2m`, or `None` without a workspace. If the
    /// command-line tools of two strategies are installed, this is the first of them until one has succeeded or
    /// failed to authenticate.
    pub fn auth_type(&self) -> Option<&'static str> {
        Some(self.workspace.as_ref()?.sign_in.name())
    }

    /// Returns the resolved settings of the authentication, each with its source. Empty without a workspace.
    pub fn sign_in_settings(&self) -> Vec<ResolvedSetting> {
        let Some(workspace) = &self.workspace else {
            return Vec::new();
        };
        let resolved = |(attribute, setting): (Attribute, &Setting)| ResolvedSetting {
            name: attribute.name(),
            value: attribute.show(&setting.value),
            source: setting.from.clone(),
        };
        workspace.settings.iter().map(resolved).collect()
    }

    /// The same database with another role, whose tokens are minted by `sign_in`. Tokens are renewed on demand, because a
    /// user may not come back. `None` without a workspace.
    pub(crate) fn on_behalf_of(&self, role: &str, sign_in: &Arc<SignIn>) -> Option<Self> {
        let workspace = Access {
            sign_in: Arc::clone(sign_in),
            ..self.workspace.clone()?
        };
        let mut config = Self {
            login: LoginKind::Minted,
            workspace: Some(workspace),
            user: Some(role.to_owned()),
            refresh: match self.refresh {
                Refresh::Lazy => Refresh::Lazy,
                Refresh::Ahead | Refresh::OnDemand => Refresh::OnDemand,
            },
            ..self.clone()
        };
        config.settings.retain(|known| known.name != "user");
        config.settings.push(ResolvedSetting {
            name: "user",
            value: role.to_owned(),
            source: "on_behalf_of".to_owned(),
        });
        Some(config)
    }

    /// The same settings for another branch, whose host is looked up.
    #[cfg(feature = "admin")]
    pub(crate) fn of_branch(&self, path: &str) -> Self {
        let mut config = Self {
            compute: Some(Compute::Branch(path.to_owned())),
            host: None,
            hostaddr: None,
            ..self.clone()
        };
        let settings = &mut config.settings;
        settings.retain(|known| !matches!(known.name, "endpoint" | "host" | "hostaddr"));
        settings.push(ResolvedSetting {
            name: "endpoint",
            value: path.to_owned(),
            source: "branch".to_owned(),
        });
        config
    }

    /// Returns an empty builder. Code takes precedence over the URL, and the URL over the environment.
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder::default()
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let login = match &self.login {
            LoginKind::Password(_) => "native password".to_owned(),
            LoginKind::Provider(provider) => format!("{provider:?}"),
            LoginKind::Minted => match &self.workspace {
                Some(workspace) => format!("{:?}", workspace.sign_in),
                None => "minted".to_owned(),
            },
        };
        let workspace = self.workspace.as_ref();
        let workspace = workspace.and_then(|workspace| workspace.settings.host.as_ref());
        f.debug_struct("Config")
            .field("login", &login)
            .field("compute", &self.compute.as_ref().map(Compute::to_string))
            .field("workspace", &workspace.map(::url::Url::as_str))
            .field("host", &self.host)
            .field("port", &self.port)
            .field("database", &self.database)
            .field("user", &self.user)
            .field("application_name", &self.application_name)
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}
