//! The one login loop: every adapter logs in through it.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout_at};

use secrecy::SecretString;

use crate::cache::{Cause, Rejection};
use crate::error::Kind;
use crate::foreign::clean_text;
use crate::refresh::MAX_ASKED_WAIT;
use crate::single_flight::no_runtime;
use crate::{Credential, Error, Lakebase, Target, tls};

/// One attempt is cut off here, so that a server that accepts and stays silent costs one attempt
/// and not the whole budget.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(15);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Asking for a credential again costs nothing, as callers share a failure for half a second. So a login
/// that waits for the workspace is there within a second after it is back.
const LONGEST_PAUSE_FOR_WORKSPACE: Duration = Duration::from_millis(250);

/// A fresh branch rejects good credentials for seconds, seldom for a minute.
const FIRST_PAUSE_FOR_BRANCH: Duration = Duration::from_millis(500);
const LONGEST_PAUSE_FOR_BRANCH: Duration = Duration::from_secs(4);

/// Key of the Postgres advisory lock under which the adapters run migrations, so that replicas that
/// start together do not run them twice. One key for all adapters: schemas may overlap.
pub const MIGRATION_LOCK: i64 = 0x6c61_6b65_6261_7365;

/// What an attempt logs in with.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Login {
    /// Where to.
    pub target: Arc<Target>,
    /// With what.
    pub credential: Credential,
}

impl Login {
    /// A login to `target` with `credential`.
    pub fn new(target: Arc<Target>, credential: Credential) -> Self {
        Self { target, credential }
    }
}

/// How an attempt failed, in the words of whatever driver made it.
pub struct LoginFailure {
    kind: FailureKind,
    source: Box<dyn StdError + Send + Sync>,
}

enum FailureKind {
    Postgres { sqlstate: String, message: String },
    Transport,
    Closed,
    Permanent,
}

impl LoginFailure {
    /// Postgres, or the gateway in front of it, answered with an error.
    pub fn postgres(
        sqlstate: impl Into<String>,
        message: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self {
            kind: FailureKind::Postgres {
                sqlstate: sqlstate.into(),
                message: message.into(),
            },
            source: source.into(),
        }
    }

    /// The connection failed: refused, reset, no TLS.
    pub fn transport(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            kind: FailureKind::Transport,
            source: source.into(),
        }
    }

    /// The server closed the connection in the middle of the login, behind TLS, without a word.
    pub fn closed(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            kind: FailureKind::Closed,
            source: source.into(),
        }
    }

    /// The driver's own error.
    pub fn into_source(self) -> Box<dyn StdError + Send + Sync> {
        self.source
    }

    /// Anything that trying again cannot change.
    pub fn permanent(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            kind: FailureKind::Permanent,
            source: source.into(),
        }
    }
}

/// What to do about a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The credential was refused: renew once, then give up.
    Refused,
    /// The branch is so fresh that it rejects good credentials: tried again within the budget, with new
    /// ones.
    Unready,
    /// Worth trying again within the budget.
    Transient,
    /// Not worth it.
    Permanent,
}

/// A platform that does not take native passwords closes the connection without a word. So may a compute
/// that wakes, but not that often in a row.
const MOST_CLOSED: u32 = 3;

const WORKSPACE: &str = "the workspace";
const BRANCH: &str = "the branch, which still rejects logins";

/// How far a login has come.
#[derive(Default)]
struct Progress {
    renewed: bool,
    closed: u32,
    waiting_for: &'static str,
}

/// Texts by which the gateway refuses a token, whatever SQLSTATE comes with them.
const REFUSALS: &[&str] = &[
    "authentication failed",
    "authentication token",
    "invalid authorization",
    "failed to decode token",
    "jwt token",
    "security label",
];

/// The platform documents no SQLSTATEs for errors of its gateway, so class 28 or one of the known
/// texts counts as a refusal.
fn judge(sqlstate: &str, message: &str) -> Verdict {
    let message = message.to_lowercase();
    if message.contains("external authorization failed") {
        return Verdict::Unready;
    }
    if sqlstate.starts_with("28") || REFUSALS.iter().any(|text| message.contains(text)) {
        return Verdict::Refused;
    }
    // A role that is not there, in whatever code a gateway may wrap it.
    if message.contains("role ") && message.contains("does not exist") {
        return Verdict::Refused;
    }
    // What gateways answer to a startup without TLS, and poolers to one with settings.
    if message.contains("invalid protocol version") || message.contains("unsupported startup") {
        return Verdict::Permanent;
    }
    match sqlstate {
        // Shutting down, crashed, starting up; out of connections, memory or disk; lost contact.
        "57P01" | "57P02" | "57P03" => Verdict::Transient,
        _ if sqlstate.starts_with("53") || sqlstate.starts_with("08") => Verdict::Transient,
        // A gateway's own trouble: the compute cannot be reached, or not yet.
        "XX000" | "58000" => Verdict::Transient,
        _ => Verdict::Permanent,
    }
}

/// What to do next, for the person who reads the error.
fn hint(sqlstate: &str, message: &str, target: &Target, uses_tokens: bool) -> Option<String> {
    let message = message.to_lowercase();
    let user = target.user();
    let hint = match sqlstate {
        "3D000" => "Check PGDATABASE".to_owned(),
        _ if message.contains("not permitted to log in") => {
            format!("The role {user:?} is made for membership only: check PGUSER")
        }
        "42501" => format!(
            "Run: GRANT CONNECT ON DATABASE \"{}\" TO \"{user}\"",
            target.database()
        ),
        "53300" => {
            "The compute's connection limit is reached: use smaller pools or a larger compute"
                .to_owned()
        }
        _ if message.contains("invalid protocol version") => {
            "The server demands TLS: set PGSSLMODE (in a URL, sslmode) to require".to_owned()
        }
        _ if judge(sqlstate, &message) == Verdict::Unready => {
            "A fresh branch rejects logins for some seconds; if this one is not fresh, check the identity's right to use it"
                .to_owned()
        }
        _ if message.contains("does not exist") => format!(
            "Create the role (SELECT databricks_create_role('{user}', ...)), or check PGUSER"
        ),
        _ if message.contains("security label") || message.contains("identity") => format!(
            "The signed-in identity must be the role {user:?} itself (case-sensitive) or a member of that group role: check PGUSER and the sign-in"
        ),
        _ if judge(sqlstate, &message) != Verdict::Refused => return None,
        _ if uses_tokens => {
            let role = format!(
                "Check that role {user:?} belongs to the signed-in identity and was made by databricks_create_role, not by plain CREATE ROLE"
            );
            match target.database() {
                // The platform made it, and the extension in it.
                "databricks_postgres" => role,
                database => format!(
                    "{role}. If the database {database:?} was made by plain CREATE DATABASE, tokens are rejected there until its owner runs in it, with a native login: CREATE EXTENSION IF NOT EXISTS databricks_auth"
                ),
            }
        }
        _ => "Check PGPASSWORD, and that native login is enabled for the endpoint".to_owned(),
    };
    Some(hint)
}

impl Lakebase {
    /// Logs in: resolves the target, takes the current credential, runs `attempt` with both.
    ///
    /// A refused token is renewed once and the login tried once more; what is transient (a compute
    /// that wakes, a workspace that is down while nothing valid is held) is tried again with
    /// growing pauses. All of it fits into [`connect_timeout`](Self::connect_timeout). Only the
    /// login is ever repeated, so `attempt` must do nothing else that matters.
    ///
    /// This is what adapters are built on; applications use those, or `connect`.
    ///
    /// # Errors
    ///
    /// The cause, with a hint. [`Error::is_timeout`] if the budget ran out; its source is the last
    /// cause.
    ///
    /// # Cancel safety
    ///
    /// Safe as far as `attempt` is: nothing else is lost.
    pub async fn login<T, F>(&self, mut attempt: impl FnMut(Login) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, LoginFailure>>,
    {
        // Timers and sockets of tokio panic without one.
        Handle::try_current().map_err(|_| no_runtime())?;
        let budget = self.connect_timeout();
        let deadline = Instant::now() + budget;
        let mut pause = FIRST_PAUSE;
        let mut progress = Progress::default();
        let mut last = None;
        loop {
            let step = self.step(&mut attempt, &mut progress);
            let failure = match timeout_at(deadline, step).await {
                Ok(Ok(Some(connection))) => {
                    self.set_last_failure(None);
                    return Ok(connection);
                }
                Ok(Ok(None)) => continue,
                Ok(Err(failure)) => failure,
                Err(_) => return Err(self.out_of_time(progress.waiting_for, last)),
            };
            self.set_last_failure(Some(failure.clone()));
            if !failure.is_transient() || progress.closed == MOST_CLOSED {
                return Err(failure);
            }
            let [shortest, longest] = match progress.waiting_for {
                WORKSPACE => [FIRST_PAUSE, LONGEST_PAUSE_FOR_WORKSPACE],
                BRANCH => [FIRST_PAUSE_FOR_BRANCH, LONGEST_PAUSE_FOR_BRANCH],
                _ => [FIRST_PAUSE, LONGEST_PAUSE],
            };
            let wait = pause
                .clamp(shortest, longest)
                .mul_f64(0.5 + fastrand::f64())
                .max(
                    failure
                        .retry_after()
                        .unwrap_or_default()
                        .min(MAX_ASKED_WAIT),
                );
            match last {
                None => tracing::warn!(error = %failure.chain(), "login failed, tries again"),
                Some(_) => tracing::debug!(error = %failure, ?wait, "login failed again"),
            }
            last = Some(failure);
            if wait >= deadline.saturating_duration_since(Instant::now()) {
                return Err(self.out_of_time(progress.waiting_for, last));
            }
            sleep(wait).await;
            pause = (pause.max(shortest) * 2).min(longest);
        }
    }

    /// One attempt. `None` asks for another one at once, with a renewed credential.
    async fn step<T, F>(
        &self,
        attempt: &mut impl FnMut(Login) -> F,
        progress: &mut Progress,
    ) -> Result<Option<T>, Error>
    where
        F: Future<Output = Result<T, LoginFailure>>,
    {
        progress.waiting_for = WORKSPACE;
        let (target, credential) = tokio::try_join!(self.target(), self.credential())?;
        progress.waiting_for = "Postgres";
        let login = Login::new(Arc::clone(&target), credential.clone());
        let until = Instant::now() + ATTEMPT_LIMIT;
        let whole = async {
            self.check_pooled_schema(&login).await?;
            attempt(login).await
        };
        let failure = match timeout_at(until, whole).await {
            Ok(Ok(connection)) => {
                self.accept(&credential);
                self.note_transport(false);
                return Ok(Some(connection));
            }
            Ok(Err(failure)) => failure,
            Err(elapsed) => LoginFailure::transport(elapsed),
        };
        progress.closed = match failure.kind {
            FailureKind::Closed if !self.uses_tokens() => progress.closed + 1,
            _ => 0,
        };
        self.note_transport(matches!(failure.kind, FailureKind::Transport));
        let secrets = [SecretString::from(credential.expose())];
        let (verdict, error) = self.explain(failure, &target, &secrets);
        let cause = match verdict {
            Verdict::Refused => Cause::Rejected,
            Verdict::Unready => Cause::Unready,
            Verdict::Transient | Verdict::Permanent => return Err(error),
        };
        match self.reject_because(&credential, cause) {
            // A new credential cannot be minted: that is what has to be waited for.
            Rejection::Stuck(why) => {
                progress.waiting_for = WORKSPACE;
                Err(why.with_setting("Postgres rejected the token, and a new one cannot be minted"))
            }
            // A last resort does not count: a new one has arrived while it was tried.
            Rejection::Renew
                if verdict == Verdict::Refused
                    && (!progress.renewed || credential.is_last_resort()) =>
            {
                tracing::info!(%error, "login rejected, renews the credential");
                progress.renewed = true;
                Ok(None)
            }
            _ if verdict == Verdict::Unready => {
                progress.waiting_for = BRANCH;
                Err(error)
            }
            _ => Err(error),
        }
    }

    /// Judges a failed attempt and puts it into words.
    fn explain(
        &self,
        failure: LoginFailure,
        target: &Target,
        secrets: &[SecretString],
    ) -> (Verdict, Error) {
        let compute = self.config().compute.as_ref().map(ToString::to_string);
        let (verdict, error) = match &failure.kind {
            FailureKind::Postgres { sqlstate, message } => {
                let verdict = judge(sqlstate, message);
                let (kind, what) = match verdict {
                    Verdict::Refused | Verdict::Unready => (Kind::Login, "rejected the login"),
                    Verdict::Transient | Verdict::Permanent => {
                        (Kind::Database, "did not open a session")
                    }
                };
                let error = Error::new(kind, format!("Postgres {what} as {target}"))
                    .with_sqlstate(Some(&clean_text(sqlstate)))
                    .with_transient(matches!(verdict, Verdict::Transient | Verdict::Unready));
                match hint(sqlstate, message, target, self.uses_tokens()) {
                    Some(hint) => (verdict, error.with_hint(hint)),
                    None => (verdict, error),
                }
            }
            FailureKind::Transport if tls::find_failure(&*failure.source).is_some() => {
                let error = Error::new(Kind::Network, format!("no trusted TLS connection to {target}"))
                    .with_hint("The certificate must match the host name and chain to a trusted root: check PGHOST and PGSSLROOTCERT")
                    .with_transient(false);
                (Verdict::Permanent, error)
            }
            FailureKind::Closed if !self.uses_tokens() => (
                Verdict::Transient,
                Error::new(Kind::Network, format!("the server closed the connection in the middle of the login to {target}")).with_hint(
                    "Native login may be off for the endpoint: it is by default (enable_pg_native_login)",
                ),
            ),
            FailureKind::Transport | FailureKind::Closed => (
                Verdict::Transient,
                Error::new(Kind::Network, format!("no connection to {target}")).with_hint(
                    "Check PGHOST, PGPORT and the network, unless the compute is just waking up",
                ),
            ),
            FailureKind::Permanent => {
                if let Some(own) = failure.source.downcast_ref::<Error>() {
                    return (Verdict::Permanent, own.clone().with_compute(compute));
                }
                let error = Error::new(Kind::Database, format!("cannot log in as {target}"));
                (Verdict::Permanent, error)
            }
        };
        (
            verdict,
            error
                .with_compute(compute)
                .caused_by(&*failure.source, secrets),
        )
    }

    fn out_of_time(&self, waiting_for: &str, last: Option<Error>) -> Error {
        let budget = self.connect_timeout().as_secs_f64();
        let what = format!("no login within {budget} s");
        let error = match last {
            Some(last) => last.given_up(&what),
            None => Error::new(
                Kind::Timeout,
                format!("{what}, still waiting for {waiting_for}"),
            ),
        };
        self.set_last_failure(Some(error.clone()));
        error
    }

    /// Puts a failure that happened outside of [`login`](Self::login) into the same words.
    pub fn describe_failure(&self, failure: LoginFailure, target: &Target) -> Error {
        let held = self.held_credential();
        let secrets: Vec<_> = held
            .iter()
            .map(|held| SecretString::from(held.expose()))
            .collect();
        self.explain(failure, target, &secrets).1
    }
}

/// The driver's message, cleaned.
impl fmt::Display for LoginFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&clean_text(&self.source.to_string()))
    }
}

impl fmt::Debug for LoginFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LoginFailure({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_by_class_28_or_by_text_and_the_rest_by_what_can_change() {
        for (sqlstate, message, verdict) in [
            (
                "28P01",
                "password authentication failed for user \"x\"",
                Verdict::Refused,
            ),
            ("28000", "role \"x\" does not exist", Verdict::Refused),
            (
                "XX000",
                "password authentication failed for user 'x'",
                Verdict::Refused,
            ),
            (
                "XX000",
                "Provided authentication token is not a valid JWT encoding",
                Verdict::Refused,
            ),
            (
                "XX000",
                "Invalid authorization for databricks identity login",
                Verdict::Refused,
            ),
            ("XX000", "JWT token has expired (exp=1)", Verdict::Refused),
            ("XX000", "Failed to decode token for role", Verdict::Refused),
            (
                "28P01",
                "token's identity did not match the security label configured for role x",
                Verdict::Refused,
            ),
            ("28000", "External authorization failed", Verdict::Unready),
            ("28P01", "external authorization failed", Verdict::Unready),
            ("XX000", "External authorization failed", Verdict::Unready),
            ("XX000", "Control plane request failed", Verdict::Transient),
            (
                "57P03",
                "the database system is starting up",
                Verdict::Transient,
            ),
            (
                "57P01",
                "terminating connection due to administrator command",
                Verdict::Transient,
            ),
            (
                "53300",
                "sorry, too many clients already",
                Verdict::Transient,
            ),
            ("08006", "connection failure", Verdict::Transient),
            (
                "42501",
                "permission denied for database \"x\"",
                Verdict::Permanent,
            ),
            ("3D000", "database \"x\" does not exist", Verdict::Permanent),
            ("0A000", "unsupported frontend protocol", Verdict::Permanent),
            ("XX000", "role \"x\" does not exist", Verdict::Refused),
            (
                "08P01",
                "Invalid protocol version: 196608",
                Verdict::Permanent,
            ),
            (
                "08P01",
                "unsupported startup parameter: options",
                Verdict::Permanent,
            ),
        ] {
            assert_eq!(judge(sqlstate, message), verdict, "{sqlstate} {message}");
        }
    }
}
