//! Logins to Postgres, and the session that runs migrations.

#[cfg(feature = "admin")]
pub(crate) mod advice;
pub(crate) mod classify;
#[cfg(feature = "tokio-postgres")]
pub(crate) mod connect;
pub(crate) mod login;
#[cfg(feature = "admin")]
pub(crate) mod migration;
pub(crate) mod pooled_schema;
#[cfg(feature = "tokio-postgres")]
pub(crate) mod search_path;
#[cfg(any(feature = "proxy", feature = "tokio-postgres"))]
pub(crate) mod tcp;
pub(crate) mod transaction;
pub(crate) mod transient;
