//! The server is verified, always: name and chain.

use lakebase_core::config::TlsMode;
use lakebase_core::{Config, Lakebase};
use lakebase_tests::{lakebase_with, local, soon, vars};

#[tokio::test]
async fn an_unknown_authority_is_refused_before_the_token_is_sent() {
    let local = local().await;
    for mode in ["require", "prefer", "verify-ca", "verify-full"] {
        // Loopback may go in clear with `prefer`; the token is safe there.
        let lakebase = lakebase_with(&local, &[("PGSSLROOTCERT", "system"), ("PGSSLMODE", mode)]);
        let error = soon(lakebase.connect()).await.map(drop).expect_err(mode);
        if mode != "prefer" {
            assert!(
                error.chain().contains("UnknownIssuer"),
                "{mode}: {}",
                error.chain()
            );
            assert!(
                error.to_string().contains("PGSSLROOTCERT"),
                "{mode}: {error}"
            );
            assert!(!error.is_transient(), "{mode}: {error}");
        }
    }
    let counters = local.counters();
    assert_eq!(
        (counters.logins, counters.refused),
        (0, 0),
        "the gateway saw no login"
    );
}

#[tokio::test]
async fn an_unknown_authority_is_refused_by_seaorm_as_well() {
    let local = local().await;
    let lakebase = lakebase_with(&local, &[("PGSSLROOTCERT", "system")]);
    let error = soon(lakebase_seaorm::connect(&lakebase))
        .await
        .map(drop)
        .expect_err("refused");
    assert!(
        error.to_string().contains("no trusted TLS"),
        "{}",
        error.chain()
    );
    assert_eq!(local.counters().logins, 0);
}

#[tokio::test]
async fn another_name_than_the_certificates_is_refused() {
    let local = local().await;
    let vars = vars(
        &local,
        &[("PGHOST", "db.example.com"), ("PGHOSTADDR", "127.0.0.1")],
    );
    let lakebase = Lakebase::new(Config::from_vars(vars).expect("a config")).expect("a handle");
    let error = soon(lakebase.connect())
        .await
        .map(drop)
        .expect_err("another name");
    assert!(
        error.chain().contains("not valid for name"),
        "{}",
        error.chain()
    );
}

#[tokio::test]
async fn an_address_does_not_replace_the_name() {
    let local = local().await;
    let vars = vars(
        &local,
        &[
            ("PGHOST", "ep-local-ro.localhost"),
            ("PGHOSTADDR", "127.0.0.1"),
        ],
    );
    let lakebase = Lakebase::new(Config::from_vars(vars).expect("a config")).expect("a handle");
    let (client, connection) = soon(lakebase.connect()).await.expect("a login");
    tokio::spawn(connection);
    // The gateway tells the read-only host by its name alone.
    let row = client
        .query_one("SHOW transaction_read_only", &[])
        .await
        .expect("an answer");
    assert_eq!(row.get::<_, String>(0), "on");
}

#[tokio::test]
async fn a_server_without_tls_gets_no_password() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let server = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        let (mut socket, _) = listener.accept().await.expect("a client");
        let mut request = [0; 8];
        socket
            .read_exact(&mut request)
            .await
            .expect("a request for TLS");
        socket.write_all(b"N").await.expect("refused");
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest).await;
        rest
    });
    let config = Config::builder()
        .host("127.0.0.1")
        .port(port)
        .user("app")
        .password("hush-hush")
        .tls_mode(TlsMode::Verify)
        .build()
        .expect("a configuration");
    let lakebase = Lakebase::new(config).expect("a handle");
    let error = soon(lakebase.connect())
        .await
        .map(drop)
        .expect_err("no TLS");
    assert!(error.chain().contains("TLS"), "{}", error.chain());
    assert_eq!(
        soon(server).await.expect("no panic"),
        b"",
        "nothing more was sent"
    );
}
