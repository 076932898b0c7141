//! Building blocks for adapters, which let a driver or a pool log in to Lakebase directly. Applications use an adapter,
//! [`Lakebase::connect`] or the auth proxy instead.
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
//! The example `mobc_adapter` (`examples/src/bin/mobc_adapter.rs` in the repository) is a complete adapter for a pool. The
//! parts of one:
//!
//! | part | use |
//! |---|---|
//! | opening a connection | [`login`], with [`Error`] as the manager's error type |
//! | most connections, idle time, lifetime | [`pool::MAX_SIZE`], [`pool::IDLE_TIMEOUT`], [`pool::max_lifetime`] |
//! | wait for a connection | [`pool::wait`]; a pool that has a shorter limit returns its own timeout, without the cause |
//! | check of an idle connection | the driver's local test for a closed connection, then, after [`pool::CHECK_AFTER`], a query that is answered within [`pool::CHECK_LIMIT`] |
//! | error of a failed login | the pool's variant for errors of the manager holds it. [`find_cause`] finds it, too, if that variant returns it as its [`source`](std::error::Error::source); mobc's does not |
//! | the pool's own timeout | [`last_failure_within`], with the caller's wait as `age` |
//!
//! An adapter that gives its driver a password ([`Lakebase::credential`]) and cannot run the driver's logins uses
//! [`is_current`], [`is_valid`], [`reject`] and [`accept`] in place of [`login`]. The module `migration` (feature
//! `migrations`) is for migrations.
//!
//! A minor version may change what is in this module; an application's names change with a major version only.

pub mod pool;

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;

pub use crate::credential::clock::{Clock, SystemClock, Watch};
pub use crate::error::chain::find_cause;
pub use crate::error::foreign::clean_text;
pub use crate::error::says_transient;
#[cfg(feature = "migrations")]
pub use crate::postgres::advice::advice;
pub use crate::postgres::login::{Login, LoginFailure};
pub use crate::postgres::transaction::{AsyncCall, FailedAttempt, retry_transaction};
pub use crate::postgres::transient::{is_transient_message, is_transient_sqlstate};

/// The session that migrates, for all ORMs: lock, schema, settings and time limits, why it failed, and the observer of a
/// rehearsal.
#[cfg(feature = "migrations")]
pub mod migration {
    pub use crate::postgres::migration::schema::{Change, Difference, Object, Snapshot};
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

/// Logs in: resolves the target, takes the current credential, runs `attempt` with both and returns its value.
///
/// A rejected token is renewed once and the login tried once more; what is transient (a compute that resumes, a workspace
/// that is down while no valid token is held) is retried with growing pauses. All of it fits into
/// [`Lakebase::connect_timeout`], so neither `attempt` nor the caller needs a time limit of its own.
///
/// `attempt` may run several times and may be dropped at any await, at the latest after 15 s. It should only log in: prepare
/// the session on the returned connection instead.
///
/// # Errors
///
/// The cause, with a hint. If an attempt failed, the source is the driver's error. [`Error::is_timeout`] if the time ran out;
/// text and source are then those of the last failure, if there was one.
///
/// # Cancel safety
///
/// Dropping the future drops the attempt. Mints and look-ups run on tasks of their own and go on.
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

/// Returns whether `credential` is still the one to log in with: the newest, not about to expire, and with
/// [`Refresh::Lazy`](crate::Refresh::Lazy) or [`OnDemand`](crate::Refresh::OnDemand) not due for renewal. Reads an atomic and the clock; takes no lock.
pub fn is_current(lakebase: &Lakebase, credential: &Credential) -> bool {
    lakebase.is_current(credential)
}

/// Returns whether `credential` has not expired, newest or not. One that Postgres has rejected may be valid.
pub fn is_valid(lakebase: &Lakebase, credential: &Credential) -> bool {
    lakebase.is_valid(credential)
}

/// Reports that Postgres rejected a login with `credential`, so that the next
/// [`Lakebase::credential`] is a new one. [`login`] does so by itself.
///
/// Returns whether another credential is worth trying: a role that can never log in must not cause a storm of mints, so
/// a replacement that was rejected as well is kept for a minute. While no new one can be minted for a transient reason,
/// the rejected one is returned once per attempt to mint.
pub fn reject(lakebase: &Lakebase, credential: &Credential) -> bool {
    matches!(
        lakebase.reject_because(credential, Cause::Rejected),
        Rejection::Renew
    )
}

/// Reports that a login with `credential` succeeded. A rejection after that means that it was revoked. [`login`] does
/// so by itself.
pub fn accept(credential: &Credential) {
    credential.mark_accepted();
}

/// Returns why the last login, or the mint before it, failed: `None` if that is longer ago than `age`, or a login has
/// succeeded since.
///
/// Call it after a pool's own timeout, with the time that the caller has waited as `age`: an older failure is not the cause
/// of this timeout. All clones of a [`Lakebase`] share the last failure; [`with_database`](Lakebase::with_database) returns
/// a handle with its own. [`Lakebase::last_failure`] has no limit of age.
pub fn last_failure_within(lakebase: &Lakebase, age: Duration) -> Option<Error> {
    lakebase.last_failure_within(age)
}

/// Reports a statement that has run, for the exporter of `opentelemetry`. `failure` has the SQLSTATE of one that failed, if there was one.
#[cfg(feature = "opentelemetry")]
pub fn record_operation(
    lakebase: &Lakebase,
    statement: &str,
    took: Duration,
    failure: Option<Option<&str>>,
) {
    if let Some(listener) = lakebase.counts().operations.get() {
        listener(&crate::telemetry::Operation {
            statement,
            took,
            failure,
        });
    }
}

/// Returns the clocks of the configuration, to measure for how long a connection was idle.
pub fn watch(lakebase: &Lakebase) -> Arc<Watch> {
    Arc::clone(&lakebase.config().clock)
}
