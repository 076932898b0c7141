//! Schema sync of SeaORM, which creates tables from entities.

use lakebase_tests::{forget_idle, lakebase_with, local, soon};
use sea_orm::ActiveValue::Set;
use sea_orm::{
    ActiveModelTrait as _, ColumnTrait as _, DatabaseConnection, EntityTrait as _, QueryFilter as _,
};

mod shelf {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "shelves")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        #[sea_orm(unique)]
        pub room: String,
        #[sea_orm(has_many)]
        pub books: HasMany<super::book::Entity>,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

mod book {
    use sea_orm::entity::prelude::*;

    #[sea_orm::model]
    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "books")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub shelf_id: i64,
        pub title: String,
        #[sea_orm(belongs_to, from = "shelf_id", to = "id")]
        pub shelf: HasOne<super::shelf::Entity>,
    }

    impl ActiveModelBehavior for ActiveModel {}
}

/// The table in the next version of the program.
mod longer_book {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "books")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub shelf_id: i64,
        pub title: String,
        pub pages: Option<i32>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}

    impl ActiveModelBehavior for ActiveModel {}
}

async fn sync(db: &DatabaseConnection) {
    let schema = db.get_schema_builder().register(shelf::Entity);
    let synced = schema.register(book::Entity).sync(db).await;
    synced.expect("synchronised");
}

#[tokio::test]
async fn schema_sync_creates_and_changes_tables_in_the_configured_schema() {
    let local = local().await;
    let owner = local.client_id();
    let create = format!("CREATE SCHEMA library AUTHORIZATION \"{owner}\"");
    local.sql(&create).await.expect("a schema");
    let lakebase = lakebase_with(&local, &[("LAKEBASE_SCHEMA", "library")]);
    let db = lakebase_seaorm::connect(&lakebase)
        .await
        .expect("a connection");
    sync(&db).await;
    sync(&db).await;

    let shelf = shelf::ActiveModel {
        room: Set("attic".to_owned()),
        ..Default::default()
    };
    let shelf = shelf.insert(&db).await.expect("a shelf");
    let book = book::ActiveModel {
        shelf_id: Set(shelf.id),
        title: Set("Notes".to_owned()),
        ..Default::default()
    };
    book.insert(&db).await.expect("a book");

    // The next version, on a connection that logs in after a revocation.
    local.revoke_tokens();
    forget_idle(&db).await;
    let later = db.get_schema_builder().register(longer_book::Entity);
    soon(later.sync(&db)).await.expect("synchronised");
    let found = longer_book::Entity::find()
        .filter(longer_book::Column::Pages.is_null())
        .all(&db)
        .await;
    assert_eq!(found.expect("rows").len(), 1);
    let elsewhere = local.sql("DO $$ BEGIN ASSERT to_regclass('public.books') IS NULL; END $$");
    elsewhere.await.expect("not in public");
}
