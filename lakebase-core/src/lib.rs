#![doc = include_str!("../README.md")]

pub mod adapter;
#[cfg(feature = "admin")]
pub mod admin;
pub mod config;
mod credential;
mod error;
mod http;
mod lakebase;
#[cfg(feature = "opentelemetry")]
pub mod opentelemetry;
mod postgres;
#[cfg(feature = "proxy")]
pub mod proxy;
mod settings;
mod sign_in;
mod target;
pub mod telemetry;
#[cfg(feature = "admin")]
pub mod testing;
mod tls;
pub mod users;
mod workspace;

pub use config::Config;
pub use credential::{Credential, CredentialProvider, Refresh};
pub use error::Error;
pub use lakebase::{Lakebase, User};
pub use postgres::transaction::Retry;
#[cfg(feature = "tokio-postgres")]
pub use postgres::transient::is_transient;
pub use target::Target;
