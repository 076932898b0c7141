//! The builder of a configuration.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::TlsMode;
use super::raw::{Field, Raw};
use crate::config::claim::Claim;
use crate::config::endpoint::HostKind;
use crate::credential::clock::Clock;
use crate::credential::provider::{CredentialProvider, SharedProvider};
use crate::credential::refresh::Refresh;
use crate::settings::attributes::Vars;
use crate::settings::azure_endpoints::AzureEndpoints;
use crate::settings::setting::Setting;
use crate::sign_in::access::Explicit;

/// Builds a [`Config`](super::Config); see [`Config::builder`](super::Config::builder). [`build`](Self::build) checks all
/// settings.
#[derive(Clone, Default)]
#[must_use]
pub struct ConfigBuilder {
    pub(super) explicit: Raw,
    pub(super) typed: Typed,
    pub(super) sign_in: Explicit,
    pub(super) url: Option<Setting>,
    pub(super) vars: Option<Vars>,
    pub(super) provider: Option<SharedProvider>,
    pub(super) dangerous_plaintext: bool,
    pub(super) refresh: Refresh,
    pub(super) token_ttl: Option<Duration>,
    pub(super) claims: Vec<Claim>,
    pub(super) host_kind: Option<HostKind>,
    pub(super) clock: Option<Arc<dyn Clock>>,
}

/// Settings with a type. [`Raw`] has their texts for reports.
#[derive(Clone, Default)]
pub(super) struct Typed {
    pub(super) hostaddr: Option<IpAddr>,
    pub(super) port: Option<u16>,
    pub(super) tls_mode: Option<TlsMode>,
    pub(super) connect_timeout: Option<Duration>,
}

macro_rules! setters {
    ($($(#[$doc:meta])* $method:ident => $field:ident),* $(,)?) => {
        $($(#[$doc])*
        pub fn $method(self, value: impl Into<String>) -> Self {
            self.with(Field::$field, value, stringify!($method))
        })*
    };
}

impl ConfigBuilder {
    setters! {
        /// Endpoint, `projects/{project}/branches/{branch}/endpoints/{endpoint}`, or branch,
        /// `projects/{project}/branches/{branch}`, whose read-write endpoint is looked up.
        endpoint => Endpoint,
        /// Postgres host. With an endpoint and without a host, the host is looked up in the workspace.
        host => Host,
        /// Database. Default: `databricks_postgres`.
        database => Database,
        /// Postgres role: the e-mail of a person, the client id of a service principal or the name of a group.
        user => User,
        /// `application_name`, of which Postgres keeps 63 bytes. Default: name and version of this crate.
        application_name => ApplicationName,
        /// Schema that comes first in the search path of every connection, before `public`. One name without quotes, of
        /// at most 63 bytes. An app's service principal has no privileges in `public`, so it needs a schema.
        ///
        /// A pooled host accepts no search path from a client. There it must be a setting of the role in this database
        /// (`ALTER ROLE .. IN DATABASE .. SET search_path`, or `lakebase grant --search-path`). A login checks it; the
        /// error contains the statement.
        schema => Schema,
        /// Name of a Provisioned instance, instead of an endpoint.
        instance => Instance,
    }

    /// Logs in at a read-only or pooled host of the compute. The host is looked up in the workspace and `PGHOST` is
    /// ignored. A pooled host needs a native [`password`](Self::password) besides the authentication for the look-up.
    /// Default: [`HostKind::ReadWrite`], without a look-up if the host is configured.
    pub fn host_kind(mut self, kind: HostKind) -> Self {
        self.host_kind = Some(kind);
        self
    }

    /// Workspace URL, for example `https://dbc-a1b2c3d4-e5f6.cloud.databricks.com`.
    pub fn workspace_host(self, url: impl Into<String>) -> Self {
        self.with_attribute("host", url.into(), "workspace_host")
    }

    /// Workspace id, for hosts that serve many workspaces.
    pub fn workspace_id(self, id: impl Into<String>) -> Self {
        self.with_attribute("workspace_id", id.into(), "workspace_id")
    }

    /// Profile that fills unset settings. Its file is `.databrickscfg` in the home directory, which the variables of
    /// [`env`](Self::env) name, or the path in the [`attribute`](Self::attribute) `config_file`.
    pub fn profile(self, name: impl Into<String>) -> Self {
        self.with_attribute("profile", name.into(), "profile")
    }

    /// Strategy of the authentication, for example `databricks-cli`. Settings of other strategies are ignored instead of
    /// being a conflict.
    pub fn auth_type(self, name: impl Into<String>) -> Self {
        self.with_attribute("auth_type", name.into(), "auth_type")
    }

    /// Attribute of the official Databricks clients by its name in a profile, for example `azure_tenant_id`,
    /// `oidc_token_filepath` or `config_file`.
    pub fn attribute(self, name: &str, value: impl Into<SecretString>) -> Self {
        let value = value.into();
        let from = format!("attribute {name}");
        self.with_attribute(name, value.expose_secret().to_owned(), &from)
    }

    /// Addresses of an Azure cloud. Default: the public, US government or China cloud, by the name of the host, else
    /// by the attribute `azure_environment`.
    pub fn azure_endpoints(mut self, endpoints: AzureEndpoints) -> Self {
        self.sign_in.azure_endpoints = Some(endpoints);
        self
    }

    /// Name and version of the application in the `User-Agent` of requests to the workspace, for example
    /// `("my-shop", "1.4.0")`.
    pub fn product(mut self, name: impl Into<String>, version: impl Into<String>) -> Self {
        self.sign_in.product = Some((name.into(), version.into()));
        self
    }

    /// Adds `key/value` to the `User-Agent` of requests to the workspace, for example `("partner", "acme")`.
    pub fn user_agent_extra(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.sign_in.extras.push((key.into(), value.into()));
        self
    }

    /// Adds a privilege of Unity Catalog to minted credentials.
    pub fn claim(mut self, claim: Claim) -> Self {
        self.claims.push(claim);
        self
    }

    fn with(mut self, field: Field, value: impl Into<String>, from: &str) -> Self {
        self.explicit.set(field, Setting::new(value, from));
        self
    }

    fn with_attribute(mut self, name: &str, value: String, from: &str) -> Self {
        let setting = Setting::new(value, from);
        self.sign_in.attributes.push((name.to_owned(), setting));
        self
    }

    /// IP address to connect to. TLS still verifies the host name.
    pub fn hostaddr(mut self, address: IpAddr) -> Self {
        self.typed.hostaddr = Some(address);
        self.with(Field::Hostaddr, address.to_string(), "hostaddr")
    }

    /// Port. Default: 5432.
    pub fn port(mut self, port: u16) -> Self {
        self.typed.port = Some(port);
        self.with(Field::Port, port.to_string(), "port")
    }

    /// Password of a native Postgres role, instead of a token.
    pub fn password(self, password: impl Into<SecretString>) -> Self {
        let password = password.into();
        self.with(Field::Password, password.expose_secret(), "password")
    }

    /// Personal access token for the workspace. It is not sent to Postgres.
    pub fn token(self, token: impl Into<SecretString>) -> Self {
        let token = token.into();
        self.with_attribute("token", token.expose_secret().to_owned(), "token")
    }

    /// Client id and secret of a service principal (`oauth-m2m`).
    pub fn service_principal(
        self,
        client_id: impl Into<String>,
        client_secret: impl Into<SecretString>,
    ) -> Self {
        let secret = client_secret.into();
        self.with_attribute("client_id", client_id.into(), "service_principal")
            .with_attribute(
                "client_secret",
                secret.expose_secret().to_owned(),
                "service_principal",
            )
    }

    /// Provider that mints credentials instead of the workspace. Needs [`host`](Self::host) and [`user`](Self::user).
    pub fn credential_provider(mut self, provider: impl CredentialProvider) -> Self {
        self.provider = Some(Arc::new(provider));
        self
    }

    /// TLS of connections to Postgres. Default: see [`TlsMode::Verify`].
    pub fn tls_mode(mut self, mode: TlsMode) -> Self {
        self.typed.tls_mode = Some(mode);
        let word = match mode {
            TlsMode::Verify => "verify-full",
            TlsMode::Prefer => "prefer",
            TlsMode::Disable => "disable",
        };
        self.with(Field::Sslmode, word, "tls_mode")
    }

    /// PEM file with the only roots to trust for Postgres. Default: Mozilla's roots and those of the system.
    pub fn root_certificates(self, path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_string_lossy();
        self.with(Field::Sslrootcert, path, "root_certificates")
    }

    /// Allows [`TlsMode::Disable`] for hosts that are not loopback. Anyone on the network path can then read the token,
    /// which opens every database of the workspace that the identity may use.
    pub fn dangerously_allow_plaintext(mut self) -> Self {
        self.dangerous_plaintext = true;
        self
    }

    /// Time limit for opening one connection, with all attempts and renewals, at most a day. Default: 30 s.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.typed.connect_timeout = Some(limit);
        let seconds = limit.as_secs_f64().to_string();
        self.with(Field::ConnectTimeout, seconds, "connect_timeout")
    }

    /// Lifetime of minted credentials, from 300 s to 3600 s. Default: an hour, by the platform. Not for Provisioned
    /// instances, whose credentials live for an hour.
    pub fn token_ttl(mut self, ttl: Duration) -> Self {
        self.token_ttl = Some(ttl);
        self
    }

    /// When credentials are renewed. Default: [`Refresh::Ahead`].
    pub fn refresh(mut self, refresh: Refresh) -> Self {
        self.refresh = refresh;
        self
    }

    /// Clocks for tests, instead of the machine's.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Fills settings that code leaves unset from a Postgres URL; see [`Config::from_url`](super::Config::from_url).
    pub fn url(mut self, url: &str) -> Self {
        self.url = Some(Setting::new(url, "url"));
        self
    }

    /// Fills settings that code and URL leave unset from the [variables](super#variables) of the environment.
    #[allow(clippy::disallowed_methods)] // the one place that reads the environment
    pub fn env(self) -> Self {
        // A value that is not UTF-8 is rejected where it is used.
        let lossy = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
        let vars = std::env::vars_os().map(|(key, value)| (lossy(&key), lossy(&value)));
        self.vars(vars)
    }

    /// Like [`env`](Self::env), from the given variables. A variable of an earlier call is kept.
    pub fn vars<K, V>(mut self, vars: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<String>,
        V: Into<String>,
    {
        // Within one call, the last value of a name counts, as in a shell.
        let vars: Vars = vars
            .into_iter()
            .map(|(key, value)| (key.into(), value.into()))
            .collect();
        let known = self.vars.get_or_insert_default();
        for (key, value) in vars {
            known.entry(key).or_insert(value);
        }
        self
    }
}

impl fmt::Debug for ConfigBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigBuilder").finish_non_exhaustive()
    }
}
