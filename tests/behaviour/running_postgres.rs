//! A local Lakebase on a Postgres server that already runs leaves that server as it was.

use lakebase_local::LocalLakebase;
use lakebase_tests::{lakebase, local, session, soon};

use crate::native_password::native;

/// Returns the databases and roles of a server.
async fn inventory(server: &LocalLakebase) -> Vec<String> {
    let client = session(&lakebase(server)).await;
    let sql = "SELECT datname::text FROM pg_database UNION ALL SELECT rolname::text FROM pg_roles ORDER BY 1";
    let rows = client.query(sql, &[]).await.expect("an answer");
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn a_running_server_is_left_as_it_was() {
    let server = local().await;
    let socket = std::fs::read_link(server.dir().join(".s.PGSQL.5432")).expect("a link");
    let folder = socket.parent().expect("a folder");
    // As on most servers, all roles except the superuser need a password.
    let hba = "local all lakebase_admin trust\nlocal all all scram-sha-256\n";
    let before = inventory(&server).await;
    let old = std::fs::read_to_string(folder.join("data/pg_hba.conf")).expect("readable");
    std::fs::write(folder.join("data/pg_hba.conf"), hba).expect("written");
    server
        .sql("SELECT pg_reload_conf()")
        .await
        .expect("reloaded");

    let host = folder.display().to_string().replace('/', "%2F");
    let url = format!("postgresql://lakebase_admin@{host}/postgres");
    let borrower = LocalLakebase::builder()
        .postgres_url(url)
        .start()
        .await
        .expect("started");
    borrower
        .sql("CREATE TABLE seeds (id INT)")
        .await
        .expect("a table of its own");
    borrower
        .create_native_role("native", "p@ss")
        .await
        .expect("a role");
    let (client, connection) = soon(lakebase(&borrower).connect()).await.expect("a login");
    let session = tokio::spawn(connection);
    let row = client
        .query_one("SELECT current_user::text", &[])
        .await
        .expect("an answer");
    assert_eq!(row.get::<_, String>(0), borrower.client_id());
    drop(client);
    session.await.expect("no panic").expect("a clean end");
    for (password, works) in [("p@ss", true), ("wrong", false)] {
        let native = native(&borrower, password);
        assert_eq!(soon(native.connect()).await.is_ok(), works, "{password}");
    }
    borrower.scratch_database().await.expect("a copy");
    borrower.stop().await;

    std::fs::write(folder.join("data/pg_hba.conf"), old).expect("written");
    server
        .sql("SELECT pg_reload_conf()")
        .await
        .expect("reloaded");
    assert_eq!(inventory(&server).await, before);
}

#[tokio::test]
async fn the_error_of_an_unusable_url_does_not_show_its_password() {
    for (url, expected) in [
        (
            "postgresql://u:hush-hush@db.example.com/postgres",
            "on this machine",
        ),
        (
            "postgresql://u:hush-hush@127.0.0.1:1/postgres",
            "cannot reach",
        ),
        ("hush-hush", "is not a Postgres URL"),
    ] {
        let started = LocalLakebase::builder().postgres_url(url).start().await;
        let error = started.map(drop).expect_err(url);
        let text = format!("{error} {error:?}");
        assert!(
            text.contains(expected) && !text.contains("hush-hush"),
            "{text}"
        );
    }
}
