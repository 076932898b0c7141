//! One synchronous connection, through libpq.

use std::error::Error as StdError;
use std::io::Write as _;
#[cfg(target_os = "linux")]
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, OnceLock};
use std::{fmt, io};

use diesel::connection::CacheSize;
use diesel::{Connection as _, ConnectionError, PgConnection};
use lakebase_core::{Login, LoginFailure, Target};

use crate::activity::Activity;

/// Per address. Unlike that of other drivers it covers the whole login, which a compute that wakes may
/// hold up.
const LOGIN_LIMIT_S: &str = "15";
/// Nothing else cuts off a ping that nobody answers. Half of what r2d2's own pool waits by default, so that a
/// new connection can still be had.
const USER_TIMEOUT_MS: &str = "15000";
/// A folder in memory.
#[cfg(target_os = "linux")]
const MEMORY: &str = "/dev/shm";

/// What connections of one pool share.
#[derive(Default)]
pub(crate) struct Libpq {
    roots: OnceLock<Arc<PrivateFile>>,
}

impl Libpq {
    /// Makes the attempt. Blocks.
    ///
    /// The password goes through a file that only this user can read, without a name where the system can
    /// do that, and gone right after. In the connection string it would show up in diesel's
    /// instrumentation, in the environment in child processes.
    pub(crate) fn connect(&self, login: &Login) -> Result<PgConnection, LoginFailure> {
        let target = &login.target;
        let password = password_file(login.credential.expose()).map_err(LoginFailure::permanent)?;
        let mut options = target_options(target);
        options.set("passfile", &password.path);
        if target.uses_tls() {
            let roots = self.roots(target).map_err(LoginFailure::permanent)?;
            options.set("sslmode", "verify-full");
            options.set("sslrootcert", &roots.path);
        } else {
            options.set("sslmode", "disable");
        }
        let mut connection = PgConnection::establish(&options.0).map_err(sort)?;
        if target.is_pooled() {
            connection.set_prepared_statement_cache_size(CacheSize::Disabled);
        }
        connection.set_instrumentation(Activity::new(target));
        Ok(connection)
    }

    /// libpq takes roots from a file only.
    fn roots(&self, target: &Target) -> io::Result<Arc<PrivateFile>> {
        if let Some(roots) = self.roots.get() {
            return Ok(Arc::clone(roots));
        }
        let file = PrivateFile::with(&target.roots_pem().unwrap_or_default())?;
        Ok(Arc::clone(self.roots.get_or_init(|| Arc::new(file))))
    }
}

impl fmt::Debug for Libpq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Libpq")
    }
}

/// A file of this user alone, in memory if possible, that is gone with the value.
struct PrivateFile {
    #[cfg(target_os = "linux")]
    _file: std::fs::File,
    #[cfg(not(target_os = "linux"))]
    _file: tempfile::NamedTempFile,
    path: String,
}

impl PrivateFile {
    fn with(content: &[u8]) -> io::Result<Self> {
        // Without a name, so that nothing stays if the process is killed.
        #[cfg(target_os = "linux")]
        let mut file = {
            let file = tempfile::tempfile_in(MEMORY).or_else(|_| tempfile::tempfile())?;
            // Or libpq ignores it.
            file.set_permissions(PermissionsExt::from_mode(0o600))?;
            file
        };
        #[cfg(not(target_os = "linux"))]
        let mut file = tempfile::NamedTempFile::with_prefix("lakebase-")?;
        file.write_all(content)?;
        file.flush()?;
        #[cfg(target_os = "linux")]
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        #[cfg(not(target_os = "linux"))]
        let path = file.path().display().to_string();
        Ok(Self { _file: file, path })
    }
}

fn password_file(password: &str) -> io::Result<PrivateFile> {
    let escaped = password.replace('\\', "\\\\").replace(':', "\\:");
    PrivateFile::with(format!("*:*:*:*:{escaped}\n").as_bytes())
}

/// A connection string.
struct Options(String);

impl Options {
    fn set(&mut self, name: &str, value: &str) {
        let value = value.replace('\\', "\\\\").replace('\'', "\\'");
        self.0.push_str(&format!("{name}='{value}' "));
    }
}

fn target_options(target: &Target) -> Options {
    let mut options = Options(String::new());
    options.set("host", target.host());
    // Empty ones as well: what is not said, libpq takes from the environment.
    let address = target.hostaddr().map(|address| address.to_string());
    options.set("hostaddr", &address.unwrap_or_default());
    options.set("password", "");
    options.set("port", &target.port().to_string());
    options.set("user", target.user());
    options.set("dbname", target.database());
    options.set("application_name", target.application_name());
    options.set("options", &target.startup_options().unwrap_or_default());
    options.set("target_session_attrs", "any");
    options.set("gssencmode", "disable");
    // A token goes as a clear-text password, which has nothing to bind to.
    options.set("channel_binding", "disable");
    options.set("connect_timeout", LOGIN_LIMIT_S);
    options.set("keepalives", "1");
    options.set("keepalives_idle", "30");
    options.set("keepalives_interval", "10");
    options.set("keepalives_count", "5");
    options.set("tcp_user_timeout", USER_TIMEOUT_MS);
    options
}

/// libpq hands on the text only; the rest of us goes by the SQLSTATE.
const CODES: &[(&str, &str)] = &[
    ("password authentication failed", "28P01"),
    ("pg_hba.conf", "28000"),
    ("permission denied for database", "42501"),
    ("too many clients", "53300"),
    ("too many connections", "53300"),
    ("remaining connection slots", "53300"),
    ("is starting up", "57P03"),
    ("is shutting down", "57P03"),
    ("in recovery mode", "57P03"),
    ("not yet accepting connections", "57P03"),
    ("terminating connection due to", "57P01"),
];

fn code(message: &str) -> &'static str {
    let message = message.to_lowercase();
    if let Some((_, code)) = CODES.iter().find(|(text, _)| message.contains(text)) {
        return code;
    }
    match () {
        () if message.contains("does not exist") && message.contains("database ") => "3D000",
        () if message.contains("does not exist") && message.contains("role ") => "28000",
        // Nothing known to be a mistake: as a gateway's own trouble.
        () => "XX000",
    }
}

/// How libpq says that the server closed the connection after TLS was there.
const CLOSED: &[&str] = &["connection has been closed unexpectedly", "eof detected"];

/// The server's words in a message of libpq: `... failed: FATAL:  words`.
fn server_words(text: &str) -> Option<&str> {
    let words = ["FATAL:", "ERROR:"]
        .into_iter()
        .find_map(|severity| Some(text.split_once(severity)?.1.trim()))?;
    words.lines().next()
}

fn sort(error: ConnectionError) -> LoginFailure {
    let text = match &error {
        ConnectionError::BadConnection(text) => text.clone(),
        ConnectionError::CouldntSetupConfiguration(cause) if crate::is_transient(cause) => {
            return LoginFailure::transport(error);
        }
        _ => return LoginFailure::permanent(error),
    };
    if let Some(words) = server_words(&text) {
        return LoginFailure::postgres(code(words), words.to_owned(), Said(text));
    }
    let lower = text.to_lowercase();
    if lower.contains("certificate") || lower.contains("no password supplied") {
        return LoginFailure::permanent(Said(text));
    }
    if CLOSED.iter().any(|known| lower.contains(known)) {
        return LoginFailure::closed(Said(text));
    }
    LoginFailure::transport(Said(text))
}

/// What libpq said, on one line.
#[derive(Debug)]
struct Said(String);

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = self.0.split_whitespace();
        f.write_str(words.next().unwrap_or("no connection"))?;
        words.try_for_each(|word| write!(f, " {word}"))
    }
}

impl StdError for Said {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libpq_says_is_sorted_as_the_sqlstate_would_be() {
        for (text, expected) in [
            (
                "connection to server at \"h\", port 1 failed: FATAL:  password authentication failed for user \"x\"",
                Some("28P01"),
            ),
            ("FATAL:  role \"x\" does not exist", Some("28000")),
            ("FATAL:  database \"x\" does not exist", Some("3D000")),
            (
                "FATAL:  permission denied for database \"x\"",
                Some("42501"),
            ),
            ("FATAL:  sorry, too many clients already", Some("53300")),
            ("FATAL:  the database system is starting up", Some("57P03")),
            ("ERROR:  Control plane request failed", Some("XX000")),
            ("FATAL:  something new", Some("XX000")),
            ("could not translate host name", None),
        ] {
            let found = server_words(text).map(code);
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn values_are_quoted_for_libpq() {
        let mut options = Options(String::new());
        options.set("user", r"o'neill \ sons");
        assert_eq!(options.0, r"user='o\'neill \\ sons' ");
    }
}
