//! Judges the collected settings: all mistakes that can be told without a network are told here.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use super::builder::{ConfigBuilder, Raw};
use super::{Config, LoginKind, Plaintext, ResolvedSetting, TlsMode, url as pg_url};
use crate::config::claim::Claim;
use crate::config::endpoint::Compute;
use crate::config::endpoint::HostKind;
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
const LONGEST_CONNECT_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// What the platform takes.
const TTL_RANGE: RangeInclusive<Duration> = Duration::from_secs(300)..=Duration::from_secs(3600);
/// Postgres cuts longer names itself, in the middle of a character if need be.
const LONGEST_APPLICATION_NAME: usize = 63;

pub(super) fn build(builder: ConfigBuilder) -> Result<Config, Error> {
    let vars = Arc::new(builder.vars.unwrap_or_default());
    let mut raw = builder.explicit;
    for setting in raw.explicitly_given() {
        setting.clone().not_empty()?;
    }
    if let (Some(_), Some(host)) = (builder.host_kind, &raw.host) {
        return Err(
            Error::config(format!("both host_kind and {} are set", host.from))
                .with_hint("A kind of host is asked from the workspace: leave one of them out"),
        );
    }
    // A native role may have its host looked up as well.
    let looks_up = builder.host_kind.is_some();
    let own_hostaddr = raw.hostaddr.clone();
    if let Some(url) = &builder.url {
        raw = raw.over(pg_url::read(&url.value, &url.from)?, looks_up);
    }
    let mut lower = read_vars(&vars)?;
    if builder.provider.is_some() {
        // As a password would: whoever brings a provider has decided how to log in.
        lower.password = None;
    }
    raw = raw.over(lower, looks_up);
    if looks_up {
        // What the environment names is another host of the same compute.
        raw.host = None;
        raw.hostaddr = own_hostaddr;
    }
    for setting in raw.sent_as_is() {
        setting.printable()?;
    }
    let names = [&raw.user, &raw.database, &raw.schema, &raw.application_name];
    for setting in names.into_iter().flatten() {
        setting.no_url()?;
    }
    for setting in [&raw.user, &raw.database].into_iter().flatten() {
        check_name(&setting.from, &setting.value)?;
    }
    if let Some(schema) = &raw.schema {
        check_schema(&schema.from, &schema.value)?;
    }

    let compute = compute(&raw)?;
    let login = login(&raw, builder.provider, compute.as_ref(), looks_up)?;
    let uses_token = !matches!(login, LoginKind::Password(_));
    let is_minted = matches!(login, LoginKind::Minted);
    if let Some(kind) = builder.host_kind {
        check_host_kind(kind, &login, compute.as_ref())?;
    }
    let workspace = match is_minted || looks_up {
        true => Some(access::resolve(builder.sign_in, &vars)?),
        false => None,
    };
    let host = match &raw.host {
        Some(host) => Some(host_name(host, uses_token)?),
        None if workspace.is_some() => None,
        None => {
            return Err(Error::config("no host: PGHOST is not set")
                .with_hint("A native password or an own provider needs the Postgres host"));
        }
    };
    if !is_minted && raw.user.is_none() {
        return Err(Error::config("no user: PGUSER is not set")
            .with_hint("A native password or an own provider needs the Postgres role"));
    }
    let port: u16 = match &raw.port {
        Some(port) => port.parse("a port number from 1 to 65535")?,
        None => DEFAULT_PORT,
    };
    if port == 0 {
        let port = raw.port.unwrap_or_else(|| Setting::new("0", "PGPORT"));
        return Err(port.wrong("a port number from 1 to 65535"));
    }
    let plaintext = plaintext(
        &raw,
        host.as_deref(),
        uses_token,
        builder.dangerous_plaintext,
    )?;
    let application_name = match &raw.application_name {
        Some(name) => name.value.clone(),
        None => format!("lakebase-rs_lakebase-core/{}", env!("CARGO_PKG_VERSION")),
    };
    let settings = raw.resolved();
    Ok(Config {
        settings,
        host_kind: builder.host_kind.unwrap_or_default(),
        hostaddr: match &raw.hostaddr {
            Some(address) => Some(address.parse::<IpAddr>("an IP address")?),
            None => None,
        },
        port,
        database: raw.database.as_ref().map_or_else(
            || DEFAULT_DATABASE.to_owned(),
            |database| database.value.clone(),
        ),
        user: match &raw.user {
            Some(user) => Some(user.value.clone()),
            None => workspace
                .as_ref()
                .and_then(|workspace| workspace.sign_in.postgres_role())
                .map(str::to_owned),
        },
        application_name: truncated(application_name, LONGEST_APPLICATION_NAME),
        plaintext,
        roots: match &raw.sslrootcert {
            Some(path) if path.value != "system" => {
                Some(Roots::from_pem_file(Path::new(&path.value), &path.from)?)
            }
            _ => None,
        },
        schema: raw.schema.as_ref().map(|schema| schema.value.clone()),
        token_ttl: match builder.token_ttl {
            Some(ttl) if !TTL_RANGE.contains(&ttl) => {
                return Err(Error::config(format!(
                    "token_ttl: {ttl:?} is not from 300 s to 3600 s"
                )));
            }
            Some(_) if matches!(compute, Some(Compute::Instance(_))) => {
                return Err(Error::config(
                    "token_ttl: credentials of a Provisioned instance live for an hour",
                ));
            }
            ttl => ttl,
        },
        claims: match builder.claims.iter().any(Claim::is_empty) {
            true => return Err(Error::config("claim: it names no table, or an empty name")),
            false => builder.claims,
        },
        connect_timeout: match &raw.connect_timeout {
            Some(budget) => seconds(budget)?,
            None => DEFAULT_CONNECT_TIMEOUT,
        },
        refresh: builder.refresh,
        clock: Arc::new(Watch::new(
            builder.clock.unwrap_or_else(|| Arc::new(SystemClock)),
        )),
        host,
        login,
        workspace,
        compute,
    })
}

/// What was named, whether or not it is used.
fn compute(raw: &Raw) -> Result<Option<Compute>, Error> {
    match (&raw.endpoint, &raw.instance) {
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
        return Err(
            Error::config("host_kind: there is no endpoint to ask for its hosts")
                .with_hint("Set LAKEBASE_ENDPOINT, or name the host itself"),
        );
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

fn read_vars(vars: &Vars) -> Result<Raw, Error> {
    let first = |names: &[&str]| {
        names.iter().find_map(|&name| {
            let value = vars.get(name).filter(|value| !value.trim().is_empty())?;
            Some(Setting::new(value.as_str(), name))
        })
    };
    let mut raw = Raw {
        endpoint: first(&[
            "LAKEBASE_ENDPOINT",
            "DATABRICKS_LAKEBASE_ENDPOINT",
            "ENDPOINT_NAME",
        ]),
        instance: first(&["LAKEBASE_INSTANCE_NAME"]),
        host: first(&["PGHOST"]),
        hostaddr: first(&["PGHOSTADDR"]),
        port: first(&["PGPORT"]),
        database: first(&["PGDATABASE"]),
        user: first(&["PGUSER"]),
        password: first(&["PGPASSWORD"]),
        sslmode: first(&["PGSSLMODE"]),
        sslrootcert: first(&["PGSSLROOTCERT"]),
        application_name: first(&["PGAPPNAME"]),
        schema: first(&["LAKEBASE_SCHEMA"]),
        connect_timeout: first(&["PGCONNECT_TIMEOUT"]),
    };
    // Below `lakebase exec` it is the proxy's; what is ours is in the URL.
    if first(&["LAKEBASE_EXEC"]).is_some() {
        raw.password = None;
    }
    match first(&["LAKEBASE_PG_URL"]) {
        Some(url) => Ok(pg_url::read(&url.value, &url.from)?.or(raw)),
        None => Ok(raw),
    }
}

fn login(
    raw: &Raw,
    provider: Option<SharedProvider>,
    compute: Option<&Compute>,
    looks_up: bool,
) -> Result<LoginKind, Error> {
    if let Some(password) = &raw.password {
        let named = raw.endpoint.as_ref().or(raw.instance.as_ref());
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
    let what = match &raw.host {
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

fn plaintext(
    raw: &Raw,
    host: Option<&str>,
    uses_token: bool,
    dangerous: bool,
) -> Result<Plaintext, Error> {
    let on_loopback = host.is_some_and(is_loopback);
    let mode = match &raw.sslmode {
        Some(mode) => match mode.value.trim() {
            "require" | "verify-ca" | "verify-full" => TlsMode::Verify,
            "prefer" | "allow" => TlsMode::Prefer,
            "disable" => TlsMode::Disable,
            _ => {
                return Err(
                    mode.wrong("one of disable, allow, prefer, require, verify-ca and verify-full")
                );
            }
        },
        None if !uses_token && on_loopback && raw.sslrootcert.is_none() => TlsMode::Prefer,
        None => TlsMode::Verify,
    };
    match (mode, &raw.sslmode) {
        (TlsMode::Disable, _) if dangerous => Ok(Plaintext::Always),
        (TlsMode::Disable, Some(setting)) if !on_loopback => Err(Error::config(format!(
            "{}: \"disable\" would send the password in clear to a host that is not loopback",
            setting.from
        ))
        .with_hint("Use require; it verifies the server")),
        (TlsMode::Disable | TlsMode::Prefer, _) => Ok(Plaintext::OnLoopback),
        (TlsMode::Verify, _) => Ok(Plaintext::Never),
    }
}

fn seconds(budget: &Setting) -> Result<Duration, Error> {
    let expected = "a positive number of seconds, at most a day";
    let seconds: f64 = budget.parse(expected)?;
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|budget| !budget.is_zero() && *budget <= LONGEST_CONNECT_TIMEOUT)
        .ok_or_else(|| budget.wrong(expected))
}

fn truncated(mut text: String, bytes: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes));
    text
}

impl Raw {
    /// Fills what is unset from a source of lower precedence. One way to log in given here outranks
    /// the other way given there. If the host is looked up, both may be wanted.
    fn over(self, mut lower: Self, looks_up: bool) -> Self {
        let names = |raw: &Self| {
            let value = |setting: &Option<Setting>| setting.as_ref().map(|set| set.value.clone());
            (value(&raw.endpoint), value(&raw.instance))
        };
        let (self_names, lower_names) = (names(&self), names(&lower));
        let names_compute = self.endpoint.is_some() || self.instance.is_some();
        if self.password.is_some() && !looks_up || names_compute {
            lower.endpoint = None;
            lower.instance = None;
        }
        if names_compute && !looks_up {
            lower.password = None;
        }
        if names_compute && lower_names != (None, None) && lower_names != self_names {
            // That host is another compute's.
            lower.host = None;
            lower.hostaddr = None;
        }
        self.or(lower)
    }

    /// For people to look at.
    fn resolved(&self) -> Vec<ResolvedSetting> {
        let default_port = DEFAULT_PORT.to_string();
        let named = [
            ("endpoint", &self.endpoint, None),
            ("instance", &self.instance, None),
            ("host", &self.host, None),
            ("hostaddr", &self.hostaddr, None),
            ("port", &self.port, Some(default_port.as_str())),
            ("database", &self.database, Some(DEFAULT_DATABASE)),
            ("user", &self.user, None),
            ("password", &self.password, None),
            ("sslmode", &self.sslmode, None),
            ("sslrootcert", &self.sslrootcert, None),
            ("application_name", &self.application_name, None),
            ("schema", &self.schema, None),
            ("connect_timeout", &self.connect_timeout, None),
        ];
        let resolved = |(name, setting, default): (_, &Option<Setting>, Option<&str>)| {
            let (value, source) = match (setting, default) {
                (Some(_), _) if name == "password" => ("***", setting.as_ref()?.from.as_str()),
                (Some(setting), _) => (setting.value.as_str(), setting.from.as_str()),
                (None, default) => (default?, "default"),
            };
            Some(ResolvedSetting {
                name,
                value: value.to_owned(),
                source: source.to_owned(),
            })
        };
        named.into_iter().filter_map(resolved).collect()
    }

    /// What goes into packets and headers without further judgement.
    fn sent_as_is(&self) -> impl Iterator<Item = &Setting> {
        [
            &self.user,
            &self.password,
            &self.database,
            &self.application_name,
            &self.schema,
        ]
        .into_iter()
        .flatten()
    }

    /// Settings that were given in code. An empty one there is a mistake; in the environment it
    /// means unset.
    fn explicitly_given(&self) -> impl Iterator<Item = &Setting> {
        [
            &self.endpoint,
            &self.instance,
            &self.host,
            &self.database,
            &self.user,
            &self.password,
            &self.sslrootcert,
            &self.application_name,
            &self.schema,
        ]
        .into_iter()
        .flatten()
    }
}
