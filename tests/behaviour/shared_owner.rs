//! Several service principals migrate the same tables, which belong to a shared owner.

use lakebase_core::Lakebase;
use lakebase_core::adapter::migration::MigrationError;
use lakebase_core::admin::{Access, IdentityKind};
use lakebase_local::LocalLakebase;
use lakebase_tests::{local, service_principal, session, soon};

use crate::roles::{owner, plan};
use crate::shop::{Orm, with_both_orms};
use crate::sql_migrations::{MIGRATIONS, Migration, Sql, folder, read};

const OWNER: &str = "app_owner";

const CREATE: Migration = Migration::new(
    "2026-01-01-000001_create",
    "CREATE TABLE books (id serial PRIMARY KEY); CREATE VIEW titles AS SELECT id FROM books; \
     CREATE SEQUENCE numbers; CREATE TYPE kind AS ENUM ('a'); CREATE DOMAIN isbn AS text; CREATE TYPE pair AS (a int); \
     CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'",
);
const ALTER: Migration = Migration::new(
    "2026-01-01-000002_alter",
    "ALTER TABLE books ADD title text; CREATE INDEX ON books (title); RESET ROLE",
);
const AUTHORS: Migration = Migration::new(
    "2026-01-01-000003_authors",
    "CREATE TABLE authors (id serial PRIMARY KEY)",
)
.in_transaction(false);
const DROP: Migration = Migration::new("2026-01-01-000004_drop", "DROP TABLE authors");

/// Migrates in the schema `app`. Boxed, because the futures are too large for the stack of a test.
async fn migrate(
    orm: Orm,
    lakebase: &Lakebase,
    migrations: &[Migration],
    owner: Option<&str>,
) -> Result<usize, MigrationError> {
    match orm {
        Orm::Diesel => {
            let folder = folder(migrations);
            let source = read(&folder);
            let run = lakebase_diesel::migrations::Migrations::new(lakebase);
            let run = run.schema("app").create_schema(true);
            let run = match owner {
                Some(owner) => run.owner(owner),
                None => run,
            };
            let pending = soon(Box::pin(run.pending(source.clone()))).await?;
            let ran = soon(Box::pin(run.run(source))).await?;
            assert_eq!(ran, pending);
            Ok(ran.len())
        }
        Orm::SeaOrm => {
            let run = lakebase_seaorm::migrations::Migrations::new(lakebase);
            let run = run.schema("app").create_schema(true);
            let run = match owner {
                Some(owner) => run.owner(owner),
                None => run,
            };
            let work = async {
                run.status::<Sql>().await?;
                run.up::<Sql>(None).await
            };
            let work = MIGRATIONS.scope(migrations.to_vec(), work);
            let ran = soon(Box::pin(work)).await?;
            Ok(ran.len())
        }
    }
}

/// Rehearses as the shared owner on a copy.
async fn rehearse(orm: Orm, local: &LocalLakebase, lakebase: &Lakebase, migrations: &[Migration]) {
    let copy = local.scratch_database().await.expect("a copy");
    let copy = lakebase.with_database(&copy).expect("a name");
    let report = match orm {
        Orm::Diesel => {
            let folder = folder(migrations);
            let source = read(&folder);
            let run = lakebase_diesel::migrations::Migrations::new(lakebase);
            let run = run.schema("app").owner(OWNER);
            soon(Box::pin(run.rehearse_on(&copy, source))).await
        }
        Orm::SeaOrm => {
            let run = lakebase_seaorm::migrations::Migrations::new(lakebase);
            let run = run.schema("app").owner(OWNER);
            let work = run.rehearse_on::<Sql>(&copy);
            soon(Box::pin(MIGRATIONS.scope(migrations.to_vec(), work))).await
        }
    };
    let report = report.expect("a rehearsal");
    assert!(report.is_ok(), "{orm:?}: {report}");
}

/// Two service principals that can create schemas.
async fn principals(local: &LocalLakebase) -> [(String, Lakebase); 2] {
    let owner = owner(local);
    let principals = [service_principal(local, &[]), service_principal(local, &[])];
    let mut roles = plan(&owner);
    for (id, _) in &principals {
        roles = roles
            .create_role(id, IdentityKind::ServicePrincipal)
            .allow_to_deploy(id);
    }
    roles.apply(&owner).await.expect("applied");
    principals
}

/// Returns the owners of the schema and of its objects, and the number of objects.
async fn owners(lakebase: &Lakebase) -> (Vec<String>, i64) {
    let sql = "SELECT array_agg(DISTINCT pg_get_userbyid(owner)::text), count(*) FROM ( \
        SELECT nspowner, oid FROM pg_namespace \
        UNION ALL SELECT relowner, relnamespace FROM pg_class \
        UNION ALL SELECT proowner, pronamespace FROM pg_proc \
        UNION ALL SELECT typowner, typnamespace FROM pg_type) AS o (owner, namespace) \
        WHERE namespace = 'app'::regnamespace";
    let row = session(lakebase).await.query_one(sql, &[]).await;
    let row = row.expect("owners");
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn a_service_principal_migrates_tables_that_another_one_created() {
    with_both_orms(async |orm| {
        let local = local().await;
        let [(first_id, first), (second_id, second)] = principals(&local).await;
        let owner = owner(&local);
        let (reader_id, reader) = service_principal(&local, &[]);
        let role = plan(&owner).create_role(&reader_id, IdentityKind::ServicePrincipal);
        role.apply(&owner).await.expect("applied");

        // The first one migrates without a shared owner, so the second one has no privileges.
        let ran = migrate(orm, &first, &[CREATE], None).await;
        assert_eq!(ran.expect("migrated"), 1, "{orm:?}");
        let read = plan(&first).allow(Access::Read, "app", None, &reader_id);
        read.apply(&first).await.expect("applied");
        let migrations = [CREATE, ALTER, AUTHORS];
        let error = migrate(orm, &second, &migrations, Some(OWNER)).await;
        let error = error.expect_err("no such owner");
        let command = format!("lakebase grant '{second_id}' --shared-owner '{OWNER}'");
        assert!(error.chain().contains(&command), "{orm:?}: {error:?}");

        let membership = plan(&owner)
            .shared_owner(OWNER, &first_id)
            .shared_owner(OWNER, &second_id);
        membership.apply(&owner).await.expect("applied");
        let error = migrate(orm, &second, &migrations, Some(OWNER)).await;
        let error = error.expect_err("not its schema");
        let command = format!("lakebase --schema 'app' grant ROLE --shared-owner '{OWNER}'");
        assert!(error.chain().contains(&command), "{orm:?}: {error:?}");
        let transfer = plan(&first).transfer_schema("app", OWNER);
        for _ in 0..2 {
            membership.apply(&owner).await.expect("applied");
            transfer.apply(&first).await.expect("applied");
        }
        membership.apply(&first).await.expect("nothing to do");
        assert_eq!(owners(&second).await.0, [OWNER], "{orm:?}");

        rehearse(orm, &local, &second, &migrations).await;
        let ran = migrate(orm, &second, &migrations, Some(OWNER)).await;
        assert_eq!(ran.expect("migrated"), 2, "{orm:?}");
        let (names, objects) = owners(&second).await;
        assert_eq!(names, [OWNER], "{orm:?}: {objects} objects");
        // Privileges on future objects apply to objects of the shared owner.
        let sql = "SELECT id, title FROM app.books; SELECT * FROM app.authors; SELECT app.one()";
        let reader = session(&reader).await;
        reader.batch_execute(sql).await.expect("readable");

        let ran = migrate(orm, &first, &[CREATE, ALTER, AUTHORS, DROP], Some(OWNER)).await;
        assert_eq!(ran.expect("migrated"), 1, "{orm:?}");
    })
    .await;
}

#[tokio::test]
async fn migrations_as_a_shared_owner_create_its_schema_and_history() {
    with_both_orms(async |orm| {
        let local = local().await;
        let [(first_id, first), (second_id, second)] = principals(&local).await;
        plan(&owner(&local))
            .shared_owner(OWNER, &first_id)
            .apply(&owner(&local))
            .await
            .expect("applied");
        let ran = migrate(orm, &first, &[CREATE, ALTER], Some(OWNER)).await;
        assert_eq!(ran.expect("migrated"), 2, "{orm:?}");
        assert_eq!(owners(&first).await.0, [OWNER], "{orm:?}");

        let error = migrate(orm, &second, &[CREATE, ALTER], Some(OWNER)).await;
        let error = error.expect_err("no member");
        assert_eq!(error.sqlstate(), Some("42501"), "{error:?}");
        let command = format!("lakebase grant '{second_id}' --shared-owner '{OWNER}'");
        assert!(error.chain().contains(&command), "{orm:?}: {error:?}");
    })
    .await;
}

#[tokio::test]
async fn a_transfer_changes_no_objects_of_other_roles_or_other_schemas() {
    let local = local().await;
    let [(first_id, first), (second_id, second)] = principals(&local).await;
    let sql = format!(
        "CREATE SCHEMA app; CREATE SCHEMA other; CREATE TABLE app.mine (); CREATE TABLE other.mine (); \
         GRANT CREATE, USAGE ON SCHEMA app TO \"{second_id}\""
    );
    session(&first)
        .await
        .batch_execute(&sql)
        .await
        .expect("deployed");
    let sql = "CREATE TABLE app.foreign_table ()";
    session(&second)
        .await
        .batch_execute(sql)
        .await
        .expect("deployed");
    plan(&owner(&local))
        .shared_owner(OWNER, &first_id)
        .apply(&owner(&local))
        .await
        .expect("applied");
    let transfer = plan(&first).transfer_schema("app", OWNER);
    let error = soon(transfer.apply(&second))
        .await
        .expect_err("not its owner");
    assert_eq!(error.sqlstate(), Some("42501"), "{error}");
    transfer.apply(&first).await.expect("applied");
    let sql = format!(
        "DO $$ BEGIN ASSERT (SELECT array_agg(relname || ' ' || pg_get_userbyid(relowner) ORDER BY oid) \
         FROM pg_class WHERE relnamespace IN ('app'::regnamespace, 'other'::regnamespace)) \
         = ARRAY['mine {OWNER}', 'mine {first_id}', 'foreign_table {second_id}']; END $$"
    );
    local.sql(&sql).await.expect("as they were");
}
