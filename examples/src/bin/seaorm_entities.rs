//! The shortest useful program with SeaORM entities.

use std::error::Error;
use std::time::Duration;

use lakebase_examples::{SCHEMA, place};
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
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    // In your program: `let lakebase = Lakebase::from_env()?;`
    let place = place(Duration::from_secs(3600), None).await?;

    let db = lakebase_seaorm::connect(&place.lakebase).await?;

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
    place.leave().await;
    Ok(())
}
