//! The programs of the shop and of the notes: each listens on the given address, answers requests, and ends at Ctrl-C.

use std::time::Duration;

use lakebase_local::LocalLakebase;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

const PATIENCE: Duration = Duration::from_secs(60);

/// A running program and its address.
struct Open {
    program: Child,
    address: String,
}

impl Open {
    async fn start(program: &str, vars: Vec<(String, String)>) -> Self {
        let mut program = Command::new(program)
            .env_clear()
            .envs(vars)
            .env("SHOP_ADDRESS", "127.0.0.1:0")
            .env("NOTES_ADDRESS", "127.0.0.1:0")
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(program.stdout.take().expect("piped")).lines();
        let line = soon(lines.next_line()).await.expect("text");
        let line = line.expect("it prints its address");
        let address = line
            .split_once(" at http://")
            .and_then(|(_, rest)| rest.strip_suffix('/'))
            .unwrap_or_else(|| panic!("{line:?}"));
        Self {
            address: address.to_owned(),
            program,
        }
    }

    /// Returns status line, headers and body.
    async fn send(&self, request: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).await.expect("it listens");
        let length = body.len();
        let text = format!(
            "{request} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\
             content-type: application/x-www-form-urlencoded\r\ncontent-length: {length}\r\n\r\n{body}",
            self.address
        );
        stream.write_all(text.as_bytes()).await.expect("sent");
        let mut response = String::new();
        let read = soon(stream.read_to_string(&mut response)).await;
        read.expect("a response");
        response
    }

    async fn interrupt(mut self) {
        let id = self.program.id().expect("it runs").to_string();
        let sent = Command::new("kill").args(["-INT", &id]).status().await;
        assert!(sent.expect("kill runs").success());
        let status = soon(self.program.wait()).await.expect("it ends");
        assert!(status.success(), "{status}");
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(PATIENCE, future).await;
    outcome.unwrap_or_else(|_| panic!("nothing happened for {PATIENCE:?}"))
}

async fn accepts_an_order(program: &str, vars: Vec<(String, String)>) {
    let shop = Open::start(program, vars).await;
    let response = shop.send("POST /", "name=Ann&item=tea&price=12.5").await;
    assert!(
        response.starts_with("HTTP/1.1 303"),
        "{program}: {response}"
    );
    let page = shop.send("GET /", "").await;
    let row = "<td>Ann</td><td>tea</td><td>12.50</td>";
    assert!(page.contains(row), "{program}: {page}");
    shop.interrupt().await;
}

#[tokio::test]
async fn the_shops_after_the_swap_run_on_a_local_lakebase() {
    for program in [
        env!("CARGO_BIN_EXE_shop_diesel"),
        env!("CARGO_BIN_EXE_shop_seaorm"),
    ] {
        let local = LocalLakebase::start().await.expect("a local Lakebase");
        accepts_an_order(program, local.env()).await;
        assert_eq!(local.counters().refused, 0);
    }
}

#[tokio::test]
async fn the_shops_before_the_swap_run_on_a_plain_postgres() {
    for program in [
        env!("CARGO_BIN_EXE_shop_diesel_before"),
        env!("CARGO_BIN_EXE_shop_seaorm_before"),
    ] {
        let local = LocalLakebase::start().await.expect("a local Lakebase");
        // The plain Postgres server inside.
        let host = local.dir().display().to_string().replace('/', "%2F");
        let url = format!("postgresql://lakebase_admin@{host}/postgres");
        accepts_an_order(program, vec![("DATABASE_URL".to_owned(), url)]).await;
    }
}

const NOTES: [&str; 2] = [
    env!("CARGO_BIN_EXE_notes_diesel"),
    env!("CARGO_BIN_EXE_notes_seaorm"),
];

#[tokio::test]
async fn notes_without_configuration_start_a_local_lakebase_with_a_login_page() {
    for program in NOTES {
        let path = std::env::var("PATH").expect("a path");
        let notes = Open::start(program, vec![("PATH".to_owned(), path)]).await;
        let page = notes.send("GET /", "").await;
        assert!(page.starts_with("HTTP/1.1 303"), "{program}: {page}");
        let page = notes.send("GET /login", "").await;
        assert!(page.contains("bo@example.com"), "{program}: {page}");
        let response = notes.send("POST /login", "person=bo%40example.com").await;
        let cookie = "set-cookie: person=bo@example.com";
        assert!(response.contains(cookie), "{response}");
        notes.interrupt().await;
    }
}

#[tokio::test]
async fn notes_on_a_configured_lakebase_have_no_login_page() {
    for program in NOTES {
        let local = LocalLakebase::start().await.expect("a local Lakebase");
        let notes = Open::start(program, local.env()).await;
        for (request, status) in [("GET /", "HTTP/1.1 401"), ("GET /login", "HTTP/1.1 404")] {
            let response = notes.send(request, "").await;
            assert!(response.starts_with(status), "{program}: {response}");
        }
        notes.interrupt().await;
    }
}
