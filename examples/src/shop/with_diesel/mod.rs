//! The shop on diesel-async, with a pool of bb8.

mod failure;
mod migrate;
mod models;
mod routes;
mod schema;

pub use migrate::migrate;
pub use routes::routes;
