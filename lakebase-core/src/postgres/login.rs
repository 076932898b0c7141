//! The login loop of all adapters.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use secrecy::SecretString;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use crate::credential::Credential;
use crate::credential::cache::{Cause, REJECTION_FLOOR, Rejection, UNREADY_FLOOR};
use crate::credential::refresh::MAX_ASKED_WAIT;
use crate::credential::single_flight::{SUSPICION_FLOOR, no_runtime};
use crate::error::foreign::clean_text;
use crate::error::{Error, Kind};
use crate::lakebase::Lakebase;
use crate::postgres::classify::{Verdict, classify, hint, is_from_endpoint};
use crate::target::Target;
use crate::telemetry::Running;
use crate::tls::is_untrusted;

/// Target of spans and events.
pub(crate) const TARGET: &str = "lakebase::login";

/// Limit of one attempt, so that a server that accepts connections and does not reply cannot use up the whole budget.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(15);

/// What a login waits for, and its shortest and longest pause between attempts.
struct Obstacle {
    name: &'static str,
    pauses: [Duration; 2],
}

/// Short pauses cost nothing, because callers share a failed mint for half a second. So logins succeed within a second after
/// an outage of the workspace.
static WORKSPACE: Obstacle = Obstacle {
    name: "the workspace",
    pauses: [Duration::from_millis(50), Duration::from_millis(250)],
};
static POSTGRES: Obstacle = Obstacle {
    name: "Postgres",
    pauses: [Duration::from_millis(50), Duration::from_secs(1)],
};
/// A new branch rejects valid credentials for seconds, rarely for a minute.
static BRANCH: Obstacle = Obstacle {
    name: "the branch, which still rejects logins",
    pauses: [Duration::from_millis(500), Duration::from_secs(4)],
};

/// An endpoint without native login closes the connection without an error. A resuming compute may do so, too, but not as often
/// in a row.
const MOST_CLOSED: u32 = 3;

/// The shortest time between look-ups of a host that answers: a role that can never log in causes no more than that.
const ANSWERED_FLOOR: Duration = Duration::from_secs(60);

/// The target and the credential of one attempt to log in.
///
/// With the feature `tokio-postgres`, `Login::open` makes the attempt. For another driver, set all of these:
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

/// Why an attempt failed. The constructor decides whether [`adapter::login`](crate::adapter::login) retries. `source` is the
/// driver's error; its cleaned text becomes the source of [`Error`].
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

    /// Postgres, or the gateway in front of it, returned an error. By SQLSTATE and message, the login renews a rejected credential
    /// once, retries while a compute is not ready, and otherwise fails.
    pub fn postgres(
        sqlstate: impl Into<String>,
        message: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        let (sqlstate, message) = (sqlstate.into(), message.into());
        Self::new(FailureKind::Postgres { sqlstate, message }, source)
    }

    /// `None` if the endpoint has answered. Otherwise it may have another host now: the shortest time between look-ups.
    fn host_doubt(&self) -> Option<Duration> {
        match &self.kind {
            FailureKind::Transport => Some(SUSPICION_FLOOR),
            FailureKind::Postgres { sqlstate, .. } if is_from_endpoint(sqlstate) => None,
            FailureKind::Postgres { .. } | FailureKind::Closed => Some(ANSWERED_FLOOR),
            FailureKind::Permanent => None,
        }
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

/// The state of a login.
struct Progress {
    attempts: u32,
    renewed: bool,
    closed: u32,
    waiting_for: &'static Obstacle,
}

impl Lakebase {
    /// See [`adapter::login`](crate::adapter::login).
    pub(crate) async fn login<T, F>(&self, attempt: impl FnMut(Login) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, LoginFailure>>,
    {
        // Without a runtime, tokio's timers and sockets panic.
        Handle::try_current().map_err(|_| no_runtime())?;
        let span = tracing::info_span!(
            target: TARGET,
            "lakebase.login",
            otel.kind = "client",
            db.system.name = "postgresql",
            db.namespace = self.database(),
            server.address = Empty,
            server.port = Empty,
            attempts = Empty,
            error.type = Empty,
        );
        let counts = self.counts();
        let _under_way = Running::new(counts, |counts| &counts.logging_in);
        let began = Instant::now();
        let mut progress = Progress {
            attempts: 0,
            renewed: false,
            closed: 0,
            waiting_for: &WORKSPACE,
        };
        let outcome = self.attempts(attempt, &mut progress);
        let outcome = outcome.instrument(span.clone()).await;
        span.record("attempts", progress.attempts);
        match &outcome {
            Ok(_) => counts.logins.record(began.elapsed(), None),
            Err(error) => {
                counts.count_failed_login(error);
                span.record("error.type", error.error_type());
            }
        }
        outcome
    }

    async fn attempts<T, F>(
        &self,
        mut attempt: impl FnMut(Login) -> F,
        progress: &mut Progress,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, LoginFailure>>,
    {
        let deadline = Instant::now() + self.connect_timeout();
        let mut pause = Duration::ZERO;
        let mut last = None;
        loop {
            let step = self.step(&mut attempt, progress);
            let failure = match timeout_at(deadline, step).await {
                Ok(Ok(Some(connection))) => {
                    self.note_success();
                    return Ok(connection);
                }
                Ok(Ok(None)) => continue,
                Ok(Err(failure)) => failure,
                Err(_) => return Err(self.out_of_time(progress.waiting_for, last)),
            };
            self.note_failure(&failure, progress.waiting_for);
            if !failure.is_transient() || progress.closed == MOST_CLOSED {
                return Err(failure);
            }
            let [shortest, longest] = progress.waiting_for.pauses;
            pause = pause.clamp(shortest, longest);
            let requested = failure.retry_after().unwrap_or_default();
            let wait = pause
                .mul_f64(0.5 + fastrand::f64())
                .max(requested.min(MAX_ASKED_WAIT));
            tracing::debug!(name: "lakebase.login.retry", target: TARGET, wait = wait.as_secs_f64(), "retries the login");
            last = Some(failure);
            if wait >= deadline.saturating_duration_since(Instant::now()) {
                return Err(self.out_of_time(progress.waiting_for, last));
            }
            sleep(wait).await;
            pause = (pause * 2).min(longest);
        }
    }

    /// Makes one attempt. `None` if the next attempt should follow at once, with a renewed credential.
    async fn step<T, F>(
        &self,
        attempt: &mut impl FnMut(Login) -> F,
        progress: &mut Progress,
    ) -> Result<Option<T>, Error>
    where
        F: Future<Output = Result<T, LoginFailure>>,
    {
        progress.waiting_for = &WORKSPACE;
        let wait = async { tokio::try_join!(self.target(), self.credential()) };
        let span = tracing::debug_span!(target: TARGET, "lakebase.login.credential");
        let (target, credential) = wait.instrument(span).await?;
        progress.waiting_for = &POSTGRES;
        progress.attempts += 1;
        self.counts().login_attempts.fetch_add(1, Ordering::Relaxed);
        let span = Span::current();
        span.record("server.address", target.host());
        span.record("server.port", target.port());
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
                self.note_host(None);
                return Ok(Some(connection));
            }
            Ok(Err(failure)) => failure,
            Err(elapsed) => LoginFailure::transport(elapsed),
        };
        progress.closed = match failure.kind {
            FailureKind::Closed if !self.uses_tokens() => progress.closed + 1,
            _ => 0,
        };
        let doubt = failure.host_doubt();
        let secrets = [SecretString::from(credential.expose())];
        let (verdict, error) = self.explain(failure, &target, &secrets);
        let cause = match verdict {
            Verdict::Rejected => Cause::Rejected,
            // After a login, the branch is not a new one.
            Verdict::Unready if self.counts().logins.stats().count > 0 => {
                Cause::Unready(REJECTION_FLOOR)
            }
            Verdict::Unready => Cause::Unready(UNREADY_FLOOR),
            Verdict::Transient | Verdict::Permanent => {
                self.note_host(doubt);
                return Err(error);
            }
        };
        match self.reject_because(&credential, cause) {
            // The login waits until a new credential can be minted.
            Rejection::Stuck(why) => {
                progress.waiting_for = &WORKSPACE;
                Err(why.with_setting("Postgres rejected the token, and a new one cannot be minted"))
            }
            // The renewal of a last resort does not count: a new credential has arrived during the attempt.
            Rejection::Renew
                if verdict == Verdict::Rejected
                    && (!progress.renewed || credential.is_last_resort()) =>
            {
                tracing::info!(name: "lakebase.login.rejected", target: TARGET, %error, "Postgres rejected the token, renews it");
                progress.renewed = true;
                Ok(None)
            }
            _ if verdict == Verdict::Unready => {
                progress.waiting_for = &BRANCH;
                Err(error)
            }
            _ => {
                self.note_host(doubt);
                Err(error)
            }
        }
    }

    /// Classifies a failed attempt and converts it into an error.
    fn explain(
        &self,
        failure: LoginFailure,
        target: &Target,
        secrets: &[SecretString],
    ) -> (Verdict, Error) {
        let compute = self.config().compute.as_ref().map(ToString::to_string);
        let network = |text: String, hint: &str| Error::new(Kind::Network, text).with_hint(hint);
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
            FailureKind::Transport if is_untrusted(&*failure.source) => {
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
                    "Check PGHOST, PGPORT and the network, unless the compute is just resuming",
                );
                (Verdict::Transient, error)
            }
            FailureKind::Permanent => {
                if let Some(own) = failure.source.downcast_ref::<Error>() {
                    return (Verdict::Permanent, own.clone().with_compute(compute));
                }
                let error = Error::new(Kind::Database, format!("cannot log in as {target}"));
                let hint = "Check PGHOST and PGPORT: a Lakebase is a Postgres with TLS";
                (Verdict::Permanent, error.with_hint(hint))
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
        self.note_failure(&error, waiting_for);
        error
    }

    fn note_failure(&self, error: &Error, waiting_for: &Obstacle) {
        self.set_last_failure(Some(error.clone()));
        // Failures of the workspace are logged where its requests fail.
        let is_reported = self.is_fresh() || std::ptr::eq(waiting_for, &WORKSPACE);
        if !is_reported && self.outage().failed(error, false) {
            tracing::warn!(name: "lakebase.login.failed", target: TARGET, error = error.chain(), "logins fail");
        } else {
            tracing::debug!(name: "lakebase.login.failed_again", target: TARGET, %error, "a login failed");
        }
    }

    fn note_success(&self) {
        self.set_last_failure(None);
        if let Some(ended) = self.outage().recovered() {
            let (lasted, failures) = (ended.lasted.as_secs_f64(), ended.failures);
            tracing::info!(name: "lakebase.login.recovered", target: TARGET, lasted, failures, "logins succeed again");
        }
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
