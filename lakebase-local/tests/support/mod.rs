//! What the tests share: requests to the workspace API and logins through the gateway, without the
//! client crates.

#![allow(clippy::expect_used, dead_code)] // a test fails by panicking; each test file uses a part

use std::sync::Arc;

use lakebase_local::LocalLakebase;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Sends a request as written, and returns status and body.
pub(crate) async fn http(address: &str, request: &str) -> (u16, String) {
    let mut socket = TcpStream::connect(address).await.expect("accepted");
    socket.write_all(request.as_bytes()).await.expect("sent");
    let mut reply = Vec::new();
    socket.read_to_end(&mut reply).await.expect("a reply");
    let reply = String::from_utf8_lossy(&reply).into_owned();
    let status = reply.split(' ').nth(1).and_then(|code| code.parse().ok());
    let (_, body) = reply.split_once("\r\n\r\n").unwrap_or_default();
    (status.expect("a status"), body.to_owned())
}

/// Address of the workspace API, as `Host` names it.
pub(crate) fn api(local: &LocalLakebase) -> String {
    let url = local.workspace_url();
    url.strip_prefix("http://").expect("plain HTTP").to_owned()
}

fn variable(local: &LocalLakebase, name: &str) -> String {
    let found = local.env().into_iter().find(|(known, _)| known == name);
    found.expect("a variable").1
}

fn field(body: &str, name: &str) -> String {
    let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
    body[name].as_str().expect("a text").to_owned()
}

/// A database token for the person whose access token it is.
pub(crate) async fn database_token(local: &LocalLakebase, bearer: &str) -> String {
    let api = api(local);
    let body = format!(r#"{{"endpoint":"{}"}}"#, local.endpoint());
    let request = format!(
        "POST /api/2.0/postgres/credentials HTTP/1.1\r\nHost: {api}\r\nConnection: close\r\n\
         Authorization: Bearer {bearer}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let (status, reply) = http(&api, &request).await;
    assert_eq!(status, 200, "{reply}");
    field(&reply, "token")
}

/// A workspace token for the service principal.
pub(crate) async fn workspace_token(local: &LocalLakebase) -> String {
    let api = api(local);
    let body = format!(
        "grant_type=client_credentials&client_id={}&client_secret={}",
        local.client_id(),
        variable(local, "DATABRICKS_CLIENT_SECRET")
    );
    let request = format!(
        "POST /oidc/v1/token HTTP/1.1\r\nHost: {api}\r\nConnection: close\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let (status, reply) = http(&api, &request).await;
    assert_eq!(status, 200, "{reply}");
    field(&reply, "access_token")
}

/// Logs in through the gateway.
pub(crate) async fn log_in(
    local: &LocalLakebase,
    user: &str,
    password: &str,
) -> Result<Client, tokio_postgres::Error> {
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(local.ca_file()).expect("the CA's file") {
        roots.add(root.expect("a certificate")).expect("a root");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (client, connection) = Config::new()
        .host("localhost")
        .port(local.postgres_port())
        .dbname("databricks_postgres")
        .user(user)
        .password(password)
        .ssl_mode(tokio_postgres::config::SslMode::Require)
        .connect(MakeRustlsConnect::new(tls))
        .await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Logs in as the person, who owns the database.
pub(crate) async fn as_owner(local: &LocalLakebase) -> Client {
    let token = database_token(local, local.user_token()).await;
    let user = local.user().to_owned();
    log_in(local, &user, &token).await.expect("the owner")
}

/// Logs in as the service principal.
pub(crate) async fn as_service_principal(local: &LocalLakebase) -> Client {
    let bearer = workspace_token(local).await;
    let token = database_token(local, &bearer).await;
    let user = local.client_id().to_owned();
    log_in(local, &user, &token).await.expect("the principal")
}

/// SQLSTATE of an error, or its text.
pub(crate) fn sqlstate(error: &tokio_postgres::Error) -> String {
    match error.code() {
        Some(code) => code.code().to_owned(),
        None => error.to_string(),
    }
}
