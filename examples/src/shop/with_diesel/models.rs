//! Rows of the tables.

use diesel::prelude::*;

use super::schema::{orders, users};
use crate::shop::input::{NewOrder, NewUser};
use crate::shop::views;

#[derive(Queryable, Selectable, Identifiable)]
#[diesel(table_name = users)]
pub struct User {
    pub id: i64,
    pub name: String,
}

#[derive(Queryable, Selectable, Identifiable, Associations)]
#[diesel(table_name = orders, belongs_to(User))]
pub struct Order {
    pub id: i64,
    pub user_id: i64,
    pub item: String,
    pub cents: i64,
}

#[derive(Insertable)]
#[diesel(table_name = users)]
pub struct UserRow<'a> {
    name: &'a str,
}

impl<'a> From<&'a NewUser> for UserRow<'a> {
    fn from(new: &'a NewUser) -> Self {
        Self { name: &new.name }
    }
}

#[derive(Insertable)]
#[diesel(table_name = orders)]
pub struct OrderRow<'a> {
    user_id: i64,
    item: &'a str,
    cents: i64,
}

impl<'a> From<&'a NewOrder> for OrderRow<'a> {
    fn from(new: &'a NewOrder) -> Self {
        Self {
            user_id: new.user_id,
            item: &new.item,
            cents: new.cents,
        }
    }
}

impl From<User> for views::User {
    fn from(User { id, name }: User) -> Self {
        Self { id, name }
    }
}

impl Order {
    pub fn of(self, user: User) -> views::Order {
        views::Order {
            id: self.id,
            user: user.into(),
            item: self.item,
            cents: self.cents,
        }
    }
}

impl From<Order> for views::OwnOrder {
    fn from(order: Order) -> Self {
        Self {
            id: order.id,
            item: order.item,
            cents: order.cents,
        }
    }
}
