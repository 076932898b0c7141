//! The handle.

use std::fmt;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cache::{CredentialCache, no_runtime};
use crate::config::{LoginKind, Plaintext};
use crate::endpoint::{is_loopback, is_pooled_host};
use crate::error::Kind;
use crate::http::Waiters;
use crate::remembered::Remembered;
use crate::retry::{Retry, retrying};
use crate::target::Tls;
use crate::tls::Roots;
use crate::workspace::{Client, Workspace, WorkspaceProvider};
use crate::{Config, Credential, Error, Refresh, Target};

/// Beyond it, arithmetic with points in time may overflow.
const LONGEST_CONNECT_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// One Lakebase database and the identity we log in with.
///
/// A cheap clone over shared state: make one, clone it into every pool. Making it touches no
/// network, needs no runtime and starts nothing, so it may live in a `static` or in a program
/// without async. The task that renews credentials starts on the runtime of the first caller who
/// needs one; if that runtime goes away, the next caller starts it again. Dropping the last clone
/// ends it.
#[derive(Clone)]
pub struct Lakebase {
    inner: Arc<Inner>,
    connect_timeout: Duration,
    past_pooler: bool,
}

struct Inner {
    config: Config,
    workspace: Option<Arc<Workspace>>,
    source: Source,
    target: Remembered<Arc<Target>>,
    waiters: Waiters,
    last_failure: Mutex<Option<(Instant, Error)>>,
    #[cfg(feature = "tokio-postgres")]
    path_of_role: Remembered<()>,
}

/// Where passwords come from.
enum Source {
    Native(Credential),
    Minted(CredentialCache),
}

impl Lakebase {
    /// From the environment; see [`Config::from_env`].
    ///
    /// # Errors
    ///
    /// [`Error::is_config`], naming the variable.
    pub fn from_env() -> Result<Self, Error> {
        Self::new(Config::from_env()?)
    }

    /// From a configuration.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] if TLS or HTTP cannot be set up.
    pub fn new(config: Config) -> Result<Self, Error> {
        let waiters = Waiters::default();
        let cache = |provider| {
            let clock = Arc::clone(&config.clock);
            CredentialCache::new(provider, clock, config.refresh, waiters.clone())
        };
        let workspace = match (&config.workspace, &config.compute) {
            (Some(access), Some(compute)) => {
                let clock = Arc::clone(&config.clock);
                let (settings, sign_in) = (&access.settings, &access.sign_in);
                let client = Client::new(settings, sign_in, &access.agent, clock, &waiters)?;
                Some(Arc::new(Workspace::new(client, compute.clone())))
            }
            _ => None,
        };
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
                Source::Minted(cache(Arc::new(Retry(provider))))
            }
            (LoginKind::Minted, None) => {
                return Err(Error::config("LAKEBASE_ENDPOINT is not set"));
            }
        };
        Ok(Self {
            connect_timeout: config.connect_timeout,
            past_pooler: false,
            inner: Arc::new(Inner {
                config,
                workspace,
                source,
                target: Remembered::default(),
                waiters,
                last_failure: Mutex::default(),
                #[cfg(feature = "tokio-postgres")]
                path_of_role: Remembered::default(),
            }),
        })
    }

    /// The current credential, from the cache. Waits only when nothing valid is held; one mint
    /// serves everybody who waits, and so does its failure.
    ///
    /// # Errors
    ///
    /// What kept the credential from being minted: see [`Error`]'s questions.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future disturbs nobody: the mint runs on a task of its own.
    pub async fn credential(&self) -> Result<Credential, Error> {
        match &self.inner.source {
            Source::Native(credential) => Ok(credential.clone()),
            Source::Minted(cache) => cache.get().await,
        }
    }

    /// Host, port, database and user. Asks the workspace, once, for what was not configured.
    ///
    /// # Errors
    ///
    /// The workspace's refusal, or the network's.
    ///
    /// # Cancel safety
    ///
    /// Safe; the next caller looks again.
    pub async fn target(&self) -> Result<Arc<Target>, Error> {
        let find = async {
            Handle::try_current().map_err(|_| no_runtime())?;
            let _waiting = self.inner.waiters.enter();
            self.resolve().await.map(Arc::new)
        };
        let target = self.inner.target.get_or_find(find).await?;
        Ok(if self.past_pooler {
            target.direct()
        } else {
            target
        })
    }

    async fn resolve(&self) -> Result<Target, Error> {
        let config = &self.inner.config;
        let unset = |name: &str| Error::config(format!("{name} is not set"));
        let workspace = self.inner.workspace.as_ref();
        let host = match (&config.host, workspace) {
            (Some(host), _) => host.clone(),
            (None, Some(workspace)) => retrying(|| workspace.host(config.host_kind)).await?,
            (None, None) => return Err(unset("PGHOST")),
        };
        if matches!(self.inner.source, Source::Minted(_)) && is_pooled_host(&host) {
            return Err(Error::new(
                Kind::Platform,
                format!("the endpoint's host {host:?} is a pooled one, which takes no tokens"),
            ));
        }
        let user = match (&config.user, workspace) {
            (Some(user), _) => user.clone(),
            (None, Some(workspace)) => retrying(|| workspace.user_name()).await?,
            (None, None) => return Err(unset("PGUSER")),
        };
        let plaintext = match config.plaintext {
            Plaintext::Never => false,
            Plaintext::OnLoopback => {
                is_loopback(&host) && config.hostaddr.is_none_or(|address| address.is_loopback())
            }
            Plaintext::Always => true,
        };
        let tls = if plaintext {
            None
        } else {
            let roots = config.roots.clone().unwrap_or_else(Roots::system);
            Some(Arc::new(Tls {
                client_config: roots.client_config()?,
                roots,
            }))
        };
        let target = Target {
            host,
            hostaddr: config.hostaddr,
            port: config.port,
            database: config.database.clone(),
            user,
            application_name: config.application_name.clone(),
            schema: config.schema.clone(),
            tls,
        };
        tracing::debug!(%target, "resolved");
        Ok(target)
    }

    /// Whether `credential` is still the one to log in with: the newest, not about to expire, and
    /// with lazy renewal not due for it.
    /// Reads an atomic and the clock; takes no lock.
    pub fn is_current(&self, credential: &Credential) -> bool {
        match &self.inner.source {
            Source::Native(_) => true,
            Source::Minted(cache) => cache.is_current(credential),
        }
    }

    /// Whether Postgres would still take `credential`, newest or not.
    pub fn is_valid(&self, credential: &Credential) -> bool {
        match &self.inner.source {
            Source::Native(_) => true,
            Source::Minted(cache) => cache.is_valid(credential),
        }
    }

    /// Reports that Postgres refused a login with `credential`, so that the next
    /// [`credential`](Self::credential) is a new one. Adapters that log in through
    /// [`login`](Self::login) need not.
    ///
    /// Returns whether another credential is worth trying: a role that can never log in must not
    /// turn into a storm of mints, so a replacement that was refused as well is kept for a minute.
    pub fn reject(&self, credential: &Credential) -> bool {
        match &self.inner.source {
            Source::Native(_) => false,
            Source::Minted(cache) => cache.reject(credential),
        }
    }

    /// Reports that a login with `credential` succeeded. A refusal after that means it was revoked.
    pub fn accept(&self, credential: &Credential) {
        credential.mark_accepted();
    }

    /// Follows the renewals, for pools that have to be fed.
    pub fn credential_updates(&self) -> CredentialUpdates {
        CredentialUpdates {
            generations: match &self.inner.source {
                Source::Native(_) => None,
                Source::Minted(cache) => Some(cache.subscribe()),
            },
        }
    }

    /// Why the last login (or the mint before it) failed; `None` since the last success.
    pub fn last_failure(&self) -> Option<Error> {
        Some(self.last_failure_slot().as_ref()?.1.clone())
    }

    /// The same, unless it is older than `moment`.
    pub fn last_failure_since(&self, moment: Instant) -> Option<Error> {
        let slot = self.last_failure_slot();
        let (_, error) = slot.as_ref().filter(|(at, _)| *at >= moment)?;
        Some(error.clone())
    }

    pub(crate) fn set_last_failure(&self, failure: Option<Error>) {
        *self.last_failure_slot() = failure.map(|error| (Instant::now(), error));
    }

    fn last_failure_slot(&self) -> MutexGuard<'_, Option<(Instant, Error)>> {
        self.inner
            .last_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Budget for one connection: that of the configuration, unless this handle has its own.
    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// The same Lakebase, with another budget for one connection: start-up code may wait longer for a
    /// compute that sleeps. A day at most.
    #[must_use]
    pub fn with_connect_timeout(&self, timeout: Duration) -> Self {
        Self {
            connect_timeout: timeout.min(LONGEST_CONNECT_TIMEOUT),
            ..self.clone()
        }
    }

    /// The same Lakebase past its built-in pooler, for what needs a session of its own: locks, settings,
    /// migrations.
    #[must_use]
    pub fn direct(&self) -> Self {
        Self {
            past_pooler: true,
            ..self.clone()
        }
    }

    /// The schema of the configuration.
    pub fn schema(&self) -> Option<&str> {
        self.inner.config.schema.as_deref()
    }

    /// The database of the configuration.
    pub fn database(&self) -> &str {
        &self.inner.config.database
    }

    #[cfg(feature = "tokio-postgres")]
    pub(crate) fn path_of_role_is_set(&self) -> &Remembered<()> {
        &self.inner.path_of_role
    }

    /// Logs in with minted tokens, not with a native password.
    pub fn uses_tokens(&self) -> bool {
        matches!(self.inner.source, Source::Minted(_))
    }

    /// Renews ahead of expiry, not lazily.
    pub fn renews_ahead(&self) -> bool {
        self.uses_tokens() && self.inner.config.refresh == Refresh::Ahead
    }

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

/// Tells when a [`Lakebase`] holds another credential. Does not keep it alive.
#[derive(Debug)]
pub struct CredentialUpdates {
    generations: Option<watch::Receiver<u64>>,
}

impl CredentialUpdates {
    /// Waits for the next change. False once the last handle is gone. A native password never
    /// changes: then this waits for ever.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn changed(&mut self) -> bool {
        match &mut self.generations {
            Some(generations) => generations.changed().await.is_ok(),
            None => pending().await,
        }
    }
}
