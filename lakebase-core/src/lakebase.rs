//! The handle.

mod on_behalf_of;

pub use on_behalf_of::User;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::config::LoginKind;
#[cfg(feature = "admin")]
use crate::config::endpoint::Compute;
use crate::config::{Config, LONGEST_TIMEOUT};
use crate::credential::Credential;
use crate::credential::cache::{Cause, CredentialCache, Rejection};
use crate::credential::clock::Watch;
use crate::credential::single_flight::{Fetch, Found, SUSPICION_FLOOR, SingleFlight, no_runtime};
use crate::error::Error;
use crate::error::Kind;
use crate::error::foreign::has_harmful;
use crate::settings::host_name::is_pooled_host;
use crate::settings::name::check_name;
use crate::sign_in::forwarded::ForwardedToken;
use crate::target::Target;
use crate::telemetry::{Counts, LoginStats, Outage, ProxyStats, Stats};
use crate::workspace::retry::retrying;
use crate::workspace::{Client, LOOKUP_LIMIT, Workspace, WorkspaceProvider};

/// After this many failed logins in a row that may have reached another server, the host is looked up again.
const MOST_DOUBTS: u32 = 3;

/// A handle of one Lakebase database and one identity.
///
/// Create one and clone it, which is cheap: clones share the credential. Creating it does no I/O, needs no runtime and spawns nothing,
/// so it can be in a `static` or in a program without async. The task that renews credentials starts on the runtime of the first
/// caller that needs a credential. If that runtime ends, the next caller starts it again. It ends with the last clone.
///
/// ```no_run
/// # async fn run() -> Result<(), lakebase_core::Error> {
/// let lakebase = lakebase_core::Lakebase::from_env()?;
/// let credential = lakebase.credential().await?;
/// # let _ = credential;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Lakebase {
    inner: Arc<Inner>,
    connect_timeout: Duration,
    past_pooler: bool,
    /// Replaces the configured database.
    database: Option<Arc<str>>,
    /// Whether rejected logins are retried, because a new branch rejects valid credentials for some time.
    is_fresh: bool,
    logins: Arc<Logins>,
    /// Counts logins and sessions.
    counts: Arc<Counts>,
}

/// The state of the logins to one database.
#[derive(Default)]
struct Logins {
    last_failure: Mutex<Option<(Instant, Error)>>,
    outage: Outage,
    /// Whether sessions on the pooled host are known to start in the configured schema.
    has_path_of_role: AtomicBool,
}

struct Inner {
    config: Config,
    workspace: Option<Arc<Workspace>>,
    /// The token of the user for whom this handle logs in.
    forwarded: Option<ForwardedToken>,
    source: Source,
    lookups: Lookups,
    /// Counts mints.
    counts: Arc<Counts>,
    /// The last resolved target.
    target: Mutex<Option<Arc<Target>>>,
    host_doubts: AtomicU32,
}

/// Look-ups of values that are not configured. The handles of one endpoint share them.
#[derive(Clone)]
struct Lookups {
    host: SingleFlight<Found<String>>,
    user: SingleFlight<Found<String>>,
}

impl Lookups {
    fn new(clock: &Arc<Watch>, outage: &Arc<Outage>) -> Self {
        let flight = |what| SingleFlight::new(what, Arc::clone(clock), LOOKUP_LIMIT, outage);
        Self {
            host: flight("host of the endpoint"),
            user: flight("user name"),
        }
    }
}

fn outage_of(workspace: Option<&Workspace>) -> Arc<Outage> {
    workspace.map_or_else(Arc::default, |workspace| {
        Arc::clone(workspace.client.outage())
    })
}

/// The source of passwords.
enum Source {
    Native(Credential),
    Minted(CredentialCache),
}

impl Lakebase {
    /// Returns a handle with the configuration of the environment: see [`Config::from_env`].
    ///
    /// # Errors
    ///
    /// [`Error::is_config`], with the name of the variable.
    pub fn from_env() -> Result<Self, Error> {
        Self::new(Config::from_env()?)
    }

    /// Returns a handle with this configuration. It does no I/O.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] if a proxy variable is not the URL of an HTTP proxy.
    pub fn new(config: Config) -> Result<Self, Error> {
        let clock = || Arc::clone(&config.clock);
        let workspace = match (&config.workspace, &config.compute) {
            (Some(access), Some(compute)) => {
                let (settings, sign_in) = (&access.settings, &access.sign_in);
                let client = Client::new(settings, sign_in, &access.agent, clock())?;
                Some(Workspace::new(Arc::new(client), compute.clone()))
            }
            _ => None,
        };
        let lookups = Lookups::new(&config.clock, &outage_of(workspace.as_ref()));
        let counts = Arc::default();
        let inner = Inner::new(config, workspace, lookups, None, Arc::clone(&counts))?;
        Ok(Self {
            connect_timeout: inner.config.connect_timeout,
            past_pooler: false,
            database: None,
            is_fresh: false,
            logins: Arc::default(),
            counts,
            inner: Arc::new(inner),
        })
    }
}

impl Inner {
    fn new(
        config: Config,
        workspace: Option<Workspace>,
        lookups: Lookups,
        forwarded: Option<ForwardedToken>,
        counts: Arc<Counts>,
    ) -> Result<Self, Error> {
        let outage = outage_of(workspace.as_ref());
        let cache = |provider| {
            let clock = Arc::clone(&config.clock);
            CredentialCache::new(provider, clock, config.refresh, &outage, &counts)
        };
        let workspace = workspace.map(Arc::new);
        let source = match (&config.login, &workspace) {
            (LoginKind::Password(password), _) => {
                Source::Native(Credential::password(password.clone()))
            }
            (LoginKind::Provider(provider), _) => Source::Minted(cache(Arc::clone(provider))),
            (LoginKind::Minted, Some(workspace)) => {
                let provider = WorkspaceProvider {
                    workspace: Arc::clone(workspace),
                    ttl: config.token_ttl,
                    claims: config.claims.clone(),
                };
                Source::Minted(cache(Arc::new(provider)))
            }
            (LoginKind::Minted, None) => {
                return Err(Error::config("LAKEBASE_ENDPOINT is not set"));
            }
        };
        Ok(Self {
            config,
            workspace,
            forwarded,
            source,
            lookups,
            counts,
            target: Mutex::default(),
            host_doubts: AtomicU32::new(0),
        })
    }
}

impl Lakebase {
    /// Returns the current credential from the cache. It waits if there is no valid one, and up to 0.75 s during the last 30 s of the
    /// current one. All waiting callers get the result of one mint.
    ///
    /// # Errors
    ///
    /// Why the credential was not minted.
    ///
    /// # Cancel safety
    ///
    /// The mint runs on a separate task, so dropping the future affects no other caller.
    pub async fn credential(&self) -> Result<Credential, Error> {
        match &self.inner.source {
            Source::Native(credential) => Ok(credential.clone()),
            Source::Minted(cache) => cache.get().await.inspect_err(|error| {
                // The endpoint may be created again, with another host. A user may just not see it.
                if error.status() == Some(404) && self.inner.forwarded.is_none() {
                    self.inner.lookups.host.suspect(SUSPICION_FLOOR);
                }
            }),
        }
    }

    /// Returns host, port, database and user. If the host or the user is not configured, it looks them up in the workspace, once. After
    /// three failures in a row that may have reached another server, it looks the host up again.
    ///
    /// # Errors
    ///
    /// The workspace rejected the look-up, or was not reachable. Concurrent callers share one look-up and its result.
    ///
    /// # Cancel safety
    ///
    /// Look-ups run on separate tasks, so dropping the future affects no other caller.
    pub async fn target(&self) -> Result<Arc<Target>, Error> {
        Handle::try_current().map_err(|_| no_runtime())?;
        let (host, user) = tokio::try_join!(self.host(), self.user())?;
        let target = self.target_of(host, user).await?;
        let target = match &self.database {
            Some(database) => target.with_database(database),
            None => target,
        };
        Ok(if self.past_pooler {
            target.direct()
        } else {
            target
        })
    }

    async fn host(&self) -> Result<String, Error> {
        let config = &self.inner.config;
        let host = match (&config.host, &self.inner.workspace) {
            (Some(host), _) => host.clone(),
            (None, Some(workspace)) => {
                let kind = config.host_kind;
                let fetch = || -> Fetch<Found<String>> {
                    let workspace = Arc::clone(workspace);
                    Box::pin(async move { retrying(|| workspace.host(kind)).await.map(Found::new) })
                };
                self.inner.lookups.host.get(fetch).await?.value
            }
            (None, None) => return Err(Error::config("PGHOST is not set")),
        };
        if self.uses_tokens() && is_pooled_host(&host) {
            return Err(Error::new(
                Kind::Platform,
                format!("the endpoint's host {host:?} is a pooled host, which takes native passwords only"),
            )
            .with_hint("Set PGHOST to the endpoint's direct host"));
        }
        Ok(host)
    }

    async fn user(&self) -> Result<String, Error> {
        match (&self.inner.config.user, &self.inner.workspace) {
            (Some(user), _) => Ok(user.clone()),
            (None, Some(workspace)) => {
                let fetch = || -> Fetch<Found<String>> {
                    let workspace = Arc::clone(workspace);
                    Box::pin(
                        async move { retrying(|| workspace.user_name()).await.map(Found::new) },
                    )
                };
                Ok(self.inner.lookups.user.get(fetch).await?.value)
            }
            (None, None) => Err(Error::config("PGUSER is not set")),
        }
    }

    async fn target_of(&self, host: String, user: String) -> Result<Arc<Target>, Error> {
        let known = self.known_target();
        if let Some(known) = known.filter(|known| known.host == host && known.user == user) {
            return Ok(known);
        }
        let target = Arc::new(Target::new(&self.inner.config, host, user).await?);
        tracing::debug!(name: "lakebase.login.resolved", target: "lakebase::login", %target, "resolved");
        *self.target_slot() = Some(Arc::clone(&target));
        Ok(target)
    }

    pub(crate) fn known_target(&self) -> Option<Arc<Target>> {
        self.target_slot().clone()
    }

    fn target_slot(&self) -> MutexGuard<'_, Option<Arc<Target>>> {
        let slot = self.inner.target.lock();
        slot.unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts failures in a row that leave a doubt about the host, which is looked up again after `MOST_DOUBTS`, unless the last look-up
    /// is younger than `doubt`.
    pub(crate) fn note_host(&self, doubt: Option<Duration>) {
        let doubts = &self.inner.host_doubts;
        let Some(floor) = doubt else {
            doubts.store(0, Ordering::Relaxed);
            return;
        };
        if doubts.fetch_add(1, Ordering::Relaxed) + 1 >= MOST_DOUBTS {
            doubts.store(0, Ordering::Relaxed);
            self.inner.lookups.host.suspect(floor);
            if let Some(workspace) = &self.inner.workspace {
                workspace.suspect_endpoints(floor);
            }
        }
    }

    /// See [`adapter::is_current`](crate::adapter::is_current).
    pub(crate) fn is_current(&self, credential: &Credential) -> bool {
        match &self.inner.source {
            Source::Native(_) => true,
            Source::Minted(cache) => cache.is_current(credential),
        }
    }

    /// See [`adapter::is_valid`](crate::adapter::is_valid).
    pub(crate) fn is_valid(&self, credential: &Credential) -> bool {
        match &self.inner.source {
            Source::Native(_) => true,
            Source::Minted(cache) => cache.is_valid(credential),
        }
    }

    pub(crate) fn reject_because(&self, credential: &Credential, cause: Cause) -> Rejection {
        match &self.inner.source {
            Source::Native(_) => Rejection::Final,
            Source::Minted(cache) => cache.reject(credential, cause),
        }
    }

    /// Returns why the last login to this database, or its mint, failed; `None` after a success. Clones share it, but not the handles
    /// that [`with_database`](Self::with_database) returns.
    pub fn last_failure(&self) -> Option<Error> {
        Some(self.last_failure_slot().as_ref()?.1.clone())
    }

    pub(crate) fn last_failure_within(&self, age: Duration) -> Option<Error> {
        let slot = self.last_failure_slot();
        let (_, error) = slot.as_ref().filter(|(at, _)| at.elapsed() <= age)?;
        Some(error.clone())
    }

    pub(crate) fn set_last_failure(&self, failure: Option<Error>) {
        *self.last_failure_slot() = failure.map(|error| (Instant::now(), error));
    }

    fn last_failure_slot(&self) -> MutexGuard<'_, Option<(Instant, Error)>> {
        let slot = self.logins.last_failure.lock();
        slot.unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the numbers of this handle, for health checks and dashboards, without I/O. Clones and the handles of an application's users
    /// share the counts. The handles that [`with_database`](Self::with_database) returns share only the counts of tokens.
    pub fn stats(&self) -> Stats {
        let counts = self.counts();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            token: match &self.inner.source {
                Source::Native(_) => None,
                Source::Minted(cache) => Some(cache.stats()),
            },
            logins: LoginStats {
                under_way: count(&counts.logging_in),
                attempts: count(&counts.login_attempts),
                failures: counts.failed_logins(),
                last_error: self.last_failure().map(|error| error.chain()),
                succeeded: counts.logins.stats(),
            },
            proxy: ProxyStats {
                sessions: count(&counts.sessions),
                opened: count(&counts.sessions_begun),
            },
        }
    }

    pub(crate) fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Whether logins to this database currently fail.
    pub(crate) fn outage(&self) -> &Outage {
        &self.logins.outage
    }

    /// The limit for opening one connection, retries included: that of the configuration, unless
    /// [`with_connect_timeout`](Self::with_connect_timeout) has set another one.
    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// Returns a handle with another limit for opening a connection, a day at most. For example, start-up code can wait longer for a
    /// suspended compute.
    #[must_use]
    pub fn with_connect_timeout(&self, timeout: Duration) -> Self {
        Self {
            connect_timeout: timeout.min(LONGEST_TIMEOUT),
            ..self.clone()
        }
    }

    /// Returns a handle that uses the direct host in place of a pooled one, for locks, session settings and migrations.
    #[must_use]
    pub fn direct(&self) -> Self {
        Self {
            past_pooler: true,
            ..self.clone()
        }
    }

    /// Returns a handle of another database, with the same host, identity and tokens.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] for an invalid name.
    pub fn with_database(&self, name: &str) -> Result<Self, Error> {
        if name.is_empty() || has_harmful(name) {
            let text = format!("database: {name:?} is empty or has control characters");
            return Err(Error::config(text));
        }
        check_name("database", name)?;
        Ok(Self {
            database: Some(name.into()),
            logins: Arc::default(),
            counts: Arc::new(self.counts.of_database()),
            ..self.clone()
        })
    }

    /// The configured schema.
    pub fn schema(&self) -> Option<&str> {
        self.inner.config.schema.as_deref()
    }

    /// The database: that of the configuration, or of [`with_database`](Self::with_database).
    pub fn database(&self) -> &str {
        let own = self.database.as_deref();
        own.unwrap_or(&self.inner.config.database)
    }

    pub(crate) fn has_path_of_role(&self) -> bool {
        self.logins.has_path_of_role.load(Ordering::Relaxed)
    }

    pub(crate) fn note_path_of_role(&self) {
        self.logins.has_path_of_role.store(true, Ordering::Relaxed);
    }

    /// Returns whether logins use minted tokens and not a native password.
    pub fn uses_tokens(&self) -> bool {
        matches!(self.inner.source, Source::Minted(_))
    }

    /// A handle of another branch. It shares the workspace client, so it fetches no workspace token.
    #[cfg(feature = "admin")]
    pub(crate) fn of_branch(&self, path: &str) -> Result<Self, Error> {
        let inner = &self.inner;
        let compute = Compute::Branch(path.to_owned());
        let client = inner.workspace.as_ref().map(|known| &known.client);
        let workspace = client.map(|client| Workspace::new(Arc::clone(client), compute.clone()));
        let config = inner.config.of_branch(path);
        let lookups = Lookups {
            user: inner.lookups.user.clone(),
            ..Lookups::new(&config.clock, &outage_of(workspace.as_ref()))
        };
        let (forwarded, counts) = (inner.forwarded.clone(), Arc::default());
        let inner = Inner::new(config, workspace, lookups, forwarded, Arc::clone(&counts))?;
        Ok(Self {
            inner: Arc::new(inner),
            logins: Arc::default(),
            counts,
            ..self.clone()
        })
    }

    /// A handle for the first logins to a new branch.
    #[cfg(feature = "admin")]
    pub(crate) fn fresh(&self, timeout: Duration) -> Self {
        Self {
            is_fresh: true,
            ..self.direct().with_connect_timeout(timeout)
        }
    }

    pub(crate) fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    #[cfg(feature = "admin")]
    pub(crate) fn workspace(&self) -> Result<Option<&Workspace>, Error> {
        Handle::try_current().map_err(|_| no_runtime())?;
        Ok(self.inner.workspace.as_deref())
    }

    pub(crate) fn config(&self) -> &Config {
        &self.inner.config
    }
}

impl fmt::Debug for Lakebase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Lakebase");
        debug.field("config", &self.inner.config);
        if let Source::Minted(cache) = &self.inner.source {
            debug.field("cache", cache);
        }
        debug.finish_non_exhaustive()
    }
}
