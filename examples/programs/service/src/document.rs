//! The table of the crate `migration`, which `sea-orm-cli generate entity` writes as well.

use sea_orm::entity::prelude::*;

#[sea_orm::model]
#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "document")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    #[sea_orm(column_type = "Text")]
    pub text: String,
    /// Nothing until a worker has counted them.
    pub words: Option<i64>,
}

impl ActiveModelBehavior for ActiveModel {}
