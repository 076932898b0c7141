//! TLS always verifies the name and the chain of the server's certificate.

use lakebase_core::config::TlsMode;
use lakebase_core::{Config, Lakebase};
use lakebase_tests::{lakebase_with, local, session, soon};

#[tokio::test]
async fn an_unknown_authority_is_rejected_before_the_token_is_sent() {
    let local = local().await;
    for mode in ["require", "prefer", "verify-ca", "verify-full"] {
        // On loopback, `prefer` may fall back to plaintext.
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
async fn a_host_name_that_is_not_in_the_certificate_is_rejected() {
    let local = local().await;
    let changes = [("PGHOST", "db.example.com"), ("PGHOSTADDR", "127.0.0.1")];
    let lakebase = lakebase_with(&local, &changes);
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
async fn pghostaddr_does_not_replace_the_name_in_the_handshake() {
    let local = local().await;
    let changes = [
        ("PGHOST", "ep-local-ro.localhost"),
        ("PGHOSTADDR", "127.0.0.1"),
    ];
    let lakebase = lakebase_with(&local, &changes);
    let client = session(&lakebase).await;
    // The gateway recognises the read-only host by its name.
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
