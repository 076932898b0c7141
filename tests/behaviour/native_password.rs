//! Native passwords work with the same pools and errors, and without mints.

use diesel_async::RunQueryDsl as _;
use lakebase_core::config::TlsMode;
use lakebase_core::{Config, Lakebase};
use lakebase_local::LocalLakebase;
use lakebase_tests::{local, soon};

const PASSWORD: &str = "p@ss word/%";

/// Returns a handle for the role `native`.
pub(crate) fn native(local: &LocalLakebase, password: &str) -> Lakebase {
    let config = Config::builder()
        .host("localhost")
        .port(local.postgres_port())
        .user("native")
        .password(password)
        .tls_mode(TlsMode::Verify)
        .root_certificates(local.ca_file())
        .build()
        .expect("a configuration");
    Lakebase::new(config).expect("a handle")
}

#[tokio::test]
async fn both_orms_log_in_with_a_native_password_and_nothing_is_minted() {
    let local = local().await;
    local
        .create_native_role("native", PASSWORD)
        .await
        .expect("a role");
    let lakebase = native(&local, PASSWORD);
    let pool = lakebase_diesel::bb8::connect(&lakebase)
        .await
        .expect("a pool");
    let mut connection = pool.get().await.expect("a connection");
    diesel::sql_query("SELECT 1")
        .execute(&mut connection)
        .await
        .expect("an answer");
    let db = lakebase_seaorm::connect(&lakebase)
        .await
        .expect("a connection");
    db.ping().await.expect("an answer");
    assert_eq!((local.counters().minted, local.counters().requests), (0, 0));
    assert_eq!(lakebase.stats().logins.succeeded.count, 2);
}

#[tokio::test]
async fn sslrootcert_in_a_url_turns_on_tls() {
    let local = local().await;
    local
        .create_native_role("native", "p")
        .await
        .expect("a role");
    let (port, ca) = (local.postgres_port(), local.ca_file().display());
    let url = format!("postgresql://native:p@localhost:{port}/databricks_postgres");
    for (url, works) in [(format!("{url}?sslrootcert={ca}"), true), (url, false)] {
        let lakebase = Lakebase::new(Config::from_url(&url).expect("a URL")).expect("a handle");
        match soon(lakebase.connect()).await.map(drop) {
            Ok(()) => assert!(works, "plaintext was accepted"),
            Err(error) => assert!(!works && error.to_string().contains("sslmode"), "{error}"),
        }
    }
}

#[tokio::test]
async fn a_wrong_password_fails_at_once_after_one_login() {
    let local = local().await;
    local
        .create_native_role("native", PASSWORD)
        .await
        .expect("a role");
    let lakebase = native(&local, "wrong");
    let error = soon(lakebase.connect()).await.map(drop).expect_err("wrong");
    assert!(error.is_login() && !error.is_transient(), "{error}");
    assert!(error.to_string().contains("PGPASSWORD"), "{error}");
    assert_eq!(local.counters().refused, 1);
}
