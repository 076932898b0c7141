//! Where the database is and who we are: from the environment, a URL, or code.
//!
//! # Variables
//!
//! [`Config::from_env`] reads these; an empty variable counts as unset.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `LAKEBASE_ENDPOINT`, else `DATABRICKS_LAKEBASE_ENDPOINT`, else `ENDPOINT_NAME` | endpoint path `projects/../branches/../endpoints/..` | none |
//! | `DATABRICKS_HOST` | workspace URL; `https` unless a scheme is given, `http` only on loopback | none |
//! | `DATABRICKS_CLIENT_ID`, `DATABRICKS_CLIENT_SECRET` | service principal (OAuth M2M) | none |
//! | `DATABRICKS_TOKEN` | personal access token, for the workspace API only | none |
//! | `DATABRICKS_AUTH_TYPE` | `oauth-m2m` or `pat` when both are set | the one that is set |
//! | `DATABRICKS_WORKSPACE_ID` | routing header for hosts that serve many workspaces | none |
//! | `PGHOST` | Postgres host | asked from the API |
//! | `PGHOSTADDR` | IP address to connect to; the name in `PGHOST` is still what TLS verifies | resolved |
//! | `PGPORT` | port | 5432 |
//! | `PGDATABASE` | database | `databricks_postgres` |
//! | `PGUSER` | Postgres role | service principal's client id, else asked from the API |
//! | `PGPASSWORD` | password of a native role; no token is minted | none |
//! | `PGSSLMODE` | see [`TlsMode`] | verified TLS |
//! | `PGSSLROOTCERT` | PEM file with the roots to trust, or `system` | Mozilla's and the system's |
//! | `PGAPPNAME` | `application_name` | `lakebase-rs_lakebase-core/{version}` |
//! | `PGCONNECT_TIMEOUT` | connect budget in seconds | 30 |
//! | `LAKEBASE_PG_URL` | Postgres URL; the variables above fill what it leaves open | none |

mod build;
mod builder;
pub(crate) mod setting;
mod url;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

pub use builder::ConfigBuilder;

use crate::clock::Clock;
use crate::provider::SharedProvider;
use crate::refresh::Refresh;
use crate::tls::Roots;
use crate::{EndpointPath, Error};

/// A complete, validated configuration. Making one touches no network.
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
    pub(crate) endpoint: Option<EndpointPath>,
    pub(crate) host: Option<String>,
    pub(crate) hostaddr: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) database: String,
    pub(crate) user: Option<String>,
    pub(crate) application_name: String,
    pub(crate) schema: Option<String>,
    pub(crate) token_ttl: Option<Duration>,
    pub(crate) plaintext: Plaintext,
    pub(crate) roots: Option<Roots>,
    pub(crate) connect_timeout: Duration,
    pub(crate) refresh: Refresh,
    pub(crate) clock: Arc<dyn Clock>,
}

/// What goes over the wire as the password.
#[derive(Clone)]
pub(crate) enum LoginKind {
    Password(SecretString),
    Workspace(Workspace),
    Provider(SharedProvider),
}

/// How to reach the workspace.
#[derive(Clone)]
pub(crate) struct Workspace {
    pub(crate) host: ::url::Url,
    pub(crate) workspace_id: Option<String>,
    pub(crate) sign_in: SignIn,
}

#[derive(Clone)]
pub(crate) enum SignIn {
    Pat(SecretString),
    M2m {
        client_id: String,
        client_secret: SecretString,
    },
}

/// Whether the connection to Postgres may go without TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plaintext {
    Never,
    OnLoopback,
    Always,
}

/// How the connection to Postgres is protected (`PGSSLMODE`, `sslmode`).
///
/// TLS is always verified, name and chain: the token is a bearer secret that goes in clear inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsMode {
    /// `require`, `verify-ca`, `verify-full`: verified TLS. The default, except that a native
    /// password on a loopback host, with no roots named, defaults to `Prefer`.
    Verify,
    /// `prefer`, `allow`: verified TLS, but plaintext to loopback hosts.
    Prefer,
    /// `disable`: plaintext, to loopback hosts only.
    Disable,
}

impl Config {
    /// Reads the environment (see the [module](self) for the variables). The only place in these
    /// crates that does.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`]; the message names the variable and says what would be right.
    pub fn from_env() -> Result<Self, Error> {
        Self::builder().env().build()
    }

    /// Like [`from_env`](Self::from_env) with the given variables instead of the process's.
    ///
    /// # Errors
    ///
    /// As [`from_env`](Self::from_env).
    pub fn from_vars<K, V>(vars: impl IntoIterator<Item = (K, V)>) -> Result<Self, Error>
    where
        K: Into<String>,
        V: Into<String>,
    {
        Self::builder().vars(vars).build()
    }

    /// Reads a `postgresql://user[:password]@host[:port]/database?key=value` URL.
    ///
    /// Keys: `sslmode`, `sslrootcert`, `hostaddr`, `application_name`, `connect_timeout`, and
    /// `endpoint` for the endpoint path. A URL without password needs a workspace sign-in as well:
    /// combine it, `Config::builder().url(url).env().build()`.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`]; the message names the part of the URL, never the URL itself.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        Self::builder().url(url).build()
    }

    /// Starts from nothing. What is set in code wins over a URL, a URL over the environment.
    pub fn builder() -> ConfigBuilder {
        ConfigBuilder::default()
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let login = match &self.login {
            LoginKind::Password(_) => "native password".to_owned(),
            LoginKind::Provider(provider) => format!("{provider:?}"),
            LoginKind::Workspace(workspace) => match &workspace.sign_in {
                SignIn::Pat(_) => format!("pat at {}", workspace.host),
                SignIn::M2m { client_id, .. } => {
                    format!("oauth-m2m as {client_id} at {}", workspace.host)
                }
            },
        };
        f.debug_struct("Config")
            .field("login", &login)
            .field(
                "endpoint",
                &self.endpoint.as_ref().map(EndpointPath::as_str),
            )
            .field("host", &self.host)
            .field("port", &self.port)
            .field("database", &self.database)
            .field("user", &self.user)
            .field("application_name", &self.application_name)
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}
