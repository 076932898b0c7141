//! The shortest useful program with SeaORM entities.

use lakebase_examples::{Example, Result, SCHEMA};
use sea_orm::ActiveValue::Set;
use sea_orm::{ActiveModelTrait, ConnectionTrait, EntityTrait, QueryOrder, Schema};

mod greeting {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "sea_greetings")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub text: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

#[tokio::main]
async fn main() -> Result<()> {
    // In your program: `let lakebase = Lakebase::from_env()?;`
    let example = Example::start().await?;

    let db = lakebase_seaorm::connect(&example.lakebase).await?;

    db.execute_unprepared(&format!("CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        .await?;
    let mut table =
        Schema::new(db.get_database_backend()).create_table_from_entity(greeting::Entity);
    db.execute(table.if_not_exists()).await?;

    let new = greeting::ActiveModel {
        text: Set("hello from SeaORM".to_owned()),
        ..Default::default()
    };
    new.insert(&db).await?;
    let newest = greeting::Entity::find()
        .order_by_desc(greeting::Column::Id)
        .one(&db)
        .await?;
    if let Some(greeting::Model { id, text }) = newest {
        println!("{id}: {text}");
    }

    db.close().await?;
    example.stop().await;
    Ok(())
}
