#![doc = include_str!("../README.md")]

mod connect;
mod error;
#[cfg(feature = "migrations")]
pub mod migrations;
#[cfg(feature = "opentelemetry")]
pub mod opentelemetry;
mod options;
mod pool_ext;
mod transaction;

pub use connect::{connect, connect_with, user_pools};
pub use error::{cause, is_transient};
pub use lakebase_core::{
    self, Config, Credential, CredentialProvider, Error, Lakebase, Retry, User,
};
pub use options::options;
pub use pool_ext::PoolExt;
pub use transaction::transaction_with_retry;
