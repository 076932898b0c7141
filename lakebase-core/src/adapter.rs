//! Building blocks for adapters, through which a driver or a pool logs in to Lakebase directly. Applications use an adapter,
//! [`Lakebase::connect`] or the auth proxy.
//!
//! An adapter opens each connection through [`login`]. For tokio-postgres, that is [`Login::open`] (feature
//! `tokio-postgres`), which applies all settings of the target:
//!
//! ```no_run
//! # #[cfg(feature = "tokio-postgres")]
//! # mod example {
//! use lakebase_core::{Error, Lakebase, adapter};
//! use tokio_postgres::Client;
//!
//! async fn connect(lakebase: &Lakebase) -> Result<Client, Error> {
//!     let login = adapter::login(lakebase, |login| async move { login.open().await });
//!     let (client, connection) = login.await?;
//!     tokio::spawn(connection); // ends when the client is dropped
//!     Ok(client)
//! }
//! # }
//! ```
//!
//! [`Lakebase::connect`] does the same login. For another driver, see [`Login`] and [`LoginFailure`].
//!
//! # Pools
//!
//! The example `mobc_adapter` (`examples/src/bin/mobc_adapter.rs` in the repository) is a complete adapter for a pool. An adapter
//! has these parts:
//!
//! | part | use |
//! |---|---|
//! | opening a connection | [`login`], with [`Error`] as the manager's error type |
//! | most connections, idle time, lifetime | [`pool::MAX_SIZE`], [`pool::IDLE_TIMEOUT`], [`pool::max_lifetime`] |
//! | wait for a connection | [`pool::wait`]; a pool that has a shorter limit returns its own timeout, without the cause |
//! | check of an idle connection | the driver's local test for a closed connection, then, after [`pool::CHECK_AFTER`], a query with the limit [`pool::CHECK_LIMIT`] |
//! | error of a failed login | the pool's variant for errors of the manager holds it. [`find_cause`] finds it, too, if that variant returns it as its [`source`](std::error::Error::source); mobc's does not |
//! | cause of the pool's own timeout | [`last_failure_within`], with the caller's wait as `age` |
//!
//! An adapter that gives its driver a password ([`Lakebase::credential`]) and cannot run the driver's logins uses
//! [`is_current`], [`is_valid`], [`reject`] and [`accept`] in place of [`login`]. The module `migration` (feature
//! `admin`) is for migrations.
//!
//! A minor version may change this module. The rest of the crate changes only with a major version.

pub mod pool;

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

pub use crate::credential::clock::{Clock, SystemClock, Watch};
pub use crate::error::chain::find_cause;
pub use crate::error::foreign::clean_text;
pub use crate::error::says_transient;
#[cfg(feature = "admin")]
pub use crate::postgres::advice::advice;
pub use crate::postgres::login::{Login, LoginFailure};
pub use crate::postgres::transaction::{AsyncCall, FailedAttempt, retry_transaction};
pub use crate::postgres::transient::{is_transient_message, is_transient_sqlstate};

/// Migrations, for the adapters of all ORMs: the session with its lock, schema, settings and time limits, the error, and the observer
/// of a rehearsal.
#[cfg(feature = "admin")]
pub mod migration {
    pub use crate::postgres::migration::schema::{Change, Difference, Object};
    pub use crate::postgres::migration::{
        DISCARD_TEMPORARY, HeldLock, IndexBuild, LockMode, MIGRATION_LOCK, MigrationError,
        MigrationSession, Observer, Position, RESET_SESSION, Rehearsal, RehearsedMigration,
        Rewrite,
    };
}

use crate::credential::Credential;
use crate::credential::cache::{Cause, Rejection};
use crate::credential::single_flight::no_runtime;
use crate::error::Error;
use crate::lakebase::Lakebase;

/// Logs in: resolves the target, gets the current credential, runs `attempt` with both, and returns its value.
///
/// If Postgres rejects the token, the login renews it and runs `attempt` once more. It retries transient failures with growing pauses,
/// for example while a compute resumes, or while the workspace is down and no valid token is held. The limit for all of this is
/// [`Lakebase::connect_timeout`], so `attempt` and the caller need no time limit.
///
/// `attempt` can run several times, and can be dropped at any await point, at the latest after 15 s. It should only log in; prepare the
/// session on the returned connection.
///
/// # Errors
///
/// The cause, with a hint. If an attempt failed, the source is the text of the driver's error. [`Error::is_timeout`] after the limit,
/// with the text and source of the last failure, if there was one.
///
/// # Cancel safety
///
/// Dropping the future drops the attempt. Mints and look-ups run on separate tasks and continue.
pub async fn login<T, F>(lakebase: &Lakebase, attempt: impl FnMut(Login) -> F) -> Result<T, Error>
where
    F: Future<Output = Result<T, LoginFailure>>,
{
    lakebase.login(attempt).await
}

/// Fails outside of a tokio runtime, where timers and sockets of drivers and pools would panic.
///
/// # Errors
///
/// [`Error::is_config`] with a hint.
pub fn check_runtime() -> Result<(), Error> {
    let runtime = Handle::try_current();
    runtime.map(drop).map_err(|_| no_runtime())
}

/// Returns whether logins should still use `credential`: it is the newest one, does not expire soon, and with
/// [`Refresh::Lazy`](crate::Refresh::Lazy) or [`OnDemand`](crate::Refresh::OnDemand) is not due for renewal. It takes no lock.
pub fn is_current(lakebase: &Lakebase, credential: &Credential) -> bool {
    lakebase.is_current(credential)
}

/// Returns whether `credential` has not expired. It ignores newer credentials and rejections.
pub fn is_valid(lakebase: &Lakebase, credential: &Credential) -> bool {
    lakebase.is_valid(credential)
}

/// Reports that Postgres rejected a login with `credential`, so that [`Lakebase::credential`] returns a new one. [`login`] calls it
/// itself.
///
/// Returns whether a login with another credential can succeed. A replacement that is rejected, too, is kept for a minute, so that a
/// role that can never log in does not cause a request storm. While minting fails for a transient reason, [`Lakebase::credential`]
/// returns the rejected one once for each failed mint.
pub fn reject(lakebase: &Lakebase, credential: &Credential) -> bool {
    matches!(
        lakebase.reject_because(credential, Cause::Rejected),
        Rejection::Renew
    )
}

/// Reports that a login with `credential` succeeded, so that a later rejection means that it was revoked. [`login`] calls it itself.
pub fn accept(credential: &Credential) {
    credential.mark_accepted();
}

/// Returns why the last login, or its mint, failed; `None` if it failed before `age`, or a login has succeeded since.
///
/// Call it after a pool's own timeout, with the caller's wait as `age`, because an older failure is not the cause of the timeout. See
/// [`Lakebase::last_failure`], which has no limit of age.
pub fn last_failure_within(lakebase: &Lakebase, age: Duration) -> Option<Error> {
    lakebase.last_failure_within(age)
}

/// Reports a statement that has run to the exporter of [`opentelemetry`](crate::opentelemetry). For a failed statement, `failure` is
/// `Some` with its SQLSTATE, if it has one.
#[cfg(feature = "opentelemetry")]
pub fn record_operation(
    lakebase: &Lakebase,
    statement: &str,
    took: Duration,
    failure: Option<Option<&str>>,
) {
    if let Some(listener) = lakebase.counts().operations.get() {
        listener(statement, took, failure);
    }
}

/// Returns the clocks of the configuration, to measure how long a connection was idle.
pub fn watch(lakebase: &Lakebase) -> Arc<Watch> {
    Arc::clone(&lakebase.config().clock)
}
