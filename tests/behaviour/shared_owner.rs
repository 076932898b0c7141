//! A shared owner: several service principals migrate the same tables.

use diesel_migrations::FileBasedMigrations;
use lakebase_core::Lakebase;
use lakebase_core::adapter::migration::MigrationError;
use lakebase_core::admin::{Access, IdentityKind};
use lakebase_local::LocalLakebase;
use lakebase_tests::{local, soon};

use crate::rehearsal::{MIGRATIONS, Migration, Sql, folder};
use crate::roles::{connect, newcomer, owner, plan};

const OWNER: &str = "app_owner";

const CREATE: Migration = (
    "2026-01-01-000001_create",
    "CREATE TABLE books (id serial PRIMARY KEY); CREATE VIEW titles AS SELECT id FROM books; \
     CREATE SEQUENCE numbers; CREATE TYPE kind AS ENUM ('a'); CREATE DOMAIN isbn AS text; CREATE TYPE pair AS (a int); \
     CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    true,
);
const ALTER: Migration = (
    "2026-01-01-000002_alter",
    "ALTER TABLE books ADD title text; CREATE INDEX ON books (title); RESET ROLE",
    true,
);
const AUTHORS: Migration = (
    "2026-01-01-000003_authors",
    "CREATE TABLE authors (id serial PRIMARY KEY)",
    false,
);
const DROP: Migration = ("2026-01-01-000004_drop", "DROP TABLE authors", true);

#[derive(Clone, Copy, Debug)]
enum Adapter {
    Diesel,
    SeaOrm,
}

const ADAPTERS: [Adapter; 2] = [Adapter::Diesel, Adapter::SeaOrm];

/// In the schema `app`, which is created if it is missing. The futures are boxed, as they are too large for the stack of a test.
async fn migrate(
    adapter: Adapter,
    lakebase: &Lakebase,
    migrations: &[Migration],
    owner: Option<&str>,
) -> Result<usize, MigrationError> {
    match adapter {
        Adapter::Diesel => {
            let folder = folder(migrations);
            let source = FileBasedMigrations::from_path(folder.path()).expect("readable");
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
        Adapter::SeaOrm => {
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

/// As the shared owner, on a copy.
async fn rehearse(
    adapter: Adapter,
    local: &LocalLakebase,
    lakebase: &Lakebase,
    migrations: &[Migration],
) {
    let copy = local.scratch_database().await.expect("a copy");
    let copy = lakebase.with_database(&copy).expect("a name");
    let report = match adapter {
        Adapter::Diesel => {
            let folder = folder(migrations);
            let source = FileBasedMigrations::from_path(folder.path()).expect("readable");
            let run = lakebase_diesel::migrations::Migrations::new(lakebase);
            let run = run.schema("app").owner(OWNER);
            soon(Box::pin(run.rehearse_on(&copy, source))).await
        }
        Adapter::SeaOrm => {
            let run = lakebase_seaorm::migrations::Migrations::new(lakebase);
            let run = run.schema("app").owner(OWNER);
            let work = run.rehearse_on::<Sql>(&copy);
            soon(Box::pin(MIGRATIONS.scope(migrations.to_vec(), work))).await
        }
    };
    let report = report.expect("a rehearsal");
    assert!(report.is_ok(), "{adapter:?}: {report}");
}

/// Two service principals that may deploy.
async fn principals(local: &LocalLakebase) -> [(String, Lakebase); 2] {
    let owner = owner(local);
    let principals = [newcomer(local), newcomer(local)];
    let mut roles = plan(&owner);
    for (id, _) in &principals {
        roles = roles
            .create_role(id, IdentityKind::ServicePrincipal)
            .allow_to_deploy(id);
    }
    roles.apply(&owner).await.expect("applied");
    principals
}

/// The owners of the schema and of all that is in it, and how many objects there are.
async fn owners(lakebase: &Lakebase) -> (Vec<String>, i64) {
    let sql = "SELECT array_agg(DISTINCT pg_get_userbyid(owner)::text), count(*) FROM ( \
        SELECT nspowner, oid FROM pg_namespace \
        UNION ALL SELECT relowner, relnamespace FROM pg_class \
        UNION ALL SELECT proowner, pronamespace FROM pg_proc \
        UNION ALL SELECT typowner, typnamespace FROM pg_type) AS o (owner, namespace) \
        WHERE namespace = 'app'::regnamespace";
    let row = connect(lakebase).await.query_one(sql, &[]).await;
    let row = row.expect("owners");
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn a_service_principal_migrates_tables_that_another_one_created() {
    for adapter in ADAPTERS {
        let local = local().await;
        let [(first_id, first), (second_id, second)] = principals(&local).await;
        let owner = owner(&local);
        let (reader_id, reader) = newcomer(&local);
        let role = plan(&owner).create_role(&reader_id, IdentityKind::ServicePrincipal);
        role.apply(&owner).await.expect("applied");

        // The first one deploys by itself, and the second one is locked out.
        let ran = migrate(adapter, &first, &[CREATE], None).await;
        assert_eq!(ran.expect("migrated"), 1, "{adapter:?}");
        let read = plan(&first).allow(Access::Read, "app", None, &reader_id);
        read.apply(&first).await.expect("applied");
        let migrations = [CREATE, ALTER, AUTHORS];
        let error = migrate(adapter, &second, &migrations, Some(OWNER)).await;
        let error = error.expect_err("no such owner");
        let command = format!("lakebase grant '{second_id}' --shared-owner '{OWNER}'");
        assert!(error.chain().contains(&command), "{adapter:?}: {error:?}");

        let membership = plan(&owner)
            .shared_owner(OWNER, &first_id)
            .shared_owner(OWNER, &second_id);
        membership.apply(&owner).await.expect("applied");
        let error = migrate(adapter, &second, &migrations, Some(OWNER)).await;
        let error = error.expect_err("not its schema");
        let command = format!("lakebase --schema 'app' grant ROLE --shared-owner '{OWNER}'");
        assert!(error.chain().contains(&command), "{adapter:?}: {error:?}");
        let transfer = plan(&first).transfer_schema("app", OWNER);
        for _ in 0..2 {
            membership.apply(&owner).await.expect("applied");
            transfer.apply(&first).await.expect("applied");
        }
        membership.apply(&first).await.expect("nothing to do");
        assert_eq!(owners(&second).await.0, [OWNER], "{adapter:?}");

        rehearse(adapter, &local, &second, &migrations).await;
        let ran = migrate(adapter, &second, &migrations, Some(OWNER)).await;
        assert_eq!(ran.expect("migrated"), 2, "{adapter:?}");
        let (names, objects) = owners(&second).await;
        assert_eq!(names, [OWNER], "{adapter:?}: {objects} objects");
        // Privileges on future objects apply to those of the shared owner.
        let sql = "SELECT id, title FROM app.books; SELECT * FROM app.authors; SELECT app.one()";
        let reader = connect(&reader).await;
        reader.batch_execute(sql).await.expect("readable");

        let ran = migrate(
            adapter,
            &first,
            &[CREATE, ALTER, AUTHORS, DROP],
            Some(OWNER),
        )
        .await;
        assert_eq!(ran.expect("migrated"), 1, "{adapter:?}");
    }
}

#[tokio::test]
async fn migrations_as_a_shared_owner_create_its_schema_and_history() {
    for adapter in ADAPTERS {
        let local = local().await;
        let [(first_id, first), (second_id, second)] = principals(&local).await;
        plan(&owner(&local))
            .shared_owner(OWNER, &first_id)
            .apply(&owner(&local))
            .await
            .expect("applied");
        let ran = migrate(adapter, &first, &[CREATE, ALTER], Some(OWNER)).await;
        assert_eq!(ran.expect("migrated"), 2, "{adapter:?}");
        assert_eq!(owners(&first).await.0, [OWNER], "{adapter:?}");

        let error = migrate(adapter, &second, &[CREATE, ALTER], Some(OWNER)).await;
        let error = error.expect_err("no member");
        assert_eq!(error.sqlstate(), Some("42501"), "{error:?}");
        let command = format!("lakebase grant '{second_id}' --shared-owner '{OWNER}'");
        assert!(error.chain().contains(&command), "{adapter:?}: {error:?}");
    }
}

#[tokio::test]
async fn a_transfer_leaves_objects_of_other_roles_and_other_schemas_as_they_are() {
    let local = local().await;
    let [(first_id, first), (second_id, second)] = principals(&local).await;
    let sql = format!(
        "CREATE SCHEMA app; CREATE SCHEMA other; CREATE TABLE app.mine (); CREATE TABLE other.mine (); \
         GRANT CREATE, USAGE ON SCHEMA app TO \"{second_id}\""
    );
    connect(&first)
        .await
        .batch_execute(&sql)
        .await
        .expect("deployed");
    let sql = "CREATE TABLE app.foreign_table ()";
    connect(&second)
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
