//! The gateway behaves like Lakebase's, to good clients and to bad ones.

#![allow(clippy::expect_used)] // a test fails by panicking

mod support;

use std::time::Duration;

use lakebase_local::{Counters, LocalLakebase, LoginFault};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

async fn socket(local: &LocalLakebase) -> TcpStream {
    TcpStream::connect(("127.0.0.1", local.postgres_port()))
        .await
        .expect("accepted")
}

async fn answer(socket: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let reading = socket.read_to_end(&mut bytes);
    let _ = tokio::time::timeout(Duration::from_secs(20), reading)
        .await
        .expect("an end");
    bytes
}

#[tokio::test]
async fn plaintext_is_rejected_with_the_error_of_the_platform() {
    let local = LocalLakebase::start().await.expect("started");
    let mut socket = socket(&local).await;
    socket
        .write_all(b"\0\0\0\x0f\0\x03\0\0user\0a\0")
        .await
        .expect("sent");
    socket.shutdown().await.expect("sent");
    let _ = answer(&mut socket).await;
    let mut socket = TcpStream::connect(("127.0.0.1", local.postgres_port()))
        .await
        .expect("accepted");
    socket
        .write_all(b"\0\0\0\x10\0\x03\0\0user\0a\0\0")
        .await
        .expect("sent");
    let text = String::from_utf8_lossy(&answer(&mut socket).await).into_owned();
    assert!(text.contains("Invalid protocol version: 196608"), "{text}");
}

#[tokio::test]
async fn invalid_and_unresponsive_clients_do_not_affect_others() {
    let local = LocalLakebase::start().await.expect("started");
    for junk in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0xff; 64],
        &[0, 0, 0, 8, 4, 210, 22, 47, 1, 2, 3],
        b"\0",
    ] {
        let mut socket = socket(&local).await;
        let _ = socket.write_all(junk).await;
        let _ = socket.shutdown().await;
        answer(&mut socket).await;
    }
    // These say nothing and stay.
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(socket(&local).await);
    }
    let mut polite = socket(&local).await;
    polite
        .write_all(&[0, 0, 0, 8, 4, 210, 22, 47])
        .await
        .expect("a request for TLS");
    let mut reply = [0];
    polite.read_exact(&mut reply).await.expect("an answer");
    assert_eq!(&reply, b"S");
    assert_eq!(local.counters(), Counters::default());
}

#[tokio::test]
async fn gss_encryption_is_declined_and_tls_can_follow() {
    let local = LocalLakebase::start().await.expect("started");
    let mut socket = socket(&local).await;
    let mut reply = [0];
    socket
        .write_all(&[0, 0, 0, 8, 4, 210, 22, 48])
        .await
        .expect("a request for GSS");
    socket.read_exact(&mut reply).await.expect("an answer");
    assert_eq!(&reply, b"N");
    socket
        .write_all(&[0, 0, 0, 8, 4, 210, 22, 47])
        .await
        .expect("a request for TLS");
    socket.read_exact(&mut reply).await.expect("an answer");
    assert_eq!(&reply, b"S");
}

#[tokio::test]
async fn several_run_at_once_and_each_removes_its_folder() {
    let (first, second) = tokio::join!(LocalLakebase::start(), LocalLakebase::start());
    let (first, second) = (first.expect("started"), second.expect("started"));
    assert_ne!(first.postgres_port(), second.postgres_port());
    let folder = first.ca_file().parent().expect("a folder").to_owned();
    first.stop().await;
    assert!(!folder.exists());
    second
        .sql("SELECT 1")
        .await
        .expect("the other is not touched");
    let folder = second.ca_file().parent().expect("a folder").to_owned();
    drop(second);
    assert!(!folder.exists());
}

#[tokio::test]
async fn scratch_databases_are_copies() {
    let local = LocalLakebase::start().await.expect("started");
    local
        .sql("CREATE TABLE seeds (id INT); INSERT INTO seeds VALUES (1)")
        .await
        .expect("a table");
    let (first, second) = (
        local.scratch_database().await,
        local.scratch_database().await,
    );
    assert_ne!(first.expect("a copy"), second.expect("another"));
}

#[tokio::test]
async fn planned_faults_of_logins_are_counted_or_have_an_end() {
    let local = LocalLakebase::start().await.expect("started");
    let vars = support::Vars::of(&local);
    let token = vars.database_token(local.user_token()).await;
    let log_in = async || {
        vars.log_in(local.user(), &token, "databricks_postgres")
            .await
    };
    local.fail_logins_for(Duration::MAX, LoginFault::fresh_branch("28000"));
    for _ in 0..3 {
        let error = log_in().await.expect_err("rejected");
        let error = error.as_db_error().expect("an answer of the gateway");
        assert_eq!(error.code().code(), "28000");
        assert_eq!(error.message(), "External authorization failed");
    }
    // Counted faults come first, and end by themselves.
    local.fail_logins(1, LoginFault::refuse("57P03", "starting up"));
    let error = log_in().await.expect_err("rejected");
    assert_eq!(support::sqlstate(&error), "57P03");
    local.fail_logins_for(Duration::ZERO, LoginFault::fresh_branch("28000"));
    log_in().await.expect("the same token");
    local.fail_logins_for(Duration::MAX, LoginFault::Close);
    local.heal_logins();
    log_in().await.expect("healed");
}
