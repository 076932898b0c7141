#![doc = include_str!("../README.md")]

mod connect;
mod connection;
mod error;
mod feed;
mod liveness;
pub mod migrations;
mod options;
#[cfg(feature = "schema-sync")]
mod schema_sync;

pub use connect::{connect, connect_with};
pub use connection::LakebaseConnection;
pub use error::{cause, is_transient};
pub use lakebase_core::{self, Config, Credential, CredentialProvider, Error, Lakebase};
pub use options::options;
