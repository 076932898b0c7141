//! A workspace on one of Databricks' own hosts: its token endpoint is documented, so no request comes before that for the
//! token. An HTTP proxy in the test terminates TLS and answers for the host.

#![allow(clippy::expect_used)]

mod support;

use std::sync::{Arc, Mutex};

use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const HOST: &str = "dbc-a1b2c3d4-e5f6.cloud.databricks.com";
const TOKEN: &str = "POST /oidc/v1/token";
const MINT: &str = "POST /api/2.0/postgres/credentials";
const ENDPOINT: &str = "projects/shop/branches/production/endpoints/primary";

/// The requests so far, as method and path.
type Seen = Arc<Mutex<Vec<String>>>;

struct Workspace {
    proxy: String,
    /// In a file, since the crate reads the system's roots.
    roots: tempfile::NamedTempFile,
    seen: Seen,
    task: tokio::task::AbortHandle,
}

impl Drop for Workspace {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `answer` gives status and body of a request.
async fn workspace(answer: fn(&str) -> (u16, String)) -> Workspace {
    let (authority, config) = support::tls_server(HOST, "a throw-away CA");
    let roots = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&roots, authority).expect("written");
    let acceptor = TlsAcceptor::from(config);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let proxy = format!("http://{}", listener.local_addr().expect("an address"));
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    let task = tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(serve(socket, acceptor.clone(), Arc::clone(&noted), answer));
        }
    });
    Workspace {
        proxy,
        roots,
        seen,
        task: task.abort_handle(),
    }
}

async fn serve(
    socket: TcpStream,
    acceptor: TlsAcceptor,
    seen: Seen,
    answer: fn(&str) -> (u16, String),
) -> Option<()> {
    let mut socket = BufReader::new(socket);
    assert!(
        head(&mut socket)
            .await?
            .starts_with(&format!("CONNECT {HOST}:443"))
    );
    socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?;
    let mut tls = BufReader::new(acceptor.accept(socket).await.ok()?);
    let head = head(&mut tls).await?;
    let request = head.split(" HTTP/").next()?.to_owned();
    let lower = head.to_lowercase();
    let length = lower.split("content-length: ").nth(1);
    let length: usize = length
        .and_then(|rest| rest.lines().next()?.trim().parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    tls.read_exact(&mut body).await.ok()?;
    let (status, body) = answer(&request);
    seen.lock().expect("not poisoned").push(request);
    let reply = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    tls.write_all(reply.as_bytes()).await.ok()?;
    tls.shutdown().await.ok()
}

async fn head(socket: &mut BufReader<impl AsyncRead + Unpin>) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if socket.read_line(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    Some(head)
}

fn usual(request: &str) -> (u16, String) {
    match request {
        TOKEN | "POST /elsewhere" => (
            200,
            r#"{"access_token":"workspace","token_type":"Bearer","expires_in":3600}"#.to_owned(),
        ),
        MINT => (
            200,
            r#"{"token":"database","expire_time":"2999-01-01T00:00:00Z"}"#.to_owned(),
        ),
        _ => (404, "{}".to_owned()),
    }
}

/// Prints a database token, with the variables of an application.
async fn token(workspace: &Workspace) -> Vec<String> {
    let host = format!("https://{HOST}");
    let roots = workspace.roots.path().display().to_string();
    let vars = [
        ("DATABRICKS_HOST", host.as_str()),
        ("DATABRICKS_CLIENT_ID", "app"),
        ("DATABRICKS_CLIENT_SECRET", "secret"),
        ("LAKEBASE_ENDPOINT", ENDPOINT),
        ("PGHOST", "db.example.com"),
        ("HTTPS_PROXY", &workspace.proxy),
        ("SSL_CERT_FILE", &roots),
    ];
    let ran = support::run(["token"], &[], &vars).await;
    assert_eq!(
        (ran.code, ran.out.trim()),
        (Some(0), "database"),
        "{}",
        ran.err
    );
    workspace.seen.lock().expect("not poisoned").clone()
}

#[tokio::test]
async fn a_databricks_host_gets_two_requests_for_the_token_and_the_mint() {
    let workspace = workspace(usual).await;
    assert_eq!(token(&workspace).await, [TOKEN, MINT]);
}

#[tokio::test]
async fn the_token_endpoint_is_discovered_if_the_documented_one_is_missing() {
    let workspace = workspace(|request| match request {
        TOKEN => (404, "{}".to_owned()),
        "GET /oidc/.well-known/oauth-authorization-server" => (
            200,
            format!(r#"{{"token_endpoint":"https://{HOST}/elsewhere"}}"#),
        ),
        other => usual(other),
    })
    .await;
    let mut seen = token(&workspace).await;
    seen[1..3].sort_unstable();
    let expected = [
        TOKEN,
        "GET /.well-known/databricks-config",
        "GET /oidc/.well-known/oauth-authorization-server",
        "POST /elsewhere",
        MINT,
    ];
    assert_eq!(seen, expected);
}
