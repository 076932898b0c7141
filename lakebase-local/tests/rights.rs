//! Privileges of roles: those of the platform, and no access to the files and programs of this machine.

#![allow(clippy::expect_used)] // a test fails by panicking

mod support;

use lakebase_local::{Cut, LocalLakebase};
use support::{Vars, as_owner, sqlstate};
use tokio_postgres::Client;

const DATABASE: &str = "databricks_postgres";

async fn denied(client: &Client, sql: &str) {
    let error = client.batch_execute(sql).await.expect_err(sql);
    let state = sqlstate(&error);
    // Denied, or no such role.
    assert!(["42501", "42704"].contains(&&*state), "{sql}: {error:?}");
}

async fn is_superuser(local: &LocalLakebase, role: &str) -> bool {
    let client = as_owner(local, DATABASE).await;
    let sql = "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = $1";
    let row = client.query_one(sql, &[&role]).await.expect("an answer");
    row.get(0)
}

#[tokio::test]
async fn a_service_principal_creates_schemas_and_nothing_in_public() {
    let local = LocalLakebase::start().await.expect("started");
    let vars = Vars::of(&local);
    let copied = local.scratch_database().await.expect("a copy");
    let owner = as_owner(&local, DATABASE).await;
    let run = async |sql: &str| owner.batch_execute(sql).await.expect("the owner may");
    run("CREATE TABLE public.of_the_owner (id INT)").await;
    run("CREATE DATABASE later").await;
    let principal = local.client_id();
    for database in [DATABASE, "later", &copied] {
        let client = vars.as_service_principal(database).await;
        denied(&client, "CREATE TABLE public.mine (id INT)").await;
        denied(&client, "CREATE TABLE mine (id INT)").await;
        if database == "later" {
            // It has no privileges in other databases.
            denied(&client, "CREATE SCHEMA app").await;
            continue;
        }
        let sql =
            "CREATE SCHEMA app; CREATE TABLE app.mine (id INT); INSERT INTO app.mine VALUES (1)";
        client.batch_execute(sql).await.expect("its own schema");
        if database == DATABASE {
            denied(&client, "SELECT * FROM public.of_the_owner").await;
        }
        let sql = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace \
                   AND relowner = $1::text::regrole";
        let quoted = format!("\"{principal}\"");
        let row = client.query_one(sql, &[&quoted]).await.expect("an answer");
        assert_eq!(row.get::<_, i64>(0), 0);
    }
    local
        .create_native_role("native", "a password")
        .await
        .expect("a role");
    let native = vars.log_in("native", "a password", DATABASE).await;
    denied(
        &native.expect("it logs in"),
        "CREATE TABLE public.mine (id INT)",
    )
    .await;
}

#[tokio::test]
async fn no_grant_gives_access_to_files_or_programs_of_the_server() {
    let local = LocalLakebase::start().await.expect("started");
    let vars = Vars::of(&local);
    let owner = as_owner(&local, DATABASE).await;
    let principal = vars.as_service_principal(DATABASE).await;
    let roles = [
        "pg_execute_server_program",
        "pg_read_server_files",
        "pg_write_server_files",
    ];
    for role in roles {
        for member in [local.user(), local.client_id()] {
            let sql = format!("GRANT {role} TO \"{member}\" WITH ADMIN OPTION");
            denied(&owner, &sql).await;
            denied(&principal, &sql).await;
        }
        let helper = format!("CREATE ROLE helper_{role} LOGIN IN ROLE {role}");
        denied(&owner, &helper).await;
    }
    // Other roles that the owner can grant, before Postgres 16 to any role.
    for role in [
        "pg_monitor",
        "pg_read_all_data",
        "pg_write_all_data",
        "databricks_superuser",
    ] {
        let sql = format!(
            "GRANT {role} TO \"{}\", \"{}\"",
            local.user(),
            local.client_id()
        );
        let _ = owner.batch_execute(&sql).await;
    }
    for client in [&owner, &principal] {
        for sql in [
            "CREATE TEMP TABLE lines (line TEXT); COPY lines FROM PROGRAM 'id'",
            "COPY (SELECT 1) TO PROGRAM 'cat'",
            "CREATE TEMP TABLE lines (line TEXT); COPY lines FROM '/etc/passwd'",
            "COPY (SELECT 1) TO '/tmp/lakebase-local-test'",
            "SELECT pg_read_file('/etc/passwd')",
            "SELECT pg_read_binary_file('/etc/passwd')",
            "SELECT pg_ls_dir('/')",
            "SELECT pg_stat_file('/etc/passwd')",
            "SELECT lo_import('/etc/passwd')",
            "SELECT lo_export(1, '/tmp/lakebase-local-test')",
            "ALTER SYSTEM SET archive_command = 'id'",
            "CREATE FUNCTION f() RETURNS INT LANGUAGE C AS 'libc', 'getpid'",
            "ALTER ROLE lakebase_admin PASSWORD 'x'",
            "SET ROLE lakebase_admin",
            "GRANT lakebase_admin TO CURRENT_USER",
        ] {
            denied(client, sql).await;
        }
    }
}

/// A function that makes a role superuser if a superuser calls it.
fn trap(role: &str) -> String {
    format!(
        "CREATE SCHEMA trap; GRANT USAGE ON SCHEMA trap TO PUBLIC; \
         CREATE FUNCTION trap.spring() RETURNS BOOLEAN LANGUAGE plpgsql AS $$ BEGIN \
         EXECUTE 'ALTER ROLE \"{role}\" SUPERUSER'; RETURN true; \
         EXCEPTION WHEN insufficient_privilege THEN RETURN true; END $$; "
    )
}

#[tokio::test]
async fn objects_that_shadow_catalogs_do_not_run_as_the_superuser() {
    let local = LocalLakebase::start().await.expect("started");
    let vars = Vars::of(&local);
    let run = async |client: &Client, sql: &str| client.batch_execute(sql).await.expect("it may");

    // A view that shadows a catalog, which a function of the superuser reads.
    let owner = as_owner(&local, DATABASE).await;
    run(&owner, "CREATE EXTENSION IF NOT EXISTS databricks_auth").await;
    let principal = vars.as_service_principal(DATABASE).await;
    run(&principal, &trap(local.client_id())).await;
    run(
        &principal,
        "CREATE TEMP VIEW pg_roles AS SELECT oid, rolname, true AS rolsuper, true AS rolcreaterole \
         FROM pg_catalog.pg_roles WHERE trap.spring() AND rolname = session_user",
    )
    .await;
    local.add_user("known@example.com");
    drop(as_owner(&local, DATABASE).await);
    let create = "SELECT databricks_create_role('known@example.com', 'USER')";
    denied(&principal, create).await;
    assert!(!is_superuser(&local, local.client_id()).await);

    // A function that shadows one that the superuser calls, by the database's search path.
    run(
        &principal,
        "CREATE FUNCTION trap.pg_terminate_backend(INT) RETURNS BOOLEAN LANGUAGE sql \
         AS 'SELECT trap.spring()'",
    )
    .await;
    let sql = format!("ALTER DATABASE {DATABASE} SET search_path = trap, pg_catalog");
    run(&owner, &sql).await;
    local.cut_sessions(Cut::Message).await.expect("cut");
    assert!(!is_superuser(&local, local.client_id()).await);

    // A table that replaces one to which the superuser writes.
    let owner = as_owner(&local, DATABASE).await;
    run(&owner, "CREATE DATABASE bare TEMPLATE template0").await;
    let bare = as_owner(&local, "bare").await;
    run(&bare, &trap(local.user())).await;
    run(
        &bare,
        &format!("ALTER DATABASE bare SET role = '{}'", local.user()),
    )
    .await;
    run(
        &bare,
        "CREATE SCHEMA lakebase_local; GRANT USAGE ON SCHEMA lakebase_local TO PUBLIC; \
         CREATE TABLE lakebase_local.identity (name TEXT PRIMARY KEY, kind TEXT); \
         GRANT ALL ON lakebase_local.identity TO PUBLIC; \
         CREATE FUNCTION lakebase_local.spring() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN \
         PERFORM set_config('role', 'lakebase_admin', true); PERFORM trap.spring(); RETURN NEW; END $$; \
         CREATE TRIGGER spring BEFORE INSERT ON lakebase_local.identity \
         FOR EACH ROW EXECUTE FUNCTION lakebase_local.spring()",
    )
    .await;
    // The gateway writes new identities into a database at its next login.
    local.add_user("new@example.com");
    drop(as_owner(&local, "bare").await);
    assert!(!is_superuser(&local, local.user()).await);
}

#[tokio::test]
async fn a_native_role_that_is_created_again_in_sql_cannot_log_in() {
    let local = LocalLakebase::start().await.expect("started");
    local
        .create_native_role("app", "a password")
        .await
        .expect("a role");
    let vars = Vars::of(&local);
    drop(
        vars.log_in("app", "a password", DATABASE)
            .await
            .expect("it logs in"),
    );
    local
        .sql("DROP OWNED BY app; DROP ROLE app; CREATE ROLE app LOGIN PASSWORD 'another'")
        .await
        .expect("made again");
    for password in ["", "wrong", "a password", "another"] {
        let outcome = vars.log_in("app", password, DATABASE).await;
        assert!(outcome.is_err(), "{password:?}: it has no password here");
    }
}
