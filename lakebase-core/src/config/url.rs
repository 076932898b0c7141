//! Parses Postgres URLs.

use percent_encoding::percent_decode_str;
use url::Url;

use super::raw::{FIELDS, Field, Raw};
use crate::error::Error;
use crate::settings::setting::Setting;

const SHAPE: &str = "postgresql://user@host:port/database?key=value";

const ENCODE: &str = "In user, password and database write @ / ? # % as %40 %2F %3F %23 %25";

/// `source` names the origin of the URL. No error contains the URL, which may contain a password.
pub(super) fn read(text: &str, source: &str) -> Result<Raw, Error> {
    let url = Url::parse(text).map_err(|error| {
        Error::config(format!(
            "{source} is not a URL of the form {SHAPE}: {error}"
        ))
        .with_hint(ENCODE)
    })?;
    if !matches!(url.scheme(), "postgres" | "postgresql") {
        return Err(Error::config(format!(
            "{source}: the scheme {:?} is not postgres or postgresql",
            url.scheme()
        )));
    }
    // An unencoded character in a password moves the rest of it to other parts of the URL.
    let path = url.path().trim_start_matches('/');
    if url.fragment().is_some() || path.contains(['@', '/']) {
        return Err(Error::config(format!(
            "{source} is not a URL of the form {SHAPE}: it contains a character that must be encoded"
        ))
        .with_hint(ENCODE));
    }
    let part = |name: &str, value: &str| -> Result<Option<Setting>, Error> {
        if value.is_empty() {
            return Ok(None);
        }
        let value = percent_decode_str(value).decode_utf8().map_err(|_| {
            Error::config(format!("{source}: the {name} is not percent-encoded UTF-8"))
                .with_hint("Write @ as %40 and % as %25")
        })?;
        Ok(Some(Setting::new(value, format!("{source} ({name})"))))
    };
    let mut raw = Raw::default();
    let port = url.port().map(|port| port.to_string()).unwrap_or_default();
    let host = url.host_str().unwrap_or_default();
    for (field, name, value) in [
        (Field::User, "user", url.username()),
        (
            Field::Password,
            "password",
            url.password().unwrap_or_default(),
        ),
        (Field::Host, "host", host.trim_matches(['[', ']'])),
        (Field::Port, "port", &port),
        (Field::Database, "database", path),
    ] {
        if let Some(setting) = part(name, value)? {
            raw.set(field, setting);
        }
    }
    let query = url.query().unwrap_or_default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        // A token is sent as a clear-text password inside TLS, so channel binding cannot be required.
        if key == "channel_binding" && value != "require" {
            continue;
        }
        let Some(field) = parameter(key) else {
            let name = match LIBPQ.contains(&key) {
                true => key,
                false => "(not repeated)",
            };
            return Err(Error::config(format!("{source}: the parameter {name} is not supported"))
                .with_hint("Supported are sslmode, sslrootcert, hostaddr, application_name, schema, connect_timeout, endpoint, host, port, dbname, user and password"));
        };
        if let Some(setting) = part(key, value)? {
            raw.set(field, setting);
        }
    }
    Ok(raw)
}

fn parameter(key: &str) -> Option<Field> {
    match key {
        "dbname" => Some(Field::Database),
        "database" | "instance" => None,
        _ => Some(FIELDS.iter().find(|(_, name, _)| *name == key)?.0),
    }
}

/// Parameters of libpq that are not supported. Errors repeat only these names: any other may be a part of an unencoded
/// password.
const LIBPQ: &[&str] = &[
    "channel_binding",
    "client_encoding",
    "fallback_application_name",
    "gssencmode",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "load_balance_hosts",
    "options",
    "passfile",
    "replication",
    "require_auth",
    "service",
    "sslcert",
    "sslcrl",
    "sslkey",
    "sslnegotiation",
    "sslpassword",
    "sslsni",
    "target_session_attrs",
    "tcp_user_timeout",
];
