//! An application in SeaORM's style, swapped by one line, with the platform's privileges: a migration crate, service
//! functions, and GraphQL with the connection in its context.

use async_graphql::{Context, EmptySubscription, Object, Schema};
use lakebase_core::{Config, Lakebase};
use lakebase_local::{Cut, LocalLakebase};
use sea_orm::ActiveValue::Set;
use sea_orm::{ActiveModelTrait as _, DatabaseConnection, DbConn, DbErr, EntityTrait as _};
use sea_orm_migration::{MigrationTrait, MigratorTrait};

mod note {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "notes")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub text: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

/// The migration crate.
mod migration {
    use sea_orm_migration::prelude::*;

    #[derive(DeriveMigrationName)]
    pub struct Notes;

    #[async_trait::async_trait]
    impl MigrationTrait for Notes {
        async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
            let sql = "CREATE TABLE notes (id BIGSERIAL PRIMARY KEY, text TEXT NOT NULL)";
            let db = manager.get_connection();
            db.execute_unprepared(sql).await.map(drop)
        }
    }
}

struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(migration::Notes)]
    }
}

/// Service functions.
async fn add(db: &DbConn, text: String) -> Result<note::Model, DbErr> {
    let note = note::ActiveModel {
        text: Set(text),
        ..Default::default()
    };
    note.insert(db).await
}

async fn all(db: &DbConn) -> Result<Vec<note::Model>, DbErr> {
    note::Entity::find().all(db).await
}

struct Query;

#[Object]
impl Query {
    async fn notes(&self, context: &Context<'_>) -> async_graphql::Result<Vec<String>> {
        let db = context.data::<DatabaseConnection>()?;
        let notes = all(db).await?;
        Ok(notes.into_iter().map(|note| note.text).collect())
    }
}

struct Mutation;

#[Object]
impl Mutation {
    async fn add(&self, context: &Context<'_>, text: String) -> async_graphql::Result<i64> {
        let db = context.data::<DatabaseConnection>()?;
        Ok(add(db, text).await?.id)
    }
}

/// A function that returns SeaORM's error: `?` takes ours as well.
async fn connected(vars: Vec<(String, String)>) -> Result<DatabaseConnection, DbErr> {
    let config = Config::builder().vars(vars).schema("notes_app").build()?;
    let lakebase = Lakebase::new(config)?;
    lakebase_seaorm::migrations::Migrations::new(&lakebase)
        .create_schema(true)
        .up::<Migrator>(None)
        .await?;
    // before: Database::connect(url).await?
    let db = lakebase_seaorm::connect(&lakebase).await?;
    Ok(db)
}

#[tokio::test]
async fn a_graphql_schema_finds_the_connection_in_its_context_whatever_happens_to_the_tokens() {
    let local = LocalLakebase::start().await.expect("a local Lakebase");
    let db = connected(local.env()).await.expect("connected");
    let schema = Schema::build(Query, Mutation, EmptySubscription)
        .data(db)
        .finish();
    let run = async |request: &str| {
        let response = schema.execute(request).await;
        assert!(response.errors.is_empty(), "{:?}", response.errors);
        response.data.to_string()
    };
    run("mutation { add(text: \"first\") }").await;
    local.revoke_tokens();
    local.cut_sessions(Cut::Message).await.expect("cut");
    run("mutation { add(text: \"second\") }").await;
    assert_eq!(run("{ notes }").await, "{notes: [\"first\", \"second\"]}");
    local.stop().await;
}
