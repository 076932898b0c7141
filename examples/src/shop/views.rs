//! Views of the page and the API, for both ORMs.

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

/// An order without its user.
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
