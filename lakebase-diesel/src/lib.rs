#![doc = include_str!("../README.md")]

mod activity;
#[cfg(feature = "bb8")]
pub mod bb8;
mod connect;
mod manager;
pub mod migrations;

pub use connect::connect;
pub use lakebase_core::{self, Config, Error, Lakebase};
pub use manager::manager;
