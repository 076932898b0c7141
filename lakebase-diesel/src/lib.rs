#![doc = include_str!("../README.md")]

#[cfg(any(
    feature = "bb8",
    feature = "deadpool",
    feature = "r2d2",
    feature = "blocking"
))]
mod activity;
mod background;
#[cfg(feature = "bb8")]
pub mod bb8;
#[cfg(feature = "blocking")]
pub mod blocking;
mod connect;
#[cfg(feature = "deadpool")]
pub mod deadpool;
#[cfg(feature = "r2d2")]
mod libpq;
#[cfg(any(feature = "bb8", feature = "deadpool"))]
mod manager;
pub mod migrations;
#[cfg(any(feature = "bb8", feature = "deadpool", feature = "blocking"))]
mod ping;
#[cfg(feature = "r2d2")]
pub mod r2d2;
#[cfg(any(
    feature = "bb8",
    feature = "deadpool",
    feature = "r2d2",
    feature = "blocking"
))]
mod suspicion;
#[cfg(any(feature = "r2d2", feature = "blocking"))]
pub mod sync_pool;
mod transient;
#[cfg(any(
    feature = "bb8",
    feature = "deadpool",
    feature = "r2d2",
    feature = "blocking"
))]
mod tuning;

pub use connect::connect;
pub use lakebase_core::{self, Config, Credential, CredentialProvider, Error, Lakebase};
#[cfg(any(feature = "bb8", feature = "deadpool"))]
pub use manager::manager;
pub use transient::{is_transient, is_transient_connection_error};
