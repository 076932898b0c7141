//! A small web service: users place orders, on a page or through a JSON API.
//!
//! Once on diesel-async, once on SeaORM. Neither knows what kind of Postgres its pool leads to: the
//! programs `shop_diesel_before` and `shop_diesel`, `shop_seaorm_before` and `shop_seaorm` differ in how
//! they connect, and in nothing else.

mod failure;
mod input;
mod page;
mod serve;
mod views;
pub mod with_diesel;
pub mod with_seaorm;

pub use serve::serve;

/// What the shop's programs end with.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// As many orders as the page and the API show, the newest first.
const SHOWN: u32 = 50;
