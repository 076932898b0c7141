#![doc = include_str!("../README.md")]

#[cfg(feature = "async")]
mod activity;
#[cfg(any(feature = "migrations", feature = "r2d2"))]
mod background;
#[cfg(feature = "bb8")]
pub mod bb8;
#[cfg(feature = "async")]
mod check;
#[cfg(feature = "async")]
mod connect;
#[cfg(feature = "deadpool")]
pub mod deadpool;
#[cfg(feature = "async")]
mod manager;
#[cfg(feature = "migrations")]
pub mod migrations;
#[cfg(feature = "opentelemetry")]
pub mod opentelemetry;
#[cfg(any(feature = "deadpool", feature = "r2d2"))]
mod pool_ext;
#[cfg(feature = "r2d2")]
pub mod r2d2;
#[cfg(feature = "async")]
mod transaction;
mod transient;

#[cfg(feature = "async")]
pub use connect::connect;
pub use lakebase_core::{
    self, Config, Credential, CredentialProvider, Error, Lakebase, Retry, User,
};
#[cfg(feature = "async")]
pub use manager::manager;
#[cfg(any(feature = "deadpool", feature = "r2d2"))]
pub use pool_ext::PoolExt;
#[cfg(feature = "async")]
pub use transaction::transaction_with_retry;
pub use transient::{cause, is_transient};
