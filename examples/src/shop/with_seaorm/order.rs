use sea_orm::entity::prelude::*;

use super::user;
use crate::shop::views;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(schema_name = "shop", table_name = "orders")]
pub struct Model {
    #[sea_orm(primary_key)]
    pub id: i64,
    pub user_id: i64,
    pub item: String,
    pub cents: i64,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {
    #[sea_orm(
        belongs_to = "super::user::Entity",
        from = "Column::UserId",
        to = "super::user::Column::Id"
    )]
    User,
}

impl Related<user::Entity> for Entity {
    fn to() -> RelationDef {
        Relation::User.def()
    }
}

impl ActiveModelBehavior for ActiveModel {}

impl Model {
    pub fn of(self, user: user::Model) -> views::Order {
        views::Order {
            id: self.id,
            user: user.into(),
            item: self.item,
            cents: self.cents,
        }
    }
}

impl From<Model> for views::OwnOrder {
    fn from(order: Model) -> Self {
        Self {
            id: order.id,
            item: order.item,
            cents: order.cents,
        }
    }
}
