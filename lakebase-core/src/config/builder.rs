//! Collects settings.

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
use crate::credential::provider::CredentialProvider;
use crate::credential::provider::SharedProvider;
use crate::credential::refresh::Refresh;
use crate::settings::attributes::Vars;
use crate::settings::azure_endpoints::AzureEndpoints;
use crate::settings::setting::Setting;
use crate::sign_in::access::Explicit;

/// Builds a [`Config`](super::Config). Nothing is checked before [`build`](Self::build).
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

/// Settings that code gives with their types; [`Raw`] has their texts, for people.
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
            self.given(Field::$field, value, stringify!($method))
        })*
    };
}

impl ConfigBuilder {
    setters! {
        /// Endpoint path, `projects/{project}/branches/{branch}/endpoints/{endpoint}`, or a branch's
        /// (without the last two), whose read-write endpoint is looked up.
        endpoint => Endpoint,
        /// Postgres host. Looked up in the workspace when an endpoint is given and this is not.
        host => Host,
        /// Database, `databricks_postgres` by default.
        database => Database,
        /// Postgres role: e-mail of a person, client id of a service principal, name of a group.
        user => User,
        /// `application_name`; Postgres keeps 63 bytes of it.
        application_name => ApplicationName,
        /// Schema that comes first in the search path of every connection, before `public`. An
        /// app's service principal has no rights on `public`, so its tables live elsewhere.
        ///
        /// It is one name, written bare, of at most 63 bytes.
        ///
        /// A pooled host takes no search path. There the role itself must have it in this database
        /// (`ALTER ROLE .. IN DATABASE .. SET search_path`, or `lakebase grant --search-path`); a login only checks
        /// that, and its error has the statement.
        schema => Schema,
        /// Name of a Provisioned instance, instead of an endpoint.
        instance => Instance,
    }

    /// The read-write endpoint of a branch, by the ids of project and branch. It is looked up.
    pub fn branch(self, project: &str, branch: &str) -> Self {
        let path = format!("projects/{project}/branches/{branch}");
        self.given(Field::Endpoint, path, "branch")
    }

    /// Another host of the compute than the direct one for reading and writing. The workspace names it, whatever
    /// `PGHOST` says. Pooled ones need a native [`password`](Self::password), and a way to authenticate at the workspace.
    pub fn host_kind(mut self, kind: HostKind) -> Self {
        self.host_kind = Some(kind);
        self
    }

    /// Workspace URL, for example `https://dbc-a1b2c3d4-e5f6.cloud.databricks.com`.
    pub fn workspace_host(self, url: impl Into<String>) -> Self {
        self.sign_in_setting("host", url.into(), "workspace_host")
    }

    /// Workspace id, for hosts that serve many workspaces.
    pub fn workspace_id(self, id: impl Into<String>) -> Self {
        self.sign_in_setting("workspace_id", id.into(), "workspace_id")
    }

    /// Profile of the configuration file to fill from what is still unset. Needs to know where the
    /// file is: from the environment ([`env`](Self::env)), or by the attribute `config_file`.
    pub fn profile(self, name: impl Into<String>) -> Self {
        self.sign_in_setting("profile", name.into(), "profile")
    }

    /// The file that profiles are read from, `~/.databrickscfg` by default.
    pub fn config_file(self, path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_string_lossy().into_owned();
        self.sign_in_setting("config_file", path, "config_file")
    }

    /// The one strategy to sign in with, for example `databricks-cli`. Settings of others, from the
    /// environment for example, are no conflict then.
    pub fn auth_type(self, name: impl Into<String>) -> Self {
        self.sign_in_setting("auth_type", name.into(), "auth_type")
    }

    /// Any attribute of Databricks' unified configuration by its official name, for example
    /// `azure_tenant_id`, `oidc_token_filepath` or `config_file`.
    pub fn attribute(self, name: &str, value: impl Into<SecretString>) -> Self {
        let value = value.into();
        let from = format!("attribute {name}");
        self.sign_in_setting(name, value.expose_secret().to_owned(), &from)
    }

    /// Addresses of an Azure cloud that is not one of the known three.
    pub fn azure_endpoints(mut self, endpoints: AzureEndpoints) -> Self {
        self.sign_in.azure_endpoints = Some(endpoints);
        self
    }

    /// Names the application in the `User-Agent` of calls to the workspace, for example
    /// `("my-shop", "1.4.0")`.
    pub fn product(mut self, name: impl Into<String>, version: impl Into<String>) -> Self {
        self.sign_in.product = Some((name.into(), version.into()));
        self
    }

    /// Adds a `key/value` to the `User-Agent`, for example `("partner", "acme")`. May be called more
    /// than once.
    pub fn user_agent_extra(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.sign_in.extras.push((key.into(), value.into()));
        self
    }

    /// A right of Unity Catalog to put into minted credentials. May be called more than once.
    pub fn claim(mut self, claim: Claim) -> Self {
        self.claims.push(claim);
        self
    }

    fn given(mut self, field: Field, value: impl Into<String>, from: &str) -> Self {
        self.explicit.set(field, Setting::new(value, from));
        self
    }

    fn sign_in_setting(mut self, name: &str, value: String, from: &str) -> Self {
        let setting = Setting::new(value, from);
        self.sign_in.attributes.push((name.to_owned(), setting));
        self
    }

    /// IP address to connect to. The host name is still what TLS verifies.
    pub fn hostaddr(mut self, address: IpAddr) -> Self {
        self.typed.hostaddr = Some(address);
        self.given(Field::Hostaddr, address.to_string(), "hostaddr")
    }

    /// Port, 5432 by default.
    pub fn port(mut self, port: u16) -> Self {
        self.typed.port = Some(port);
        self.given(Field::Port, port.to_string(), "port")
    }

    /// Password of a native Postgres role. No token is minted.
    pub fn password(self, password: impl Into<SecretString>) -> Self {
        let password = password.into();
        self.given(Field::Password, password.expose_secret(), "password")
    }

    /// Signs in to the workspace with a personal access token. It never reaches Postgres.
    pub fn token(self, token: impl Into<SecretString>) -> Self {
        let token = token.into();
        self.sign_in_setting("token", token.expose_secret().to_owned(), "token")
    }

    /// Signs in to the workspace as a service principal (OAuth M2M).
    pub fn service_principal(
        self,
        client_id: impl Into<String>,
        client_secret: impl Into<SecretString>,
    ) -> Self {
        let secret = client_secret.into();
        self.sign_in_setting("client_id", client_id.into(), "service_principal")
            .sign_in_setting(
                "client_secret",
                secret.expose_secret().to_owned(),
                "service_principal",
            )
    }

    /// Mints with your own provider instead of the workspace.
    pub fn credential_provider(mut self, provider: impl CredentialProvider) -> Self {
        self.provider = Some(Arc::new(provider));
        self
    }

    /// How the connection to Postgres is protected.
    pub fn tls_mode(mut self, mode: TlsMode) -> Self {
        let word = match mode {
            TlsMode::Verify => "verify-full",
            TlsMode::Prefer => "prefer",
            TlsMode::Disable => "disable",
        };
        self.typed.tls_mode = Some(mode);
        self.given(Field::Sslmode, word, "tls_mode")
    }

    /// Trusts exactly the certificates of a PEM file for the connection to Postgres.
    pub fn root_certificates(self, path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_string_lossy();
        self.given(Field::Sslrootcert, path, "root_certificates")
    }

    /// Allows plaintext to hosts that are not loopback. Anyone on the network path can read the token, which
    /// opens every database of the workspace that the identity may use.
    pub fn dangerously_allow_plaintext(mut self) -> Self {
        self.dangerous_plaintext = true;
        self
    }

    /// Budget for one connection, with all its attempts and renewals; 30 s by default.
    pub fn connect_timeout(mut self, budget: Duration) -> Self {
        self.typed.connect_timeout = Some(budget);
        let seconds = budget.as_secs_f64().to_string();
        self.given(Field::ConnectTimeout, seconds, "connect_timeout")
    }

    /// Lifetime to ask for when minting, 300 s to 3600 s; the platform's own default is an hour.
    /// Provisioned instances take none.
    pub fn token_ttl(mut self, ttl: Duration) -> Self {
        self.token_ttl = Some(ttl);
        self
    }

    /// When credentials are renewed; ahead of expiry by default.
    pub fn refresh(mut self, refresh: Refresh) -> Self {
        self.refresh = refresh;
        self
    }

    /// Clocks other than the machine's, for tests.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Fills what is not set in code from a Postgres URL; see [`Config::from_url`](super::Config::from_url).
    pub fn url(mut self, url: &str) -> Self {
        self.url = Some(Setting::new(url, "url"));
        self
    }

    /// Fills what is still unset from the process environment.
    #[allow(clippy::disallowed_methods)] // the one place that reads the environment
    pub fn env(self) -> Self {
        // What is not UTF-8 is refused where it is used, by name.
        let lossy = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
        let vars = std::env::vars_os().map(|(key, value)| (lossy(&key), lossy(&value)));
        self.vars(vars)
    }

    /// Fills what is still unset from the given variables.
    pub fn vars<K, V>(mut self, vars: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<String>,
        V: Into<String>,
    {
        // Of repeated names within one call the last counts, as in a shell.
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
