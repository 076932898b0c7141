//! SeaORM 1.1 on sqlx 0.8, by the URL of the auth proxy.

use std::error::Error;

use lakebase_examples_older::{SCHEMA, place};
use sea_orm::ActiveValue::Set;
use sea_orm::{
    ActiveModelTrait, ConnectionTrait, Database, EntityTrait, PaginatorTrait, QueryOrder, Schema,
    TransactionTrait,
};

mod letter {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "letters")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub text: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

fn new(text: &str) -> letter::ActiveModel {
    letter::ActiveModel {
        text: Set(text.to_owned()),
        ..Default::default()
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    // In your program: `let lakebase = Lakebase::from_env()?;`
    let (lakebase, local) = place().await?;

    // Every connection that the pool opens logs in with a current token.
    let proxy = lakebase.proxy().await?;
    let db = Database::connect(proxy.url()).await?;

    db.execute_unprepared(&format!("CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        .await?;
    let backend = db.get_database_backend();
    let mut table = Schema::new(backend).create_table_from_entity(letter::Entity);
    db.execute(backend.build(table.if_not_exists())).await?;

    let before = letter::Entity::find().count(&db).await?;
    let transaction = db.begin().await?;
    new("hello from SeaORM 1.1").insert(&transaction).await?;
    new("hello again").insert(&transaction).await?;
    transaction.commit().await?;
    let transaction = db.begin().await?;
    new("rolled back").insert(&transaction).await?;
    transaction.rollback().await?;

    let after = letter::Entity::find().count(&db).await?;
    if after != before + 2 {
        return Err(format!("{before} letters before, {after} after").into());
    }
    let newest = letter::Entity::find()
        .order_by_desc(letter::Column::Id)
        .one(&db)
        .await?;
    if let Some(letter::Model { id, text }) = newest {
        println!("{id}: {text}");
    }

    db.close().await?;
    if let Some(local) = local {
        local.stop().await;
    }
    Ok(())
}
