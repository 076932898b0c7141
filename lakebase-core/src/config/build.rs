//! Judges the collected settings: all mistakes that can be told without a network are told here.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use super::builder::{ConfigBuilder, Raw};
use super::setting::Setting;
use super::{Config, LoginKind, Plaintext, SignIn, TlsMode, Workspace, url as pg_url};
use crate::clock::SystemClock;
use crate::endpoint::{direct_host, is_loopback, is_pooled_host};
use crate::provider::SharedProvider;
use crate::tls::Roots;
use crate::workspace::is_header_safe;
use crate::{EndpointPath, Error};

const DEFAULT_PORT: u16 = 5432;
const DEFAULT_DATABASE: &str = "databricks_postgres";
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const LONGEST_CONNECT_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// What the platform takes.
const TTL_RANGE: RangeInclusive<Duration> = Duration::from_secs(300)..=Duration::from_secs(3600);
/// Postgres cuts longer names itself, in the middle of a character if need be.
const LONGEST_APPLICATION_NAME: usize = 63;

pub(super) fn build(builder: ConfigBuilder) -> Result<Config, Error> {
    let vars = |name: &str| {
        builder
            .vars
            .as_ref()
            .and_then(|vars| vars.get(name))
            .cloned()
    };
    let mut raw = builder.explicit;
    for setting in raw.explicitly_given() {
        setting.clone().not_empty()?;
    }
    if let Some(url) = &builder.url {
        raw = raw.over(pg_url::read(&url.value, &url.from)?);
    }
    if builder.provider.is_some() {
        // As a password would: whoever brings a provider has decided how to log in.
        raw = raw.over(Raw {
            password: None,
            ..read_vars(vars)?
        });
    } else {
        raw = raw.over(read_vars(vars)?);
    }
    for setting in raw.sent_as_is() {
        setting.printable()?;
    }

    let login = login(&raw, builder.provider, &|name| vars(name).is_some())?;
    let endpoint = endpoint(&raw, &login)?;
    let uses_token = !matches!(login, LoginKind::Password(_));
    let host = match &raw.host {
        Some(host) => Some(host_name(host, uses_token)?),
        None if matches!(login, LoginKind::Workspace(_)) => None,
        None => {
            return Err(Error::config("no host: PGHOST is not set")
                .with_hint("A native password or an own provider needs the Postgres host"));
        }
    };
    if matches!(login, LoginKind::Password(_) | LoginKind::Provider(_)) && raw.user.is_none() {
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
    Ok(Config {
        endpoint,
        hostaddr: match &raw.hostaddr {
            Some(address) => Some(address.parse::<IpAddr>("an IP address")?),
            None => None,
        },
        port,
        database: raw.database.as_ref().map_or_else(
            || DEFAULT_DATABASE.to_owned(),
            |database| database.value.clone(),
        ),
        user: match (&raw.user, &login) {
            (Some(user), _) => Some(user.value.clone()),
            (
                None,
                LoginKind::Workspace(Workspace {
                    sign_in: SignIn::M2m { client_id, .. },
                    ..
                }),
            ) => Some(client_id.clone()),
            (None, _) => None,
        },
        application_name: truncated(application_name, LONGEST_APPLICATION_NAME),
        plaintext,
        roots: match &raw.sslrootcert {
            Some(path) if path.value != "system" => {
                Some(Roots::from_pem_file(Path::new(&path.value), &path.from)?)
            }
            _ => None,
        },
        schema: match &raw.schema {
            Some(_) if host.as_deref().is_some_and(is_pooled_host) => {
                return Err(Error::config("schema: a pooled host takes no search path")
                    .with_hint("Set it on the role: ALTER ROLE .. SET search_path"));
            }
            schema => schema.as_ref().map(|schema| schema.value.clone()),
        },
        token_ttl: match builder.token_ttl {
            Some(ttl) if !TTL_RANGE.contains(&ttl) => {
                return Err(Error::config(format!(
                    "token_ttl: {ttl:?} is not from 300 s to 3600 s"
                )));
            }
            ttl => ttl,
        },
        connect_timeout: match &raw.connect_timeout {
            Some(budget) => seconds(budget)?,
            None => DEFAULT_CONNECT_TIMEOUT,
        },
        refresh: builder.refresh,
        clock: builder.clock.unwrap_or_else(|| Arc::new(SystemClock)),
        host,
        login,
    })
}

fn read_vars(lookup: impl Fn(&str) -> Option<String>) -> Result<Raw, Error> {
    let first = |names: &[&str]| {
        names.iter().find_map(|&name| {
            let value = lookup(name).filter(|value| !value.trim().is_empty())?;
            Some(Setting::new(value, name))
        })
    };
    let raw = Raw {
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
        schema: None,
        connect_timeout: first(&["PGCONNECT_TIMEOUT"]),
        workspace_host: first(&["DATABRICKS_HOST"]),
        // The Databricks CLI writes `none` for "no workspace".
        workspace_id: first(&["DATABRICKS_WORKSPACE_ID"]).filter(|id| id.value != "none"),
        token: first(&["DATABRICKS_TOKEN"]),
        client_id: first(&["DATABRICKS_CLIENT_ID"]),
        client_secret: first(&["DATABRICKS_CLIENT_SECRET"]),
        auth_type: first(&["DATABRICKS_AUTH_TYPE"]),
    };
    match first(&["LAKEBASE_PG_URL"]) {
        Some(url) => Ok(pg_url::read(&url.value, &url.from)?.or(raw)),
        None => Ok(raw),
    }
}

fn login(
    raw: &Raw,
    provider: Option<SharedProvider>,
    is_set: &dyn Fn(&str) -> bool,
) -> Result<LoginKind, Error> {
    if let Some(password) = &raw.password {
        if let Some(endpoint) = &raw.endpoint {
            return Err(Error::config(format!(
                "both {} and {} are set",
                endpoint.from, password.from
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
    if let Some(provider) = provider {
        return Ok(LoginKind::Provider(provider));
    }
    if raw.endpoint.is_none() {
        return Err(no_target(raw));
    }
    // The path is judged before the sign-in: it is the likelier slip.
    let _ = endpoint_path(raw)?;
    let Some(host) = &raw.workspace_host else {
        return Err(missing("DATABRICKS_HOST", is_set)
            .with_hint("Set it to the workspace URL; tokens are minted there"));
    };
    Ok(LoginKind::Workspace(Workspace {
        workspace_id: match &raw.workspace_id {
            Some(id) => Some(id.value.clone()),
            None => workspace_id_of(&host.value),
        },
        host: workspace_url(host)?,
        sign_in: sign_in(raw, is_set)?,
    }))
}

fn no_target(raw: &Raw) -> Error {
    let error = |message: String| {
        Error::config(message).with_hint(
            "Set LAKEBASE_ENDPOINT to projects/{project}/branches/{branch}/endpoints/{endpoint}, or PGHOST, PGUSER and PGPASSWORD for a native role",
        )
    };
    match (&raw.instance, &raw.host) {
        (Some(instance), _) => error(format!(
            "{} names a Provisioned instance, which is not supported: no endpoint is set",
            instance.from
        )),
        (None, Some(host)) => error(format!(
            "{} is set, but neither LAKEBASE_ENDPOINT (to mint tokens for) nor PGPASSWORD is",
            host.from
        )),
        (None, None) => error("no target: neither LAKEBASE_ENDPOINT nor PGHOST is set".into()),
    }
}

fn sign_in(raw: &Raw, is_set: &dyn Fn(&str) -> bool) -> Result<SignIn, Error> {
    let wants = raw.auth_type.as_ref().map(|kind| kind.value.as_str());
    match wants {
        None | Some("pat" | "oauth-m2m") => {}
        Some(other) => {
            return Err(Error::config(format!(
                "DATABRICKS_AUTH_TYPE: {other:?} is not supported; supported are oauth-m2m and pat"
            )));
        }
    }
    let has_oauth = raw.client_id.is_some() || raw.client_secret.is_some();
    if let (None, Some(token), true) = (wants, &raw.token, has_oauth) {
        return Err(Error::config(format!(
            "more than one authorization method configured: oauth and pat ({} next to a service principal)",
            token.from
        ))
        .with_hint("Unset one of them, or set DATABRICKS_AUTH_TYPE to oauth-m2m or pat"));
    }
    if wants == Some("pat") || (wants.is_none() && !has_oauth) {
        let Some(token) = &raw.token else {
            let hint = "Set DATABRICKS_CLIENT_ID and DATABRICKS_CLIENT_SECRET (service principal), or DATABRICKS_TOKEN";
            return Err(match wants {
                Some(_) => missing("DATABRICKS_TOKEN", is_set),
                None => Error::config("no workspace sign-in is configured"),
            }
            .with_hint(hint));
        };
        return Ok(SignIn::Pat(header_secret(token)?));
    }
    let Some(client_id) = &raw.client_id else {
        return Err(missing("DATABRICKS_CLIENT_ID", is_set)
            .with_hint("A service principal needs both its client id and its secret"));
    };
    let Some(client_secret) = &raw.client_secret else {
        return Err(missing("DATABRICKS_CLIENT_SECRET", is_set)
            .with_hint("A service principal needs both its client id and its secret"));
    };
    if client_id.value.contains(':') {
        return Err(client_id.wrong("a client id: it holds a colon"));
    }
    Ok(SignIn::M2m {
        client_id: client_id.value.clone(),
        client_secret: header_secret(client_secret)?,
    })
}

fn missing(name: &str, is_set: &dyn Fn(&str) -> bool) -> Error {
    let state = if is_set(name) { "empty" } else { "not set" };
    Error::config(format!("{name} is {state}"))
}

/// A secret that goes into a header. The error does not repeat it.
fn header_secret(secret: &Setting) -> Result<SecretString, Error> {
    if !is_header_safe(&secret.value) {
        return Err(Error::config(format!(
            "{} holds spaces, line breaks or other characters that no such secret has",
            secret.from
        ))
        .with_hint("It may have been copied or read from a file with a line break at its end"));
    }
    Ok(SecretString::from(secret.value.clone()))
}

fn endpoint_path(raw: &Raw) -> Result<Option<EndpointPath>, Error> {
    let Some(endpoint) = &raw.endpoint else {
        return Ok(None);
    };
    endpoint
        .value
        .trim()
        .parse()
        .map(Some)
        .map_err(|error: Error| error.with_setting(&endpoint.from))
}

fn endpoint(raw: &Raw, login: &LoginKind) -> Result<Option<EndpointPath>, Error> {
    match login {
        LoginKind::Password(_) => Ok(None),
        LoginKind::Workspace(_) | LoginKind::Provider(_) => endpoint_path(raw),
    }
}

/// The workspace's base URL, by the official clients' rules: `https` unless said otherwise, path
/// and query dropped. Plain `http` would show the client secret, so only loopback may have it.
fn workspace_url(host: &Setting) -> Result<Url, Error> {
    let text = host.value.trim();
    let expected = "a workspace URL such as https://dbc-a1b2c3d4-e5f6.cloud.databricks.com";
    let with_scheme = if text.contains("://") {
        text.to_owned()
    } else {
        format!("https://{text}")
    };
    let mut url = Url::parse(&with_scheme).map_err(|_| host.wrong(expected))?;
    let name = url
        .host_str()
        .filter(|name| !name.is_empty())
        .ok_or_else(|| host.wrong(expected))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::config(format!(
            "{} holds a user or password",
            host.from
        )));
    }
    match url.scheme() {
        "https" => {}
        "http" if is_loopback(name) => {}
        "http" => {
            return Err(host
                .wrong("protected: http would send secrets in clear")
                .with_hint("Use https; http is for loopback hosts only"));
        }
        _ => return Err(host.wrong(expected)),
    }
    url.set_path("/");
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

/// Browsers show URLs with `?o=ID`; `w` is the newer name and wins.
fn workspace_id_of(host: &str) -> Option<String> {
    let (_, query) = host.split_once('?')?;
    ["w", "o"].into_iter().find_map(|wanted| {
        let mut pairs = ::url::form_urlencoded::parse(query.as_bytes());
        let (_, id) = pairs.find(|(name, _)| name == wanted)?;
        let usable = !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        usable.then(|| id.into_owned())
    })
}

fn host_name(host: &Setting, uses_token: bool) -> Result<String, Error> {
    let name = host.value.trim();
    let is_name = !name.is_empty()
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_.:".contains(c));
    let is_name_only = is_name && (!name.contains(':') || name.parse::<IpAddr>().is_ok());
    if !is_name_only {
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
    /// the other way given there.
    fn over(self, mut lower: Self) -> Self {
        if self.password.is_some() {
            lower.endpoint = None;
            lower.instance = None;
        }
        if self.endpoint.is_some() {
            lower.password = None;
        }
        self.or(lower)
    }

    /// What goes into packets and headers without further judgement.
    fn sent_as_is(&self) -> impl Iterator<Item = &Setting> {
        [
            &self.user,
            &self.password,
            &self.database,
            &self.application_name,
            &self.schema,
            &self.client_id,
            &self.workspace_id,
        ]
        .into_iter()
        .flatten()
    }

    /// Settings that were given in code. An empty one there is a mistake; in the environment it
    /// means unset.
    fn explicitly_given(&self) -> impl Iterator<Item = &Setting> {
        [
            &self.endpoint,
            &self.host,
            &self.database,
            &self.user,
            &self.password,
            &self.sslrootcert,
            &self.application_name,
            &self.schema,
            &self.workspace_host,
            &self.workspace_id,
            &self.token,
            &self.client_id,
            &self.client_secret,
        ]
        .into_iter()
        .flatten()
    }
}
