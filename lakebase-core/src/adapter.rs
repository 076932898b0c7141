//! What an adapter for a driver or a pool is built on. Applications use an adapter, [`Lakebase::connect`] or the auth
//! proxy instead.
//!
//! An adapter opens each connection through [`login`]. Everything else here is for pools that want to tell why they
//! have no connection, for drivers that are given a password instead of asking for one, and for migrations.
//!
//! A minor version may change what is in this module; an application's names change with a major version only.

use std::sync::Arc;

use tokio::time::Instant;

pub use crate::credential::clock::{Clock, SystemClock, Watch};
pub use crate::error::foreign::clean_text;
#[cfg(feature = "migrations")]
pub use crate::postgres::advice::advice;
pub use crate::postgres::login::{Login, LoginFailure};
pub use crate::postgres::transaction::find_cause;
pub use crate::postgres::transient::{is_transient_message, is_transient_sqlstate};

/// The session that migrates, for all ORMs: lock, schema, and what keeps a migration's own settings out of the history.
#[cfg(feature = "migrations")]
pub mod migration {
    pub use crate::postgres::migration::{
        DISCARD_TEMPORARY, MIGRATION_LOCK, MigrationLock, MigrationSession, RESET_SESSION,
        SAVE_SESSION,
    };
}

use crate::credential::Credential;
use crate::credential::cache::{Cause, Rejection};
use crate::error::Error;
use crate::lakebase::Lakebase;

/// Logs in: resolves the target, takes the current credential, runs `attempt` with both.
///
/// A rejected token is renewed once and the login tried once more; what is transient (a compute that resumes, a workspace
/// that is down while no valid token is held) is tried again with growing pauses. All of it fits into
/// [`Lakebase::connect_timeout`]. Only the login is ever repeated, so `attempt` must do nothing else that matters.
///
/// # Errors
///
/// The cause, with a hint. [`Error::is_timeout`] if the time ran out; its source is the last cause.
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

/// Returns whether `credential` is still the one to log in with: the newest, not about to expire, and with
/// [`Refresh::Lazy`](crate::Refresh::Lazy) not due for renewal. Reads an atomic and the clock; takes no lock.
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

/// Returns the clocks of the configuration, for the ages of connections.
pub fn watch(lakebase: &Lakebase) -> Arc<Watch> {
    Arc::clone(&lakebase.config().clock)
}

/// Why the last login, or the mint before it, failed; `None` since the last success, and if that was before `moment`.
pub fn last_failure_since(lakebase: &Lakebase, moment: Instant) -> Option<Error> {
    lakebase.last_failure_since(moment)
}
