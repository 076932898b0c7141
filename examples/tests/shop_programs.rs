//! The four programs of the shop: each listens on `SHOP_ADDRESS`, accepts an order, and ends at Ctrl-C.

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
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(program.stdout.take().expect("piped")).lines();
        let line = soon(lines.next_line()).await.expect("text");
        let line = line.expect("it prints its address");
        let address = line
            .strip_prefix("the shop is open at http://")
            .and_then(|rest| rest.strip_suffix('/'))
            .unwrap_or_else(|| panic!("{line:?}"));
        Self {
            address: address.to_owned(),
            program,
        }
    }

    /// Returns status line, headers and body.
    async fn ask(&self, request: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).await.expect("it listens");
        let length = body.len();
        let text = format!(
            "{request} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\
             content-type: application/x-www-form-urlencoded\r\ncontent-length: {length}\r\n\r\n{body}",
            self.address
        );
        stream.write_all(text.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        let read = soon(stream.read_to_string(&mut answer)).await;
        read.expect("an answer");
        answer
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

async fn takes_an_order(program: &str, vars: Vec<(String, String)>) {
    let shop = Open::start(program, vars).await;
    let taken = shop.ask("POST /", "name=Ann&item=tea&price=12.5").await;
    assert!(taken.starts_with("HTTP/1.1 303"), "{program}: {taken}");
    let page = shop.ask("GET /", "").await;
    let row = "<td>Ann</td><td>tea</td><td>12.50</td>";
    assert!(page.contains(row), "{program}: {page}");
    shop.interrupt().await;
}

#[tokio::test]
async fn the_swapped_shops_run_on_a_local_lakebase() {
    for program in [
        env!("CARGO_BIN_EXE_shop_diesel"),
        env!("CARGO_BIN_EXE_shop_seaorm"),
    ] {
        let local = LocalLakebase::start().await.expect("a local Lakebase");
        takes_an_order(program, local.env()).await;
        assert_eq!(local.counters().refused, 0);
    }
}

#[tokio::test]
async fn before_the_swap_they_run_on_a_plain_postgres() {
    for program in [
        env!("CARGO_BIN_EXE_shop_diesel_before"),
        env!("CARGO_BIN_EXE_shop_seaorm_before"),
    ] {
        let local = LocalLakebase::start().await.expect("a local Lakebase");
        // The plain Postgres server inside.
        let host = local.dir().display().to_string().replace('/', "%2F");
        let url = format!("postgresql://lakebase_admin@{host}/postgres");
        takes_an_order(program, vec![("DATABASE_URL".to_owned(), url)]).await;
    }
}
