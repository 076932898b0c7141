//! seaography: GraphQL for the entities of SeaORM 2.

use std::sync::LazyLock;

use lakebase_examples_frameworks::{BoxError, SCHEMA, place};
use sea_orm::{ConnectionTrait, Schema};
use seaography::{Builder, BuilderContext};

mod telegram {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "telegrams")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i32,
        pub text: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelatedEntity)]
    pub enum RelatedEntity {}

    impl ActiveModelBehavior for ActiveModel {}
}

static CONTEXT: LazyLock<BuilderContext> = LazyLock::new(BuilderContext::default);

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // In your program: `let lakebase = Lakebase::from_env()?;`
    let (lakebase, local) = place().await?;

    let db = lakebase_seaorm::connect(&lakebase).await?;

    db.execute_unprepared(&format!("CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        .await?;
    let mut table =
        Schema::new(db.get_database_backend()).create_table_from_entity(telegram::Entity);
    db.execute(table.if_not_exists()).await?;

    let mut builder = Builder::new(&CONTEXT, db.clone());
    seaography::register_entity!(builder, telegram);
    let schema = builder.schema_builder().data(db.clone()).finish()?;

    let text = "hello from seaography";
    let create =
        format!("mutation {{ telegramsCreateOne(data: {{ text: \"{text}\" }}) {{ id text }} }}");
    let response = schema.execute(create).await.into_result();
    let created = response.map_err(|errors| format!("{errors:?}"))?;
    let query = "{ telegrams(orderBy: { id: DESC }, pagination: { page: { limit: 1, page: 0 } }) \
                 { nodes { id text } } }";
    let response = schema.execute(query).await.into_result();
    let found = response.map_err(|errors| format!("{errors:?}"))?.data;
    if !found.to_string().contains(text) {
        return Err(format!("created {}, found {found}", created.data).into());
    }
    println!("{found}");

    drop(schema);
    db.close().await?;
    if let Some(local) = local {
        local.stop().await;
    }
    Ok(())
}
