//! Roles and privileges, with the platform's rules.

use lakebase_core::admin::{Access, IdentityKind, Object, ObjectKind, Plan, Privilege};
use lakebase_core::{Config, Error, Lakebase};
use lakebase_local::{LocalLakebase, SignIn};
use lakebase_tests::{lakebase, local, service_principal, session, soon};
use tokio_postgres::Client;

/// The user who created the project.
pub(crate) fn owner(local: &LocalLakebase) -> Lakebase {
    let config = Config::from_vars(local.env_for(SignIn::Pat)).expect("a configuration");
    Lakebase::new(config).expect("a handle")
}

/// A schema of the owner with a table that has a sequence, and a function.
async fn deploy(client: &Client) {
    client
        .batch_execute(
            "CREATE SCHEMA IF NOT EXISTS app; \
             CREATE TABLE IF NOT EXISTS app.orders (id SERIAL PRIMARY KEY, item TEXT NOT NULL); \
             CREATE OR REPLACE FUNCTION app.twice(x INT) RETURNS INT LANGUAGE sql AS 'SELECT 2 * x'; \
             REVOKE ALL ON ALL ROUTINES IN SCHEMA app FROM PUBLIC",
        )
        .await
        .expect("deployed");
}

pub(crate) fn plan(lakebase: &Lakebase) -> Plan {
    Plan::new(lakebase.database())
}

async fn sqlstate(client: &Client, sql: &str) -> String {
    let error = client.batch_execute(sql).await.expect_err(sql);
    error
        .code()
        .map(|code| code.code().to_owned())
        .unwrap_or_default()
}

#[tokio::test]
async fn a_role_from_a_plan_logs_in_with_tokens_and_a_role_from_create_role_does_not() {
    let local = local().await;
    let owner = owner(&local);
    let (id, newcomer) = service_principal(&local, &[]);
    let error = soon(newcomer.connect())
        .await
        .map(drop)
        .expect_err("no role");
    assert!(
        error.to_string().contains("databricks_create_role"),
        "{error}"
    );

    let plan = plan(&owner).create_role(&id, IdentityKind::ServicePrincipal);
    soon(plan.apply(&owner)).await.expect("applied");
    session(&newcomer).await;

    let (plain, principal) = service_principal(&local, &[]);
    local
        .sql(&format!("CREATE ROLE \"{plain}\" LOGIN"))
        .await
        .expect("a role");
    let error = soon(principal.connect())
        .await
        .map(drop)
        .expect_err("rejected");
    assert!(
        error.is_login() && error.to_string().contains("plain CREATE ROLE"),
        "{error}"
    );
}

#[tokio::test]
async fn users_and_groups_log_in_with_roles_from_a_plan() {
    let local = local().await;
    let owner = owner(&local);
    let token = local.add_user("o'neill@example.com");
    local.add_group("data team", &["o'neill@example.com"]);
    plan(&owner)
        .create_role("o'neill@example.com", IdentityKind::User)
        .create_role("data team", IdentityKind::Group)
        .apply(&owner)
        .await
        .expect("applied");
    for role in ["o'neill@example.com", "data team"] {
        let config = Config::builder()
            .user(role)
            .vars(local.env_for(SignIn::Pat).into_iter().map(|(name, value)| {
                let value = if name == "DATABRICKS_TOKEN" {
                    token.clone()
                } else {
                    value
                };
                (name, value)
            }))
            .build()
            .expect("a configuration");
        let client = session(&Lakebase::new(config).expect("a handle")).await;
        let row = client.query_one("SELECT session_user::text", &[]).await;
        assert_eq!(row.expect("a row").get::<_, String>(0), role);
    }
}

#[tokio::test]
async fn a_plan_can_be_applied_again_and_by_many_at_once() {
    let local = local().await;
    let owner = owner(&local);
    deploy(&session(&owner).await).await;
    let (id, newcomer) = service_principal(&local, &[]);
    let plan = plan(&owner)
        .create_role(&id, IdentityKind::ServicePrincipal)
        .create_schema("app", None)
        .allow(Access::Write, "app", None, &id);
    let applied = soon(futures_util::future::join_all(
        (0..8).map(|_| plan.apply(&owner)),
    ))
    .await;
    for outcome in applied {
        outcome.expect("applied");
    }
    plan.apply(&owner).await.expect("applied again");
    // The printed script does the same.
    let script = plan.to_string();
    session(&owner)
        .await
        .batch_execute(&script)
        .await
        .expect("the script");
    session(&newcomer).await;
}

#[tokio::test]
async fn write_access_covers_existing_and_future_objects_but_no_ddl() {
    let local = local().await;
    let owner = owner(&local);
    let boss = session(&owner).await;
    deploy(&boss).await;
    let (id, newcomer) = service_principal(&local, &[]);
    plan(&owner)
        .create_role(&id, IdentityKind::ServicePrincipal)
        .allow(Access::Write, "app", None, &id)
        .apply(&owner)
        .await
        .expect("applied");
    boss.batch_execute("CREATE TABLE app.later (id BIGSERIAL PRIMARY KEY, note TEXT)")
        .await
        .expect("a table");

    let app = session(&newcomer).await;
    app.batch_execute(
        "INSERT INTO app.orders (item) VALUES ('a'); UPDATE app.orders SET item = 'b'; \
         INSERT INTO app.later (note) VALUES ('a'); DELETE FROM app.later; \
         DO $$ BEGIN ASSERT app.twice(2) = 4; ASSERT (SELECT item FROM app.orders) = 'b'; END $$",
    )
    .await
    .expect("rows");
    for sql in [
        "ALTER TABLE app.orders ADD COLUMN more INT",
        "CREATE TABLE app.mine (x INT)",
        "DROP TABLE app.later",
        "TRUNCATE app.orders",
    ] {
        assert_eq!(sqlstate(&app, sql).await, "42501", "{sql}");
    }
}

#[tokio::test]
async fn read_access_is_read_only_and_all_access_includes_ddl() {
    let local = local().await;
    let owner = owner(&local);
    deploy(&session(&owner).await).await;
    let (reader_id, reader) = service_principal(&local, &[]);
    let (developer_id, developer) = service_principal(&local, &[]);
    plan(&owner)
        .create_role(&reader_id, IdentityKind::ServicePrincipal)
        .create_role(&developer_id, IdentityKind::ServicePrincipal)
        .allow(Access::Read, "app", None, &reader_id)
        .allow(Access::All, "app", None, &developer_id)
        .apply(&owner)
        .await
        .expect("applied");
    let reader = session(&reader).await;
    reader
        .batch_execute("SELECT * FROM app.orders")
        .await
        .expect("rows");
    let insert = "INSERT INTO app.orders (item) VALUES ('a')";
    assert_eq!(sqlstate(&reader, insert).await, "42501");
    let developer = session(&developer).await;
    let everything = format!("{insert}; TRUNCATE app.orders; CREATE TABLE app.own (x INT)");
    developer
        .batch_execute(&everything)
        .await
        .expect("all of it");
}

#[tokio::test]
async fn privileges_on_single_objects_and_memberships_can_be_granted() {
    let local = local().await;
    let owner = owner(&local);
    let boss = session(&owner).await;
    deploy(&boss).await;
    boss.batch_execute("CREATE ROLE app_owner NOLOGIN")
        .await
        .expect("a role");
    let (id, newcomer) = service_principal(&local, &[]);
    plan(&owner)
        .create_role(&id, IdentityKind::ServicePrincipal)
        .allow_to_deploy(&id)
        .grant(&[Privilege::Usage], &Object::Schema("app".into()), &id)
        .grant(
            &[Privilege::Insert],
            &Object::Table("app".into(), "orders".into()),
            &id,
        )
        .grant(
            &[Privilege::Usage],
            &Object::Sequence("app".into(), "orders_id_seq".into()),
            &id,
        )
        .grant(
            &[Privilege::Execute],
            &Object::All(ObjectKind::Routines, "app".into()),
            &id,
        )
        .grant(
            &[Privilege::Usage],
            &Object::Schema("app".into()),
            "app_owner",
        )
        .grant(
            &[Privilege::Execute],
            &Object::Routine("app".into(), "twice".into()),
            "app_owner",
        )
        .grant_future(&[Privilege::Select], ObjectKind::Tables, "app", None, &id)
        .grant_role("app_owner", &id)
        .apply(&owner)
        .await
        .expect("applied");
    let app = session(&newcomer).await;
    app.batch_execute(
        "INSERT INTO app.orders (item) VALUES ('a'); SELECT app.twice(1); SET ROLE app_owner; \
         SELECT app.twice(1); RESET ROLE; CREATE SCHEMA mine",
    )
    .await
    .expect("what was granted");
    assert_eq!(sqlstate(&app, "SELECT * FROM app.orders").await, "42501");
}

/// Returns the error of a plan.
async fn rejection(plan: Plan, lakebase: &Lakebase) -> Error {
    let error = soon(plan.apply(lakebase)).await.expect_err("rejected");
    assert!(!error.is_transient(), "{error}");
    error
}

#[tokio::test]
async fn the_error_of_a_rejected_plan_names_the_statement_and_the_next_step() {
    let local = local().await;
    let owner = owner(&local);
    let app = lakebase(&local);
    deploy(&session(&owner).await).await;
    let (id, _) = service_principal(&local, &[]);
    let principal = IdentityKind::ServicePrincipal;
    let cases = [
        (
            plan(&owner).create_role("nobody", IdentityKind::User),
            &owner,
            "22023",
            "of this name and kind",
        ),
        (
            plan(&owner).grant(
                &[Privilege::Select],
                &Object::Table("app".into(), "ordres".into()),
                local.client_id(),
            ),
            &owner,
            "42P01",
            "spelling",
        ),
        (
            plan(&owner).create_role(&id, IdentityKind::User),
            &owner,
            "22023",
            "client id",
        ),
        (
            plan(&app).create_role(&id, principal),
            &app,
            "42501",
            "CAN MANAGE",
        ),
        (
            plan(&app).allow(Access::Read, "app", None, local.user()),
            &app,
            "42501",
            "GRANT",
        ),
        (
            plan(&owner).allow(Access::Read, "app", None, "nobody"),
            &owner,
            "42704",
            "Create the role",
        ),
        (
            plan(&owner).allow(Access::Read, "none", None, local.user()),
            &owner,
            "3F000",
            "schema first",
        ),
        (
            plan(&owner).grant(
                &[Privilege::Usage],
                &Object::Table("app".into(), "orders".into()),
                local.client_id(),
            ),
            &owner,
            "0LP01",
            "does not have this privilege",
        ),
    ];
    for (plan, who, code, advice) in cases {
        let statement = plan.to_string();
        let error = rejection(plan, who).await;
        assert_eq!(error.sqlstate(), Some(code), "{statement}: {error}");
        assert!(error.to_string().contains(advice), "{statement}: {error}");
        assert!(error.to_string().contains("nothing was changed"), "{error}");
    }
}

#[tokio::test]
async fn a_rejected_plan_changes_nothing() {
    let local = local().await;
    let owner = owner(&local);
    let boss = session(&owner).await;
    deploy(&boss).await;
    let (id, newcomer) = service_principal(&local, &[]);
    let error = rejection(
        plan(&owner)
            .create_role(&id, IdentityKind::ServicePrincipal)
            .create_schema("half", None)
            .allow(Access::Read, "app", Some("nobody"), &id),
        &owner,
    )
    .await;
    assert_eq!(error.sqlstate(), Some("42704"), "{error}");
    assert_eq!(sqlstate(&boss, "CREATE TABLE half.t ()").await, "3F000");
    let error = soon(newcomer.connect())
        .await
        .map(drop)
        .expect_err("no role");
    assert!(error.to_string().contains("Create the role"), "{error}");
}

/// Postgres only warns if the grantor has the privilege without the grant option.
#[tokio::test]
async fn a_grant_that_grants_nothing_is_an_error() {
    let local = local().await;
    let owner = owner(&local);
    deploy(&session(&owner).await).await;
    let app = lakebase(&local);
    plan(&owner)
        .allow(Access::Read, "app", None, local.client_id())
        .apply(&owner)
        .await
        .expect("applied");
    let (id, _) = service_principal(&local, &[]);
    plan(&owner)
        .create_role(&id, IdentityKind::ServicePrincipal)
        .apply(&owner)
        .await
        .expect("a role");
    let usage = plan(&app).grant(&[Privilege::Usage], &Object::Schema("app".into()), &id);
    let error = rejection(usage, &app).await;
    assert_eq!(error.sqlstate(), Some("42501"), "{error}");
    assert!(error.to_string().contains("GRANT OPTION"), "{error}");
}

#[tokio::test]
async fn a_plan_for_another_database_is_rejected() {
    let local = local().await;
    let owner = owner(&local);
    let elsewhere = Plan::new("elsewhere").create_schema("app", None);
    let error = rejection(elsewhere, &owner).await;
    assert!(
        error.is_config() && error.to_string().contains("elsewhere"),
        "{error}"
    );
}

/// They have another owner, so Postgres warns about them.
#[tokio::test]
async fn objects_of_extensions_need_no_grants() {
    let local = local().await;
    let owner = owner(&local);
    let boss = session(&owner).await;
    deploy(&boss).await;
    let (id, newcomer) = service_principal(&local, &[]);
    // The owner creates the extension but does not own its objects.
    let available = boss.batch_execute("CREATE EXTENSION citext SCHEMA app");
    if available.await.is_err() {
        local
            .sql(
                "CREATE FUNCTION app.brought() RETURNS INT LANGUAGE sql AS 'SELECT 1'; \
                  ALTER EXTENSION plpgsql ADD FUNCTION app.brought()",
            )
            .await
            .expect("a function");
    }
    plan(&owner)
        .create_role(&id, IdentityKind::ServicePrincipal)
        .allow(Access::Read, "app", None, &id)
        .apply(&owner)
        .await
        .expect("applied");
    let app = session(&newcomer).await;
    app.batch_execute("SELECT app.twice(1)")
        .await
        .expect("granted");
    // A function of another owner that no extension owns needs one.
    local
        .sql("CREATE FUNCTION app.foreign() RETURNS INT LANGUAGE sql AS 'SELECT 1'")
        .await
        .expect("a function");
    let again = plan(&owner).allow(Access::Read, "app", None, &id);
    let error = rejection(again, &owner).await;
    assert_eq!(error.sqlstate(), Some("42501"), "{error}");
}

#[tokio::test]
async fn the_extension_is_created_in_a_schema_on_the_default_search_path() {
    let local = local().await;
    let (id, _) = service_principal(&local, &[]);
    let changes = [("LAKEBASE_SCHEMA", "app")];
    let mut vars = local.env_for(SignIn::Pat);
    vars.extend(changes.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let owner = Lakebase::new(Config::from_vars(vars).expect("a configuration")).expect("a handle");
    deploy(&session(&owner).await).await;
    let plan = plan(&owner).create_role(&id, IdentityKind::ServicePrincipal);
    plan.apply(&owner).await.expect("applied");
    assert!(
        plan.to_string()
            .contains("SET LOCAL search_path TO public;")
    );
}

#[tokio::test]
async fn a_plan_works_in_other_databases() {
    let local = local().await;
    let scratch = local.scratch_database().await.expect("a database");
    let boss = session(&owner(&local)).await;
    boss.batch_execute("CREATE DATABASE second")
        .await
        .expect("a database");
    for database in [scratch.as_str(), "second"] {
        let (id, principal) = service_principal(&local, &[("PGDATABASE", database)]);
        let config = Config::builder()
            .database(database)
            .vars(local.env_for(SignIn::Pat))
            .build();
        let owner = Lakebase::new(config.expect("a configuration")).expect("a handle");
        plan(&owner)
            .create_role(&id, IdentityKind::ServicePrincipal)
            .allow_to_deploy(&id)
            .apply(&owner)
            .await
            .unwrap_or_else(|error| panic!("{database}: {error}"));
        session(&principal)
            .await
            .batch_execute("CREATE SCHEMA mine")
            .await
            .expect("a schema");
    }
}

#[tokio::test]
async fn access_needs_no_grant_of_connect_that_the_role_already_has() {
    let local = local().await;
    let owner = owner(&local);
    let (id, newcomer) = service_principal(&local, &[]);
    let (deployer_id, deployer) = service_principal(&local, &[]);
    plan(&owner)
        .create_role(&id, IdentityKind::ServicePrincipal)
        .create_role(&deployer_id, IdentityKind::ServicePrincipal)
        .allow_to_deploy(&deployer_id)
        .apply(&owner)
        .await
        .expect("applied");
    deploy(&session(&deployer).await).await;
    // The deployer owns the schema but not the database.
    let access = plan(&deployer).allow(Access::Write, "app", None, &id);
    soon(access.apply(&deployer)).await.expect("applied");
    let insert = "INSERT INTO app.orders (item) VALUES ('a')";
    session(&newcomer)
        .await
        .batch_execute(insert)
        .await
        .expect("a row");

    // If the role lacks it, the error says so.
    let sql = "DO $$ BEGIN EXECUTE format('REVOKE CONNECT ON DATABASE %I FROM PUBLIC', current_database()); END $$";
    local.sql(sql).await.expect("revoked");
    let error = rejection(access, &deployer).await;
    assert_eq!(error.sqlstate(), Some("42501"), "{error}");
    assert!(error.to_string().contains("GRANT CONNECT"), "{error}");
}

#[tokio::test]
async fn a_rejected_login_to_a_database_without_the_extension_names_it() {
    let local = local().await;
    let boss = session(&owner(&local)).await;
    boss.batch_execute("CREATE DATABASE second")
        .await
        .expect("a database");
    let (plain, principal) = service_principal(&local, &[]);
    local
        .sql(&format!("CREATE ROLE \"{plain}\" LOGIN"))
        .await
        .expect("a role");
    let login = async |database: &str| {
        let principal = principal.with_database(database).expect("a name");
        let outcome = soon(principal.connect()).await;
        outcome.map(drop).expect_err("rejected").to_string()
    };
    let text = login("second").await;
    for part in [
        "CREATE DATABASE",
        "CREATE EXTENSION IF NOT EXISTS databricks_auth",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let text = login("databricks_postgres").await;
    assert!(!text.contains("CREATE DATABASE"), "{text}");
}
