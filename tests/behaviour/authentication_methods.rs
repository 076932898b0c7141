//! The proxy authenticates to a Postgres server with TLS as libpq does: with a password in clear, MD5, or SCRAM with channel
//! binding.

use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use lakebase_core::config::TlsMode;
use lakebase_core::{Config, Lakebase};
use lakebase_tests::soon;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::NoTls;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Postgres refuses to run as root.
const NOBODY: u32 = 65534;
const PASSWORD: &str = "p@ss wörd";

/// A Postgres server with TLS.
struct Server {
    _server: Running,
    folder: tempfile::TempDir,
    port: u16,
    certificate: rcgen::CertifiedKey<rcgen::KeyPair>,
}

impl Server {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let is_root = nix::unistd::geteuid().is_root();
        let path = folder.path().to_owned();
        let give = |path: &Path| {
            if is_root {
                chown(path, Some(NOBODY), Some(NOBODY)).expect("given");
            }
        };
        give(&path);
        let bin = Command::new("pg_config").arg("--bindir").output();
        let bin = String::from_utf8(bin.expect("pg_config").stdout).expect("text");
        let bin = PathBuf::from(bin.trim());
        let run = |program: &str| {
            let mut command = Command::new(bin.join(program));
            command.current_dir(&path).env_clear().stdin(Stdio::null());
            if is_root {
                std::os::unix::process::CommandExt::uid(&mut command, NOBODY);
            }
            command
        };
        let data = path.join("data");
        let made = run("initdb")
            .args(["--no-sync", "--auth=trust", "--username=postgres", "-D"])
            .arg(&data)
            .output()
            .expect("initdb runs");
        assert!(made.status.success(), "{made:?}");
        let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
        let certificate = certificate.expect("a certificate");
        for (name, text) in [
            ("server.crt", certificate.cert.pem()),
            ("server.key", certificate.signing_key.serialize_pem()),
            (
                "pg_hba.conf",
                "local all all trust\nhostssl all clear all password\n\
                 hostssl all md5 all md5\nhostssl all all all scram-sha-256\n"
                    .to_owned(),
            ),
        ] {
            let file = data.join(name);
            std::fs::write(&file, text).expect("written");
            let mode = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(&file, mode).expect("set");
            give(&file);
        }
        // Another process can take the port first.
        for _ in 0..10 {
            let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
            let free = free.and_then(|free| free.local_addr());
            let port = free.expect("a port").port();
            let child = run("postgres")
                .args(["-F", "-c", "ssl=on", "-c", "listen_addresses=127.0.0.1"])
                .args(["-c", &format!("port={port}"), "-k"])
                .arg(&path)
                .arg("-D")
                .arg(&data)
                .stderr(Stdio::piped())
                .spawn();
            let mut server = Running(child.expect("postgres runs"));
            // The log ends if the server fails to start.
            let log = server.0.stderr.take().expect("a log");
            let mut log = BufReader::new(log).lines().map_while(Result::ok);
            if !log.any(|line| line.contains("ready to accept connections")) {
                continue;
            }
            let mut admin = tokio_postgres::Config::new();
            admin.host_path(&path).port(port).user("postgres");
            let (client, connection) = admin.connect(NoTls).await.expect("a login");
            tokio::spawn(connection);
            let roles = format!(
                "CREATE ROLE scram LOGIN PASSWORD '{PASSWORD}'; CREATE ROLE clear LOGIN PASSWORD '{PASSWORD}'; \
                 SET password_encryption = 'md5'; CREATE ROLE md5 LOGIN PASSWORD '{PASSWORD}'"
            );
            client.batch_execute(&roles).await.expect("roles");
            return Self {
                _server: server,
                folder,
                port,
                certificate,
            };
        }
        panic!("every port was taken");
    }

    fn lakebase(&self, user: &str, port: u16, roots: &str) -> Lakebase {
        let file = self.folder.path().join("roots.pem");
        std::fs::write(&file, roots).expect("written");
        let config = Config::builder()
            .host("localhost")
            .port(port)
            .user(user)
            .database("postgres")
            .password(PASSWORD)
            .tls_mode(TlsMode::Verify)
            .root_certificates(file)
            .build();
        Lakebase::new(config.expect("a configuration")).expect("a handle")
    }

    fn certificate(&self) -> String {
        self.certificate.cert.pem()
    }
}

/// Ends the server when it is dropped, so that it removes its shared memory.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let pid = i32::try_from(self.0.id()).map(Pid::from_raw);
        let _ = pid.map(|pid| kill(pid, Signal::SIGQUIT));
        let _ = self.0.wait();
    }
}

async fn user_of(lakebase: &Lakebase) -> Result<String, tokio_postgres::Error> {
    let proxy = lakebase.proxy().await.expect("a proxy");
    let (client, connection) = soon(tokio_postgres::connect(proxy.url(), NoTls)).await?;
    tokio::spawn(connection);
    let row = client.query_one(
        "SELECT session_user::text, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
        &[],
    );
    let row = row.await?;
    assert!(row.get::<_, bool>(1), "encrypted");
    Ok(row.get(0))
}

#[tokio::test]
async fn every_authentication_method_works_over_verified_tls() {
    let server = Server::start().await;
    for user in ["clear", "md5", "scram"] {
        let lakebase = server.lakebase(user, server.port, &server.certificate());
        assert_eq!(user_of(&lakebase).await.expect("a login"), user);
    }
    let unknown = server.lakebase("nobody-we-know", server.port, &server.certificate());
    let error = user_of(&unknown).await.expect_err("no role");
    let code = error.code().map(tokio_postgres::error::SqlState::code);
    assert_eq!(code, Some("28P01"), "{error}");
}

/// A man in the middle with another trusted certificate, who forwards all messages.
async fn man_in_the_middle(server: &Server) -> (u16, String) {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    let accepting = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], PrivateKeyDer::Pkcs8(key))
        .expect("a configuration");
    let mut roots = rustls::RootCertStore::empty();
    let known: CertificateDer<'static> = server.certificate.cert.der().clone();
    roots.add(known).expect("a root");
    let connecting = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let accepting = TlsAcceptor::from(Arc::new(accepting));
    let connecting = TlsConnector::from(Arc::new(connecting));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let to = server.port;
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (accepting, connecting) = (accepting.clone(), connecting.clone());
            tokio::spawn(async move {
                let mut request = [0; 8];
                client.read_exact(&mut request).await?;
                client.write_all(b"S").await?;
                let mut client = accepting.accept(client).await?;
                let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await?;
                server.write_all(&request).await?;
                server.read_u8().await?;
                let name = "localhost".try_into().expect("a name");
                let mut server = connecting.connect(name, server).await?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    (port, own.cert.pem())
}

#[tokio::test]
async fn a_scram_login_through_a_man_in_the_middle_fails() {
    let server = Server::start().await;
    let (port, certificate) = man_in_the_middle(&server).await;
    // Without SCRAM there is no channel binding, so the login works.
    let clear = server.lakebase("clear", port, &certificate);
    assert_eq!(user_of(&clear).await.expect("a login"), "clear");
    let bound = server.lakebase("scram", port, &certificate);
    let error = user_of(&bound).await.expect_err("channel binding");
    assert!(
        error.to_string().contains("channel binding")
            || format!("{error:?}").contains("channel binding"),
        "{error:?}"
    );
}
