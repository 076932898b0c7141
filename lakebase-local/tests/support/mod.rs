//! Helpers of the tests: the program, requests to the workspace API, and logins through the gateway,
//! without the client crates.

#![allow(clippy::expect_used, dead_code)] // a test fails by panicking; each test file uses a part

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use lakebase_local::LocalLakebase;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Writes to the terminal; the harness captures `eprintln`.
pub(crate) fn tell(text: &str) {
    use std::io::Write as _;

    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A new folder for temporary files, so that a test sees files that are left behind.
pub(crate) fn scratch() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    // If we are root, Postgres runs as another user, who must be able to enter.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o1777)).expect("opened");
    dir
}

pub(crate) fn program(scratch: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lakebase-local"));
    command
        .env("TMPDIR", scratch)
        .env_remove("LAKEBASE_LOCAL_DIR");
    command
}

/// Waits until the folder is empty; the supervisors end a moment after their program.
pub(crate) fn assert_becomes_empty(scratch: &Path) {
    let names = || {
        let entries = std::fs::read_dir(scratch).expect("the folder");
        entries
            .map(|entry| entry.expect("an entry").file_name())
            .collect::<Vec<_>>()
    };
    for _ in 0..500 {
        if names().is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("left behind: {:?}", names());
}

/// Starts it without a command and waits until it serves. Also returns the variables that it prints.
pub(crate) fn serving(program: &mut Command) -> (Child, Vars) {
    let mut child = program
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    let mut vars = HashMap::new();
    for line in BufReader::new(child.stdout.as_mut().expect("piped")).lines() {
        let line = line.expect("a line");
        let Some((name, value)) = line
            .strip_prefix("export ")
            .and_then(|pair| pair.split_once('='))
        else {
            continue;
        };
        vars.insert(name.to_owned(), value.trim_matches('\'').to_owned());
        if name == "NODE_EXTRA_CA_CERTS" {
            return (child, Vars(vars));
        }
    }
    panic!("it ended before it served: {:?}", child.wait());
}

pub(crate) fn send(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).expect("a pid");
    kill(Pid::from_raw(pid), signal).expect("sent");
}

/// The variables of a local Lakebase.
#[derive(Clone, Debug)]
pub(crate) struct Vars(HashMap<String, String>);

impl Vars {
    pub(crate) fn of(local: &LocalLakebase) -> Self {
        Self(local.env().into_iter().collect())
    }

    pub(crate) fn get(&self, name: &str) -> &str {
        let value = self.0.get(name);
        value.unwrap_or_else(|| panic!("{name} is not set"))
    }

    /// Address of the workspace API, as `Host` names it.
    pub(crate) fn api(&self) -> &str {
        let url = self.get("DATABRICKS_HOST");
        url.strip_prefix("http://").expect("plain HTTP")
    }

    /// A workspace token for the service principal.
    pub(crate) async fn workspace_token(&self) -> String {
        let body = format!(
            "grant_type=client_credentials&client_id={}&client_secret={}",
            self.get("DATABRICKS_CLIENT_ID"),
            self.get("DATABRICKS_CLIENT_SECRET")
        );
        let form = "Content-Type: application/x-www-form-urlencoded";
        let reply = http(self.api(), "POST", "/oidc/v1/token", &[form], &body).await;
        reply.expect("a reply").field("access_token")
    }

    /// A database token for the identity of that workspace token.
    pub(crate) async fn database_token(&self, bearer: &str) -> String {
        let endpoint = self.get("LAKEBASE_ENDPOINT");
        self.token_for(bearer, endpoint).await
    }

    /// The same, with an endpoint named.
    pub(crate) async fn token_for(&self, bearer: &str, endpoint: &str) -> String {
        let body = format!(r#"{{"endpoint":"{endpoint}"}}"#);
        let bearer = format!("Authorization: Bearer {bearer}");
        let headers = [&*bearer, "Content-Type: application/json"];
        let path = "/api/2.0/postgres/credentials";
        let reply = http(self.api(), "POST", path, &headers, &body).await;
        reply.expect("a reply").field("token")
    }

    /// Logs in through the gateway.
    pub(crate) async fn log_in(
        &self,
        user: &str,
        password: &str,
        database: &str,
    ) -> Result<Client, tokio_postgres::Error> {
        self.log_in_at("localhost", None, user, password, database)
            .await
    }

    /// Logs in through the gateway on this host, which can be resolved to an address.
    pub(crate) async fn log_in_at(
        &self,
        host: &str,
        ip: Option<std::net::IpAddr>,
        user: &str,
        password: &str,
        database: &str,
    ) -> Result<Client, tokio_postgres::Error> {
        let mut roots = rustls::RootCertStore::empty();
        let file = self.get("PGSSLROOTCERT");
        for root in CertificateDer::pem_file_iter(file).expect("the CA's file") {
            roots.add(root.expect("a certificate")).expect("a root");
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut config = Config::new();
        if let Some(ip) = ip {
            config.hostaddr(ip);
        }
        let (client, connection) = config
            .host(host)
            .port(self.get("PGPORT").parse().expect("a port"))
            .dbname(database)
            .user(user)
            .password(password)
            .ssl_mode(tokio_postgres::config::SslMode::Require)
            .connect(MakeRustlsConnect::new(tls))
            .await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Logs in as the service principal.
    pub(crate) async fn as_service_principal(&self, database: &str) -> Client {
        let bearer = self.workspace_token().await;
        let token = self.database_token(&bearer).await;
        let user = self.get("PGUSER");
        let login = self.log_in(user, &token, database).await;
        login.expect("the service principal")
    }
}

/// Logs in as the person, who owns the database.
pub(crate) async fn as_owner(local: &LocalLakebase, database: &str) -> Client {
    let vars = Vars::of(local);
    let token = vars.database_token(local.user_token()).await;
    let login = vars.log_in(local.user(), &token, database).await;
    login.expect("the owner")
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    fn field(&self, name: &str) -> String {
        assert_eq!(self.status, 200, "{self:?}");
        let body: serde_json::Value = serde_json::from_str(&self.body).expect("JSON");
        body[name].as_str().expect("a text").to_owned()
    }
}

/// A request with the right `Host`.
pub(crate) async fn http(
    address: &str,
    method: &str,
    path: &str,
    headers: &[&str],
    body: &str,
) -> std::io::Result<Reply> {
    let host = format!("Host: {address}");
    let headers = [&[&*host], headers].concat();
    raw_http(address, method, path, &headers, body).await
}

/// A request with these headers and a length.
pub(crate) async fn raw_http(
    address: &str,
    method: &str,
    path: &str,
    headers: &[&str],
    body: &str,
) -> std::io::Result<Reply> {
    let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let request = format!(
        "{method} {path} HTTP/1.1\r\n{headers}Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut socket = TcpStream::connect(address).await?;
    socket.write_all(request.as_bytes()).await?;
    let mut reply = Vec::new();
    socket.read_to_end(&mut reply).await?;
    let reply = String::from_utf8_lossy(&reply).into_owned();
    let status = reply.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| std::io::Error::other("no reply"))?;
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or_default();
    Ok(Reply {
        status,
        head: head.to_owned(),
        body: body.to_owned(),
    })
}

/// SQLSTATE of an error, or its text.
pub(crate) fn sqlstate(error: &tokio_postgres::Error) -> String {
    match error.code() {
        Some(code) => code.code().to_owned(),
        None => error.to_string(),
    }
}
