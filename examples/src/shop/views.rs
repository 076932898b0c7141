//! What the page and the API show, whichever ORM it was read with.

use serde::Serialize;

#[derive(Clone, Debug, Serialize)]
pub struct User {
    pub id: i64,
    pub name: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct Order {
    pub id: i64,
    pub user: User,
    pub item: String,
    pub cents: i64,
}

/// An order of a user who is known from the context.
#[derive(Clone, Debug, Serialize)]
pub struct OwnOrder {
    pub id: i64,
    pub item: String,
    pub cents: i64,
}

#[derive(Clone, Debug, Serialize)]
pub struct UserWithOrders {
    #[serde(flatten)]
    pub user: User,
    pub orders: Vec<OwnOrder>,
}
