//! A small web service: users place orders, on a page or through a JSON API.
//!
//! One version uses diesel-async, the other SeaORM. Neither depends on the kind of Postgres: the programs
//! `shop_diesel_before` and `shop_diesel`, `shop_seaorm_before` and `shop_seaorm` differ only in how they connect.

mod failure;
mod input;
mod page;
mod serve;
mod views;
pub mod with_diesel;
pub mod with_seaorm;

pub use serve::serve;

/// How many orders the page and the API show, the newest first.
const SHOWN: u32 = 50;
