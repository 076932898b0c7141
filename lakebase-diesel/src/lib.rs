#![doc = include_str!("../README.md")]

#[cfg(feature = "bb8")]
mod activity;
#[cfg(feature = "bb8")]
pub mod bb8;
mod connect;
#[cfg(feature = "bb8")]
mod manager;
pub mod migrations;
mod transient;

pub use connect::connect;
pub use lakebase_core::{self, Config, Credential, CredentialProvider, Error, Lakebase};
#[cfg(feature = "bb8")]
pub use manager::manager;
pub use transient::{is_transient, is_transient_connection_error};
