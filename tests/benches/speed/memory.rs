//! Memory of a proxy's sessions and of users' pools, and their CPU time while they are idle.

use std::io::{Read as _, Write as _};
use std::net::TcpStream as BlockingStream;
use std::sync::Arc;
use std::time::Duration;

use diesel_async::RunQueryDsl as _;
use lakebase_core::User;
use lakebase_core::proxy::{Builder, Clients};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::Table;
use crate::platform::{Other, Platform, Vars, answer, lakebase_with};

const SESSIONS: usize = 1_000;
const USERS: usize = 64;
/// The number before the first reading, so that shared memory does not count.
const FIRST: usize = 8;
const IDLE: Duration = Duration::from_secs(5);
const EACH: &str = "kB each";
const CPU: &str = "CPU, ms in 5 s";
const PROXY: &str = "session of a proxy";
const TLS: &str = "TLS connection by itself";
const POOL: &str = "user pool with a connection";
const GOAL_KB: f64 = 40.0;

pub fn measure(rounds: u32) -> Vec<Table> {
    let rounds = rounds.min(2);
    let mut memory = Table::new("memory", "kB", &[EACH]);
    let mut idle = Table::new("idle", "ms", &[CPU]);
    for _ in 0..rounds {
        let mut server = Other::start(&["server"], &Vars::new());
        let vars = [
            ("PGHOST", "localhost".to_owned()),
            ("PGPORT", server.line()),
            ("PGSSLROOTCERT", server.line()),
            ("PGUSER", "app".to_owned()),
            ("PGPASSWORD", "a-password".to_owned()),
            ("PGDATABASE", "app".to_owned()),
        ];
        let vars: Vars = vars.map(|(name, value)| (name.to_owned(), value)).into();

        let mut proxy = Other::start(&["sessions"], &vars);
        let address = proxy.line();
        let mut held: Vec<_> = (0..FIRST).map(|_| session(&address)).collect();
        let before = proxy.resident_kb();
        held.extend((0..SESSIONS).map(|_| session(&address)));
        let kb = proxy.resident_kb() - before;
        memory.add(PROXY, EACH, kb / SESSIONS as f64);
        idle.add("1,000 sessions of a proxy", CPU, cpu_while_idle(&proxy));
        drop(held);
        drop(proxy);

        let address = format!("localhost:{}", vars["PGPORT"]);
        let mut tls = Other::start(&["tls", &address, &vars["PGSSLROOTCERT"]], &Vars::new());
        tls.ask(&FIRST.to_string());
        let before = tls.resident_kb();
        tls.ask(&SESSIONS.to_string());
        let kb = tls.resident_kb() - before;
        memory.add(TLS, EACH, kb / SESSIONS as f64);
        drop(tls);

        let mut platform = Platform::start();
        let mut users = Other::start(&["users"], &platform.vars);
        let mut before = 0.0;
        for number in 0..FIRST + USERS {
            if number == FIRST {
                before = users.resident_kb();
            }
            let name = format!("user-{number}@example.com");
            let token = platform.add_user(&name);
            users.ask(&format!("{name} {token}"));
        }
        let kb = users.resident_kb() - before;
        memory.add(POOL, EACH, kb / USERS as f64);
        idle.add("64 user pools", CPU, cpu_while_idle(&users));
    }
    let [proxy, tls] = [PROXY, TLS].map(|row| crate::figures::at(memory.figures(row, EACH), 0.5));
    memory.fact(
        "session of a proxy besides its TLS, kB",
        proxy - tls,
        Some(GOAL_KB),
    );
    for row in ["1,000 sessions of a proxy", "64 user pools"] {
        let most = crate::figures::at(idle.figures(row, CPU), 0.5);
        idle.fact(row, most, Some(0.0));
    }
    vec![memory, idle]
}

/// Measures after a second, in which earlier work finishes.
fn cpu_while_idle(process: &Other) -> f64 {
    std::thread::sleep(Duration::from_secs(1));
    let before = process.cpu();
    std::thread::sleep(IDLE);
    crate::places::millis(process.cpu() - before)
}

// Minimal clients and servers.

fn startup() -> Vec<u8> {
    let body = b"\0\x03\0\0user\0app\0database\0app\0\0";
    let length = u32::try_from(body.len() + 4).expect("short");
    [&length.to_be_bytes()[..], body].concat()
}

const QUERY: &[u8] = b"Q\0\0\0\x0dSELECT 1\0";

/// Opens a session of the proxy and runs a query.
fn session(address: &str) -> BlockingStream {
    let mut stream = BlockingStream::connect(address).expect("the proxy");
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("set");
    stream.write_all(&startup()).expect("sent");
    until_ready(&mut stream);
    stream.write_all(QUERY).expect("sent");
    until_ready(&mut stream);
    stream
}

fn until_ready(stream: &mut BlockingStream) {
    loop {
        let mut head = [0; 5];
        stream.read_exact(&mut head).expect("a message");
        let mut body = vec![0; length(&head)];
        stream.read_exact(&mut body).expect("a message");
        assert_ne!(head[0], b'E', "{}", String::from_utf8_lossy(&body));
        if head[0] == b'Z' {
            return;
        }
    }
}

fn length(head: &[u8; 5]) -> usize {
    u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize - 4
}

async fn message(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head).await?;
    let mut body = vec![0; length(&head)];
    stream.read_exact(&mut body).await?;
    Ok((head[0], body))
}

/// A server with TLS that accepts every password.
pub fn server() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, made.cert.pem()).expect("written");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a certificate");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let runtime = crate::runtime(2);
    let listener = runtime
        .block_on(TcpListener::bind("127.0.0.1:0"))
        .expect("a port");
    println!("{}", listener.local_addr().expect("an address").port());
    println!("{}", file.display());
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            // A client that closes its connection is no error.
            tokio::spawn(async move { serve(stream, acceptor).await.ok() });
        }
    });
    answer(|_| String::new());
}

async fn serve(mut stream: TcpStream, acceptor: TlsAcceptor) -> std::io::Result<()> {
    stream.read_exact(&mut [0; 8]).await?;
    stream.write_all(b"S").await?;
    let mut stream = acceptor.accept(stream).await?;
    let length = stream.read_u32().await?;
    stream.read_exact(&mut vec![0; length as usize - 4]).await?;
    stream.write_all(b"R\0\0\0\x08\0\0\0\x03").await?;
    stream.flush().await?;
    message(&mut stream).await?;
    stream
        .write_all(b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x01\0\0\0\x01Z\0\0\0\x05I")
        .await?;
    stream.flush().await?;
    loop {
        if let (b'Q', _) = message(&mut stream).await? {
            stream
                .write_all(b"C\0\0\0\x0dSELECT 0\0Z\0\0\0\x05I")
                .await?;
            stream.flush().await?;
        }
    }
}

/// A process with a proxy.
pub fn sessions() {
    let runtime = crate::runtime(2);
    let vars: Vars = std::env::vars().collect();
    let proxy = Builder::new(&lakebase_with(&vars, &[]))
        .listen_on(([127, 0, 0, 1], 0).into())
        .clients(Clients::Anyone)
        .start();
    let proxy = runtime.block_on(proxy).expect("a proxy");
    println!("{}", proxy.address().expect("a port"));
    answer(|_| String::new());
}

/// A process with sessions that have only TLS.
pub fn bare_tls(address: &str, ca_file: &str) {
    let runtime = crate::runtime(2);
    let config = Arc::new(crate::places::tls(ca_file));
    let mut held = Vec::new();
    answer(|count| {
        for _ in 0..count.parse().expect("a number") {
            let opened = runtime.block_on(open_tls(address, &config));
            held.push(opened.expect("a session"));
        }
        String::new()
    });
}

async fn open_tls(
    address: &str,
    config: &Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"\0\0\0\x08\x04\xd2\x16\x2f").await?;
    stream.read_u8().await?;
    let name = ServerName::try_from("localhost").expect("a name");
    let mut stream = TlsConnector::from(Arc::clone(config))
        .connect(name, stream)
        .await?;
    say(&mut stream, &startup()).await?;
    message(&mut stream).await?;
    say(&mut stream, b"p\0\0\0\x0aa-pas\0").await?;
    while message(&mut stream).await?.0 != b'Z' {}
    say(&mut stream, QUERY).await?;
    while message(&mut stream).await?.0 != b'Z' {}
    Ok(stream)
}

async fn say(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// A process with a pool for each user.
pub fn users() {
    let runtime = crate::runtime(2);
    let vars: Vars = std::env::vars().collect();
    let lakebase = lakebase_with(&vars, &[]);
    let pools = lakebase_diesel::bb8::user_pools(&lakebase)
        .connections_per_user(1)
        .max_connections(100)
        .build();
    answer(|user| {
        let (name, token) = user.split_once(' ').expect("a name and a token");
        runtime.block_on(async {
            let pool = pools.get(&User::new(name, token)).await.expect("a pool");
            let mut connection = pool.get().await.expect("a connection");
            let one = diesel::sql_query("SELECT 1").execute(&mut connection).await;
            one.expect("an answer");
        });
        String::new()
    });
}
