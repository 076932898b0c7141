#![doc = include_str!("../README.md")]

mod advice;
mod auth;
mod cache;
mod claim;
mod clock;
mod compute;
pub mod config;
#[cfg(feature = "tokio-postgres")]
mod connect;
mod credential;
mod endpoint;
mod error;
mod foreign;
mod http;
mod inspect;
mod lakebase;
mod login;
#[cfg(feature = "tokio-postgres")]
pub mod migration;
mod pooled_schema;
mod provider;
#[cfg(feature = "proxy")]
pub mod proxy;
mod refresh;
mod remembered;
mod retry;
#[cfg(feature = "tokio-postgres")]
pub mod roles;
mod single_flight;
mod sql;
mod target;
#[cfg(any(feature = "proxy", feature = "tokio-postgres"))]
mod tcp;
mod tls;
pub mod transaction;
mod transient;
mod workspace;

pub use advice::advice;
pub use auth::AzureEndpoints;
pub use claim::Claim;
pub use clock::{Clock, SystemClock};
pub use compute::HostKind;
pub use config::{Config, ConfigBuilder, ResolvedSetting, TlsMode};
#[cfg(feature = "tokio-postgres")]
pub use connect::Connection;
pub use credential::Credential;
pub use endpoint::EndpointPath;
pub use error::Error;
pub use foreign::clean_text;
pub use inspect::ComputeStatus;
pub use lakebase::Lakebase;
pub use login::{Login, LoginFailure, MIGRATION_LOCK};
pub use provider::CredentialProvider;
pub use refresh::Refresh;
pub use target::Target;
#[cfg(feature = "tokio-postgres")]
pub use transient::is_transient;
pub use transient::{is_transient_message, is_transient_sqlstate};
