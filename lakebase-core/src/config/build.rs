//! Validates the collected settings, without using the network.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use super::builder::ConfigBuilder;
use super::claim::Claim;
use super::endpoint::{Compute, HostKind};
use super::raw::{Field, Raw, variable};
use super::{Config, LoginKind, Plaintext, TlsMode, url};
use crate::config::LONGEST_TIMEOUT;
use crate::credential::clock::{SystemClock, Watch};
use crate::credential::provider::SharedProvider;
use crate::error::Error;
use crate::settings::attributes::Vars;
use crate::settings::host_name::{direct_host, is_host_name, is_loopback, is_pooled_host};
use crate::settings::name::{check_name, check_schema};
use crate::settings::setting::Setting;
use crate::sign_in::access;
use crate::tls::Roots;

const DEFAULT_PORT: u16 = 5432;
const DEFAULT_DATABASE: &str = "databricks_postgres";
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Lifetimes that the platform accepts.
const TTL_RANGE: RangeInclusive<Duration> = Duration::from_secs(300)..=Duration::from_secs(3600);
/// Postgres truncates longer names, even in the middle of a character.
const LONGEST_APPLICATION_NAME: usize = 63;

impl ConfigBuilder {
    /// Validates the settings and returns the configuration. Reads the configured files (profile, root certificates) and
    /// does not use the network.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] if a setting is missing or invalid. The message names the setting and its source.
    pub fn build(mut self) -> Result<Config, Error> {
        let vars = Arc::new(self.vars.take().unwrap_or_default());
        let raw = self.merged(&vars)?;
        check_texts(&raw)?;
        let looks_up = self.host_kind.is_some();
        let compute = compute(&raw)?;
        let login = login(&raw, self.provider.clone(), compute.as_ref(), looks_up)?;
        let uses_token = !matches!(login, LoginKind::Password(_));
        let is_minted = matches!(login, LoginKind::Minted);
        if let Some(kind) = self.host_kind {
            check_host_kind(kind, &login, compute.as_ref())?;
        }
        let workspace = match is_minted || looks_up {
            true => Some(access::resolve(self.sign_in.clone(), &vars)?),
            false => None,
        };
        let host = raw.parsed(Field::Host, |host| host_name(host, uses_token))?;
        if host.is_none() && workspace.is_none() {
            return Err(Error::config("no host: PGHOST is not set")
                .with_hint("A native password or a credential provider needs the Postgres host"));
        }
        if !is_minted && raw.get(Field::User).is_none() {
            return Err(Error::config("no user: PGUSER is not set")
                .with_hint("A native password or a credential provider needs the Postgres role"));
        }
        if matches!(compute, Some(Compute::Instance(_))) && self.token_ttl.is_some() {
            return Err(Error::config(
                "token_ttl: credentials of a Provisioned instance live for an hour",
            ));
        }
        if let Some(ttl) = self.token_ttl.filter(|ttl| !TTL_RANGE.contains(ttl)) {
            return Err(Error::config(format!(
                "token_ttl: {ttl:?} is not from 300 s to 3600 s"
            )));
        }
        if self.claims.iter().any(Claim::is_empty) {
            return Err(Error::config(
                "claim: it names no table, or a table with an empty name",
            ));
        }
        let role = || workspace.as_ref()?.sign_in.postgres_role();
        let application_name = raw
            .owned(Field::ApplicationName)
            .unwrap_or_else(|| format!("lakebase-rs_lakebase-core/{}", env!("CARGO_PKG_VERSION")));
        Ok(Config {
            settings: raw.resolved(&[
                (Field::Port, DEFAULT_PORT.to_string()),
                (Field::Database, DEFAULT_DATABASE.to_owned()),
            ]),
            host_kind: self.host_kind.unwrap_or_default(),
            hostaddr: match self.typed.hostaddr {
                None => raw.parsed(Field::Hostaddr, |text| text.parse("an IP address"))?,
                given => given,
            },
            port: raw
                .parsed(Field::Port, |text| port(text, self.typed.port))?
                .unwrap_or(DEFAULT_PORT),
            database: raw
                .owned(Field::Database)
                .unwrap_or_else(|| DEFAULT_DATABASE.to_owned()),
            user: raw.owned(Field::User).or_else(|| role().map(str::to_owned)),
            application_name: truncated(application_name, LONGEST_APPLICATION_NAME),
            plaintext: self.plaintext(&raw, host.as_deref(), uses_token)?,
            roots: raw.parsed(Field::Sslrootcert, roots)?.flatten(),
            schema: raw.owned(Field::Schema),
            token_ttl: self.token_ttl,
            claims: self.claims,
            connect_timeout: raw
                .parsed(Field::ConnectTimeout, |text| {
                    seconds(text, self.typed.connect_timeout)
                })?
                .unwrap_or(DEFAULT_CONNECT_TIMEOUT),
            refresh: self.refresh,
            clock: Arc::new(Watch::new(
                self.clock.unwrap_or_else(|| Arc::new(SystemClock)),
            )),
            host,
            login,
            workspace,
            compute,
        })
    }

    /// Code takes precedence over the URL, and the URL over the environment.
    fn merged(&self, vars: &Vars) -> Result<Raw, Error> {
        let explicit = self.explicit.clone();
        // In code, an empty value is an error. In the environment, it counts as unset.
        for (_, setting) in explicit.all() {
            setting.not_empty()?;
        }
        let looks_up = self.host_kind.is_some();
        if let (true, Some(host)) = (looks_up, explicit.get(Field::Host)) {
            return Err(
                Error::config(format!("both host_kind and {} are set", host.from))
                    .with_hint("The workspace names the host of that kind: leave one of them out"),
            );
        }
        let mut raw = explicit;
        if let Some(text) = &self.url {
            raw = raw.over(url::read(&text.value, &text.from)?, looks_up);
        }
        let mut lower = Raw::from_vars(vars);
        // In a command of `lakebase exec`, it is the password of the auth proxy.
        if variable(vars, "LAKEBASE_EXEC").is_some() {
            lower.remove(&[Field::Password]);
        }
        if let Some(text) = variable(vars, "LAKEBASE_PG_URL") {
            lower = url::read(&text.value, &text.from)?.or(lower);
        }
        if self.provider.is_some() {
            // A provider in code takes precedence over a password of the environment.
            lower.remove(&[Field::Password]);
        }
        raw = raw.over(lower, looks_up);
        if looks_up {
            // The environment names another host of the same compute.
            raw.remove(&[Field::Host]);
            if self.typed.hostaddr.is_none() {
                raw.remove(&[Field::Hostaddr]);
            }
        }
        Ok(raw)
    }

    fn plaintext(
        &self,
        raw: &Raw,
        host: Option<&str>,
        uses_token: bool,
    ) -> Result<Plaintext, Error> {
        let on_loopback = host.is_some_and(is_loopback);
        let given = raw.get(Field::Sslmode);
        let has_roots = raw.get(Field::Sslrootcert).is_some();
        let mode = match (self.typed.tls_mode, given) {
            (Some(mode), _) => mode,
            (None, Some(text)) => tls_mode(text)?,
            (None, None) if !uses_token && on_loopback && !has_roots => TlsMode::Prefer,
            (None, None) => TlsMode::Verify,
        };
        match (mode, given) {
            (TlsMode::Disable, _) if self.dangerous_plaintext => Ok(Plaintext::Always),
            (TlsMode::Disable, Some(setting)) if !on_loopback => Err(Error::config(format!(
                "{}: \"disable\" would send the password in plaintext to a host that is not loopback",
                setting.from
            ))
            .with_hint("Use require; it verifies the server")),
            (TlsMode::Disable | TlsMode::Prefer, _) => Ok(Plaintext::OnLoopback),
            (TlsMode::Verify, _) => Ok(Plaintext::Never),
        }
    }
}

/// Names, and texts that are sent unchanged in packets and headers.
fn check_texts(raw: &Raw) -> Result<(), Error> {
    for (field, setting) in raw.all() {
        use Field::{ApplicationName, Database, Password, Schema, User};
        if matches!(field, ApplicationName | Database | Password | Schema | User) {
            setting.printable()?;
        }
        if matches!(field, ApplicationName | Database | Schema | User) {
            setting.no_url()?;
        }
        match field {
            Database | User => check_name(&setting.from, &setting.value)?,
            Schema => check_schema(&setting.from, &setting.value)?,
            _ => {}
        }
    }
    Ok(())
}

/// The configured compute, whether or not it is used.
fn compute(raw: &Raw) -> Result<Option<Compute>, Error> {
    match (raw.get(Field::Endpoint), raw.get(Field::Instance)) {
        (Some(endpoint), Some(instance)) => Err(Error::config(format!(
            "both {} and {} are set",
            endpoint.from, instance.from
        ))
        .with_hint("An Autoscaling endpoint or a Provisioned instance: unset one of them")),
        (Some(endpoint), None) => Compute::parse(endpoint).map(Some),
        (None, Some(instance)) => Compute::instance(instance).map(Some),
        (None, None) => Ok(None),
    }
}

fn check_host_kind(
    kind: HostKind,
    login: &LoginKind,
    compute: Option<&Compute>,
) -> Result<(), Error> {
    if compute.is_none() || matches!(login, LoginKind::Provider(_)) {
        return Err(Error::config(
            "host_kind: the configuration names no endpoint whose hosts can be looked up",
        )
        .with_hint("Set LAKEBASE_ENDPOINT, or name the host itself"));
    }
    if kind.is_pooled() && matches!(login, LoginKind::Minted) {
        return Err(
            Error::config("host_kind: a pooled host takes native passwords only").with_hint(
                "OAuth tokens work on the direct hosts; pooling is done in the application",
            ),
        );
    }
    Ok(())
}

fn login(
    raw: &Raw,
    provider: Option<SharedProvider>,
    compute: Option<&Compute>,
    looks_up: bool,
) -> Result<LoginKind, Error> {
    if let Some(password) = raw.get(Field::Password) {
        let named = raw.get(Field::Endpoint).or(raw.get(Field::Instance));
        if let Some(named) = named.filter(|_| !looks_up) {
            return Err(Error::config(format!(
                "both {} and {} are set",
                named.from, password.from
            ))
            .with_hint("An endpoint logs in with minted tokens, a password with a native role: unset one of them"));
        }
        if provider.is_some() {
            return Err(Error::config(format!(
                "both a credential provider and {} are set",
                password.from
            )));
        }
        return Ok(LoginKind::Password(SecretString::from(
            password.value.clone(),
        )));
    }
    match (provider, compute) {
        (Some(provider), _) => Ok(LoginKind::Provider(provider)),
        (None, Some(_)) => Ok(LoginKind::Minted),
        (None, None) => Err(no_target(raw)),
    }
}

fn no_target(raw: &Raw) -> Error {
    let what = match raw.get(Field::Host) {
        Some(host) => format!(
            "{} is set, but neither LAKEBASE_ENDPOINT (to mint tokens for) nor PGPASSWORD is",
            host.from
        ),
        None => "no target: neither LAKEBASE_ENDPOINT nor PGHOST is set".to_owned(),
    };
    Error::config(what).with_hint(
        "Set LAKEBASE_ENDPOINT to projects/{project}/branches/{branch}/endpoints/{endpoint} or to projects/{project}/branches/{branch}, LAKEBASE_INSTANCE_NAME to a Provisioned instance, or PGHOST, PGUSER and PGPASSWORD for a native role",
    )
}

fn host_name(host: &Setting, uses_token: bool) -> Result<String, Error> {
    let name = host.no_secret()?.value.trim();
    if !is_host_name(name) {
        return Err(host
            .wrong("a host name or an IP address")
            .with_hint("Leave out scheme, port, user and path; the port is PGPORT"));
    }
    if uses_token && is_pooled_host(name) {
        return Err(Error::config(format!(
            "{}: {name:?} is a pooled host, which takes native passwords only",
            host.from
        ))
        .with_hint(format!(
            "OAuth tokens work on the direct host, {:?}; pooling is done in the application",
            direct_host(name)
        )));
    }
    Ok(name.to_owned())
}

fn port(text: &Setting, given: Option<u16>) -> Result<u16, Error> {
    const EXPECTED: &str = "a port number from 1 to 65535";
    let port = given.map_or_else(|| text.parse(EXPECTED), Ok)?;
    match port {
        0 => Err(text.wrong(EXPECTED)),
        port => Ok(port),
    }
}

fn tls_mode(text: &Setting) -> Result<TlsMode, Error> {
    match text.value.trim() {
        "require" | "verify-ca" | "verify-full" => Ok(TlsMode::Verify),
        "prefer" | "allow" => Ok(TlsMode::Prefer),
        "disable" => Ok(TlsMode::Disable),
        _ => Err(text.wrong("one of disable, allow, prefer, require, verify-ca and verify-full")),
    }
}

/// `None` for the roots of the system.
fn roots(path: &Setting) -> Result<Option<Roots>, Error> {
    match path.value.as_str() {
        "system" => Ok(None),
        file => Roots::from_pem_file(Path::new(file), &path.from).map(Some),
    }
}

fn seconds(text: &Setting, given: Option<Duration>) -> Result<Duration, Error> {
    const EXPECTED: &str = "a positive number of seconds, at most a day";
    let limit = match given {
        Some(limit) => Some(limit),
        None => Duration::try_from_secs_f64(text.parse(EXPECTED)?).ok(),
    };
    limit
        .filter(|limit| !limit.is_zero() && *limit <= LONGEST_TIMEOUT)
        .ok_or_else(|| text.wrong(EXPECTED))
}

fn truncated(mut text: String, bytes: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes));
    text
}
