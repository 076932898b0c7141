//! Collects settings; `build` judges them.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::setting::Setting;
use super::{Config, TlsMode};
use crate::clock::Clock;
use crate::provider::SharedProvider;
use crate::refresh::Refresh;
use crate::{CredentialProvider, Error};

/// Builds a [`Config`]. Nothing is judged before [`build`](Self::build).
#[derive(Clone, Default)]
#[must_use]
pub struct ConfigBuilder {
    pub(super) explicit: Raw,
    pub(super) url: Option<Setting>,
    pub(super) vars: Option<HashMap<String, String>>,
    pub(super) provider: Option<SharedProvider>,
    pub(super) dangerous_plaintext: bool,
    pub(super) refresh: Refresh,
    pub(super) token_ttl: Option<Duration>,
    pub(super) clock: Option<Arc<dyn Clock>>,
}

/// Every textual setting, from one source or merged.
#[derive(Clone, Default)]
pub(super) struct Raw {
    pub(super) endpoint: Option<Setting>,
    pub(super) instance: Option<Setting>,
    pub(super) host: Option<Setting>,
    pub(super) hostaddr: Option<Setting>,
    pub(super) port: Option<Setting>,
    pub(super) database: Option<Setting>,
    pub(super) user: Option<Setting>,
    pub(super) password: Option<Setting>,
    pub(super) sslmode: Option<Setting>,
    pub(super) sslrootcert: Option<Setting>,
    pub(super) application_name: Option<Setting>,
    pub(super) schema: Option<Setting>,
    pub(super) connect_timeout: Option<Setting>,
    pub(super) workspace_host: Option<Setting>,
    pub(super) workspace_id: Option<Setting>,
    pub(super) token: Option<Setting>,
    pub(super) client_id: Option<Setting>,
    pub(super) client_secret: Option<Setting>,
    pub(super) auth_type: Option<Setting>,
}

impl Raw {
    /// Fills what is unset from a source of lower precedence.
    pub(super) fn or(self, lower: Self) -> Self {
        macro_rules! merge {
            ($($field:ident),*) => { Self { $($field: self.$field.or(lower.$field)),* } };
        }
        merge!(
            endpoint,
            instance,
            host,
            hostaddr,
            port,
            database,
            user,
            password,
            sslmode,
            sslrootcert,
            application_name,
            schema,
            connect_timeout,
            workspace_host,
            workspace_id,
            token,
            client_id,
            client_secret,
            auth_type
        )
    }
}

macro_rules! setters {
    ($($(#[$doc:meta])* $method:ident => $field:ident),* $(,)?) => {
        $($(#[$doc])*
        pub fn $method(mut self, value: impl Into<String>) -> Self {
            self.explicit.$field = Some(Setting::new(value, stringify!($method)));
            self
        })*
    };
}

impl ConfigBuilder {
    setters! {
        /// Endpoint path, `projects/{project}/branches/{branch}/endpoints/{endpoint}`.
        endpoint => endpoint,
        /// Postgres host. Asked from the API when an endpoint is given and this is not.
        host => host,
        /// Database, `databricks_postgres` by default.
        database => database,
        /// Postgres role: e-mail of a person, client id of a service principal, name of a group.
        user => user,
        /// `application_name`; Postgres keeps 63 bytes of it.
        application_name => application_name,
        /// Schema that comes first in the search path of every connection, before `public`. An
        /// app's service principal has no rights on `public`, so its tables live elsewhere.
        schema => schema,
        /// Workspace URL, for example `https://dbc-a1b2c3d4-e5f6.cloud.databricks.com`.
        workspace_host => workspace_host,
        /// Workspace id for hosts that serve many workspaces.
        workspace_id => workspace_id,
    }

    /// IP address to connect to. The host name is still what TLS verifies.
    pub fn hostaddr(mut self, address: IpAddr) -> Self {
        self.explicit.hostaddr = Some(Setting::new(address.to_string(), "hostaddr"));
        self
    }

    /// Port, 5432 by default.
    pub fn port(mut self, port: u16) -> Self {
        self.explicit.port = Some(Setting::new(port.to_string(), "port"));
        self
    }

    /// Password of a native Postgres role. No token is minted.
    pub fn password(mut self, password: impl Into<SecretString>) -> Self {
        self.explicit.password = Some(secret(password.into(), "password"));
        self
    }

    /// Signs in to the workspace with a personal access token. It never reaches Postgres.
    pub fn token(mut self, token: impl Into<SecretString>) -> Self {
        self.explicit.token = Some(secret(token.into(), "token"));
        self
    }

    /// Signs in to the workspace as a service principal (OAuth M2M).
    pub fn service_principal(
        mut self,
        client_id: impl Into<String>,
        client_secret: impl Into<SecretString>,
    ) -> Self {
        self.explicit.client_id = Some(Setting::new(client_id, "service_principal client id"));
        self.explicit.client_secret = Some(secret(
            client_secret.into(),
            "service_principal client secret",
        ));
        self
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
        self.explicit.sslmode = Some(Setting::new(word, "tls_mode"));
        self
    }

    /// Trusts exactly the certificates of a PEM file for the connection to Postgres. (sqlx, under
    /// SeaORM, trusts Mozilla's roots in addition.)
    pub fn root_certificates(mut self, path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_string_lossy();
        self.explicit.sslrootcert = Some(Setting::new(path, "root_certificates"));
        self
    }

    /// Allows plaintext to hosts that are not loopback. Whoever can listen reads the token, which
    /// opens every database of the workspace that the identity may use.
    pub fn dangerously_allow_plaintext(mut self) -> Self {
        self.dangerous_plaintext = true;
        self
    }

    /// Budget for one connection, with all its attempts and renewals; 30 s by default.
    pub fn connect_timeout(mut self, budget: Duration) -> Self {
        self.explicit.connect_timeout = Some(Setting::new(
            budget.as_secs_f64().to_string(),
            "connect_timeout",
        ));
        self
    }

    /// Lifetime to ask for when minting, 300 s to 3600 s; the platform's own default is an hour.
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

    /// Fills what is not set in code from a Postgres URL; see [`Config::from_url`].
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
        let vars: HashMap<String, String> = vars
            .into_iter()
            .map(|(key, value)| (key.into(), value.into()))
            .collect();
        let known = self.vars.get_or_insert_default();
        for (key, value) in vars {
            known.entry(key).or_insert(value);
        }
        self
    }

    /// Judges the settings.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`]; the message names the setting and its source. Reads the root
    /// certificate file if one is named, and touches no network.
    pub fn build(self) -> Result<Config, Error> {
        super::build::build(self)
    }
}

fn secret(value: SecretString, from: &str) -> Setting {
    Setting::new(value.expose_secret(), from)
}

impl fmt::Debug for ConfigBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigBuilder").finish_non_exhaustive()
    }
}
