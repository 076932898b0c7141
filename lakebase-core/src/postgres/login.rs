//! The one login loop: every adapter logs in through it.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout_at};

use crate::credential::Credential;
use crate::credential::cache::{Cause, Rejection};
use crate::credential::refresh::MAX_ASKED_WAIT;
use crate::credential::single_flight::no_runtime;
use crate::error::chain::find_cause;
use crate::error::foreign::clean_text;
use crate::error::{Error, Kind};
use crate::lakebase::Lakebase;
use crate::postgres::classify::{Verdict, classify, hint};
use crate::target::Target;

/// One attempt is cut off here, so that a server that accepts and does not answer costs one attempt
/// and not the whole budget.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(15);

/// What a login waits for, and the shortest and longest pause before it is attempted again.
struct Obstacle {
    name: &'static str,
    pauses: [Duration; 2],
}

/// Asking for a credential again costs nothing, as callers share a failure for half a second. So a login
/// that waits for the workspace is there within a second after it is back.
const WORKSPACE: Obstacle = Obstacle {
    name: "the workspace",
    pauses: [Duration::from_millis(50), Duration::from_millis(250)],
};
const POSTGRES: Obstacle = Obstacle {
    name: "Postgres",
    pauses: [Duration::from_millis(50), Duration::from_secs(1)],
};
/// A fresh branch rejects good credentials for seconds, seldom for a minute.
const BRANCH: Obstacle = Obstacle {
    name: "the branch, which still rejects logins",
    pauses: [Duration::from_millis(500), Duration::from_secs(4)],
};

/// A platform that does not take native passwords closes the connection without an error. So may a compute
/// that wakes, but not that often in a row.
const MOST_CLOSED: u32 = 3;

/// The target and the credential of one attempt to log in.
///
/// With the feature `tokio-postgres`, `Login::open` makes the attempt. Another driver needs all of these:
///
/// | the driver's setting | value |
/// |---|---|
/// | host, address, port | [`Target::host`], [`Target::hostaddr`] if there is one, [`Target::port`] |
/// | database, user, application name | [`Target::database`], [`Target::user`], [`Target::application_name`] |
/// | password | [`Credential::expose`] |
/// | TLS | [`Target::tls_config`] for rustls, which verifies chain and name; none unless [`Target::uses_tls`] |
/// | search path | [`Target::search_path`], or as `options` [`Target::startup_options`] |
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Login {
    /// Host, port, database, user and TLS.
    pub target: Arc<Target>,
    /// The password: a token, or a native password.
    pub credential: Credential,
}

/// How an attempt failed. The constructor decides whether [`adapter::login`](crate::adapter::login) retries; `source` is
/// the driver's error and becomes the source of [`Error`].
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
    fn new(kind: FailureKind, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let source = source.into();
        Self { kind, source }
    }

    /// Postgres, or the gateway in front of it, answered with an error. The SQLSTATE decides: a rejected credential is
    /// renewed once, a compute that is not ready is retried, and anything else ends the login.
    pub fn postgres(
        sqlstate: impl Into<String>,
        message: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        let (sqlstate, message) = (sqlstate.into(), message.into());
        Self::new(FailureKind::Postgres { sqlstate, message }, source)
    }

    /// The connection failed: refused, reset, no TLS. Retried.
    pub fn transport(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(FailureKind::Transport, source)
    }

    /// The server closed the connection during the login, after the TLS handshake, without an error. Retried; with a native
    /// password, the error after three in a row names the likely cause.
    pub fn closed(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(FailureKind::Closed, source)
    }

    /// Any failure that a retry cannot fix, such as a setting that the driver does not support. Ends the login.
    pub fn permanent(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::new(FailureKind::Permanent, source)
    }
}

/// How far a login has come.
struct Progress {
    renewed: bool,
    closed: u32,
    waiting_for: &'static Obstacle,
}

impl Lakebase {
    /// See [`adapter::login`](crate::adapter::login).
    pub(crate) async fn login<T, F>(&self, mut attempt: impl FnMut(Login) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, LoginFailure>>,
    {
        // Timers and sockets of tokio panic without one.
        Handle::try_current().map_err(|_| no_runtime())?;
        let budget = self.connect_timeout();
        let deadline = Instant::now() + budget;
        let mut pause = Duration::ZERO;
        let mut progress = Progress {
            renewed: false,
            closed: 0,
            waiting_for: &WORKSPACE,
        };
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
            let [shortest, longest] = progress.waiting_for.pauses;
            pause = pause.clamp(shortest, longest);
            let asked = failure.retry_after().unwrap_or_default();
            let wait = pause
                .mul_f64(0.5 + fastrand::f64())
                .max(asked.min(MAX_ASKED_WAIT));
            match last {
                None if !self.is_fresh() => {
                    tracing::warn!(error = %failure.chain(), "login failed, tries again");
                }
                _ => tracing::debug!(error = %failure, ?wait, "login failed again"),
            }
            last = Some(failure);
            if wait >= deadline.saturating_duration_since(Instant::now()) {
                return Err(self.out_of_time(progress.waiting_for, last));
            }
            sleep(wait).await;
            pause = (pause * 2).min(longest);
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
        progress.waiting_for = &WORKSPACE;
        let (target, credential) = tokio::try_join!(self.target(), self.credential())?;
        progress.waiting_for = &POSTGRES;
        let login = Login {
            target: Arc::clone(&target),
            credential: credential.clone(),
        };
        let until = Instant::now() + ATTEMPT_LIMIT;
        let whole = async {
            self.check_pooled_schema(&login).await?;
            attempt(login).await
        };
        let failure = match timeout_at(until, whole).await {
            Ok(Ok(connection)) => {
                credential.mark_accepted();
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
            Verdict::Rejected => Cause::Rejected,
            Verdict::Unready => Cause::Unready,
            Verdict::Transient | Verdict::Permanent => return Err(error),
        };
        match self.reject_because(&credential, cause) {
            // A new credential cannot be minted: that is what has to be waited for.
            Rejection::Stuck(why) => {
                progress.waiting_for = &WORKSPACE;
                Err(why.with_setting("Postgres rejected the token, and a new one cannot be minted"))
            }
            // A last resort does not count: a new one has arrived while it was tried.
            Rejection::Renew
                if verdict == Verdict::Rejected
                    && (!progress.renewed || credential.is_last_resort()) =>
            {
                tracing::info!(%error, "login rejected, renews the credential");
                progress.renewed = true;
                Ok(None)
            }
            _ if verdict == Verdict::Unready => {
                progress.waiting_for = &BRANCH;
                Err(error)
            }
            _ => Err(error),
        }
    }

    /// Classifies a failed attempt and makes an error of it.
    fn explain(
        &self,
        failure: LoginFailure,
        target: &Target,
        secrets: &[SecretString],
    ) -> (Verdict, Error) {
        let compute = self.config().compute.as_ref().map(ToString::to_string);
        let network = |text: String, hint: &str| Error::new(Kind::Network, text).with_hint(hint);
        let is_untrusted = find_cause::<rustls::Error>(&*failure.source).is_some();
        let (verdict, error) = match &failure.kind {
            FailureKind::Postgres { sqlstate, message } => {
                let verdict = match classify(sqlstate, message) {
                    Verdict::Rejected if self.is_fresh() => Verdict::Unready,
                    verdict => verdict,
                };
                let (kind, what) = match verdict {
                    Verdict::Rejected | Verdict::Unready => (Kind::Login, "rejected the login"),
                    Verdict::Transient | Verdict::Permanent => {
                        (Kind::Database, "did not open a session")
                    }
                };
                let error = Error::new(kind, format!("Postgres {what} as {target}"))
                    .with_sqlstate(Some(&clean_text(sqlstate)))
                    .with_transient(matches!(verdict, Verdict::Transient | Verdict::Unready));
                match hint(verdict, sqlstate, message, target, self.uses_tokens()) {
                    Some(hint) => (verdict, error.with_hint(hint)),
                    None => (verdict, error),
                }
            }
            FailureKind::Transport if is_untrusted => {
                let error = network(
                    format!("no trusted TLS connection to {target}"),
                    "The certificate must match the host name and chain to a trusted root: check PGHOST and PGSSLROOTCERT",
                );
                (Verdict::Permanent, error.with_transient(false))
            }
            FailureKind::Closed if !self.uses_tokens() => {
                let error = network(
                    format!(
                        "the server closed the connection in the middle of the login to {target}"
                    ),
                    "Native login may be off for the endpoint: it is by default (enable_pg_native_login)",
                );
                (Verdict::Transient, error)
            }
            FailureKind::Transport | FailureKind::Closed => {
                let error = network(
                    format!("no connection to {target}"),
                    "Check PGHOST, PGPORT and the network, unless the compute is just waking up",
                );
                (Verdict::Transient, error)
            }
            FailureKind::Permanent => {
                if let Some(own) = failure.source.downcast_ref::<Error>() {
                    return (Verdict::Permanent, own.clone().with_compute(compute));
                }
                let error = Error::new(Kind::Database, format!("cannot log in as {target}"));
                (Verdict::Permanent, error)
            }
        };
        let error = error.with_compute(compute);
        (verdict, error.caused_by(&*failure.source, secrets))
    }

    fn out_of_time(&self, waiting_for: &Obstacle, last: Option<Error>) -> Error {
        let budget = self.connect_timeout().as_secs_f64();
        let what = format!("no login within {budget} s");
        let error = match last {
            Some(last) => last.given_up(&what),
            None => {
                let text = format!("{what}, still waiting for {}", waiting_for.name);
                Error::new(Kind::Timeout, text)
            }
        };
        self.set_last_failure(Some(error.clone()));
        error
    }
}

/// The driver's message, cleaned.
impl fmt::Display for LoginFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&clean_text(&self.source.to_string()))
    }
}

impl StdError for LoginFailure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.source()
    }
}

impl fmt::Debug for LoginFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LoginFailure({self})")
    }
}
