//! Where the database is and as whom to log in: from the environment, a URL, or code.
//!
//! # Variables
//!
//! [`Config::from_env`] reads these; an empty variable counts as unset.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `LAKEBASE_ENDPOINT`, else `DATABRICKS_LAKEBASE_ENDPOINT`, else `ENDPOINT_NAME` | endpoint path `projects/../branches/../endpoints/..`, or branch path `projects/../branches/..` (its read-write endpoint is looked up) | none |
//! | `LAKEBASE_INSTANCE_NAME` | name of a Provisioned instance, instead of an endpoint | none |
//! | `PGHOST` | Postgres host | looked up in the workspace |
//! | `PGHOSTADDR` | IP address to connect to; the name in `PGHOST` is still what TLS verifies | resolved |
//! | `PGPORT` | port | 5432 |
//! | `PGDATABASE` | database | `databricks_postgres` |
//! | `PGUSER` | Postgres role: of a person, a service principal or a group | the service principal's client id, else looked up in the workspace |
//! | `PGPASSWORD` | password of a native role; no token is minted | none |
//! | `PGSSLMODE` | see [`TlsMode`] | verified TLS |
//! | `PGSSLROOTCERT` | PEM file with the roots to trust, or `system` | Mozilla's and the system's |
//! | `PGAPPNAME` | `application_name` | `lakebase-rs_lakebase-core/{version}` |
//! | `LAKEBASE_SCHEMA` | schema that comes first in the search path of every connection | none |
//! | `PGCONNECT_TIMEOUT` | connect budget in seconds | 30 |
//! | `LAKEBASE_PG_URL` | Postgres URL; the variables above fill what it leaves open | none |
//!
//! # Authentication at the workspace
//!
//! Works like every official Databricks client: a program that runs with their CLI, their SDKs or in
//! Databricks Apps needs no variable more. Settings are taken from code, else from the environment,
//! else from a profile; a later source never replaces what an earlier one has set, and an empty value
//! counts as unset everywhere.
//!
//! These strategies are tried in this order. The name is what `DATABRICKS_AUTH_TYPE` (`auth_type` in a
//! profile) may force. (Profile keys are the names on the left of
//! [Databricks' table](https://docs.databricks.com/aws/en/dev-tools/auth/env-vars), in any case; both
//! the Python and the Go spellings work.)
//!
//! | strategy | configured by | for |
//! |---|---|---|
//! | `pat` | `DATABRICKS_TOKEN` | laptops, tests |
//! | `basic` | `DATABRICKS_USERNAME`, `DATABRICKS_PASSWORD` | legacy |
//! | `oauth-m2m` | `DATABRICKS_CLIENT_ID`, `DATABRICKS_CLIENT_SECRET` | servers, Databricks Apps |
//! | `env-oidc` | an identity token in `DATABRICKS_OIDC_TOKEN`, or in the variable that `DATABRICKS_OIDC_TOKEN_ENV` names; `DATABRICKS_CLIENT_ID` unless the policy is the account's | CI |
//! | `file-oidc` | an identity token in the file `DATABRICKS_OIDC_TOKEN_FILEPATH`, read at every exchange | Kubernetes |
//! | `github-oidc` | `ACTIONS_ID_TOKEN_REQUEST_URL` and `_TOKEN` (set by GitHub), `DATABRICKS_CLIENT_ID` | GitHub Actions |
//! | `azure-client-secret` | `ARM_CLIENT_ID`, `ARM_CLIENT_SECRET`, `ARM_TENANT_ID` (else looked up) | Entra service principals |
//! | `azure-msi` | `ARM_USE_MSI=true`, `ARM_CLIENT_ID` for a user-assigned identity | Azure machines |
//! | `metadata-service` | `DATABRICKS_METADATA_SERVICE_URL` | editors |
//! | `databricks-cli` | a login by `databricks auth login`; the tool is looked for on the `PATH` | laptops |
//! | `azure-cli` | a login by `az login`, for workspaces on Azure | laptops |
//!
//! All but the Azure ones need `DATABRICKS_HOST`, for those `DATABRICKS_AZURE_RESOURCE_ID` will do.
//! `DATABRICKS_WORKSPACE_ID` routes on hosts that serve many workspaces.
//!
//! It fails closed: settings of two strategies at once are an error unless `auth_type` says which one
//! counts, and a strategy that is configured but incomplete or rejected is an error, too; no other identity is
//! used instead. Only the last two, which need no setting, are skipped where the tool is not logged in.
//!
//! The profile is the one that `DATABRICKS_CONFIG_PROFILE` names, else `default_profile` of the section
//! `[__settings__]`, else `DEFAULT`; in `~/.databrickscfg`, or the file that `DATABRICKS_CONFIG_FILE`
//! names. If neither is named and a host or a credential is known already, the file is not read.
//!
//! Calls go through the proxies of `HTTPS_PROXY`, `HTTP_PROXY` and `ALL_PROXY` (HTTP only, also in lower
//! case), except to the hosts of `NO_PROXY` and to this machine.
//!
//! Stricter than the official clients: half of a credential (an id without its secret) is an error, even
//! if a command-line tool is logged in; tokens of Entra ID go to workspaces on Azure only; plain `http` is
//! for loopback; the account console is no workspace. Not supported: `azure-devops-oidc`,
//! `github-oidc-azure`, `external-browser`, `google-credentials`, `google-id`, `runtime`, `model-serving`.
//!
//! Where the official clients disagree, this crate does as the Go SDK for files, hosts, booleans and
//! OAuth documents; as the Python SDK for failing closed and for telling the legacy CLI; and gives tokens
//! up 40 s before their end, as both do for Azure.

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
pub use endpoint::{EndpointPath, HostKind};

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

/// What goes over the wire as the password.
#[derive(Clone)]
pub(crate) enum LoginKind {
    Password(SecretString),
    /// Minted by the workspace.
    Minted,
    Provider(SharedProvider),
}

/// One setting as it was resolved. Secrets are masked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResolvedSetting {
    /// Name, for example `database`; of a sign-in's the official one, for example `client_id`.
    pub name: &'static str,
    /// Value, `***` for a secret.
    pub value: String,
    /// The variable, the part of a URL, the builder method, the profile with its file, or `default`.
    pub source: String,
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
    /// Keys: `sslmode`, `sslrootcert`, `hostaddr`, `application_name`, `connect_timeout`, `schema`, and
    /// `endpoint` for the endpoint path. A URL without password needs a workspace sign-in as well:
    /// combine it, `Config::builder().url(url).env().build()`.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`]; the message names the part of the URL, never the URL itself.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        Self::builder().url(url).build()
    }

    /// The settings of the database as they were resolved, each with its source.
    pub fn settings(&self) -> &[ResolvedSetting] {
        &self.settings
    }

    /// The strategy that authenticates at the workspace, for example `oauth-m2m`; `None` without a workspace.
    /// Where more than one command-line tool could, the first one.
    pub fn auth_type(&self) -> Option<&'static str> {
        Some(self.workspace.as_ref()?.sign_in.name())
    }

    /// The settings of the sign-in as they were resolved, each with its source. Empty without a
    /// workspace.
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

    /// The same database as this role, with tokens that `sign_in` mints. They are renewed when a login needs one: a user may be
    /// gone for long.
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

    /// Another branch with the same settings, whose host is looked up.
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
