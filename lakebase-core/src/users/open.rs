//! Opens, finds and closes users' pools.
//!
//! A login or a mint with a user's token *proves* it. Two semaphores hold the limits: one for open pools, one for logins with tokens
//! that are not proven.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::UserPoolsBuilder;
use super::entry::{Entry, Fingerprint, Fingerprints, Identity, Key, Lease, Standing};
use crate::error::{Error, Kind};
use crate::lakebase::User;

/// A rejected token gets the same error for this long, without a request.
const REJECTION_PAUSE: Duration = Duration::from_secs(5);
/// The same after any other failure, which may end at any time.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
/// Most running logins, remembered failures, and users remembered without a pool. It limits a flood of invalid tokens.
const MOST: usize = 1000;
/// Limit for closing a pool.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// How often a waiting caller checks for a pool that is out of use.
const EVICTION_POLL: Duration = Duration::from_millis(50);
/// Shortest interval of the sweeper.
const SHORTEST_SWEEP: Duration = Duration::from_millis(50);
/// Margin for a login beyond the sum of its limits.
const MARGIN: Duration = Duration::from_secs(10);

pub(super) type Outcome<P> = watch::Receiver<Option<Result<Arc<Lease<P>>, Error>>>;

pub(super) struct Shared<P: Clone + Send + Sync + 'static> {
    pub(super) builder: UserPoolsBuilder<P>,
    fingerprints: Fingerprints,
    /// A permit for each open pool.
    pools: Arc<Semaphore>,
    /// A permit for each login with a token that is not proven.
    proofs: Arc<Semaphore>,
    state: Mutex<State<P>>,
}

pub(super) struct State<P: Clone + Send + Sync + 'static> {
    pub(super) open: HashMap<Key, Arc<Entry<P>>>,
    /// The users of open pools, and of pools that were closed within the last hour.
    pub(super) identities: HashMap<Key, Arc<Identity>>,
    pub(super) opening: HashMap<(Key, Fingerprint), Opening<P>>,
    failed: HashMap<(Key, Fingerprint), Failed>,
    pub(super) evicted: u64,
    sweeper: Option<AbortHandle>,
}

/// A login that proves a token.
pub(super) struct Opening<P: Clone + Send + Sync + 'static> {
    outcome: Outcome<P>,
    began: Instant,
}

impl<P: Clone + Send + Sync + 'static> Opening<P> {
    /// False if the runtime of the login has ended or is no longer driven.
    fn is_running(&self, limit: Duration) -> bool {
        self.began.elapsed() < limit && self.outcome.has_changed().is_ok()
    }
}

/// A failed login, which is not retried during the pause.
struct Failed {
    error: Error,
    at: Instant,
}

impl Failed {
    fn is_past(&self) -> bool {
        let pause = match is_rejection(&self.error) {
            true => REJECTION_PAUSE,
            false => FAILURE_PAUSE,
        };
        self.at.elapsed() > pause
    }
}

/// Why a pool was not opened.
enum NotOpened {
    /// The login failed.
    Failed(Error),
    /// A limit of these pools, which may not affect the next caller.
    Limit(Error),
}

impl From<Error> for NotOpened {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Whether the token was rejected. Other errors are transient or have a cause in the application.
pub(super) fn is_rejection(error: &Error) -> bool {
    error.is_login() || error.is_sign_in()
}

pub(super) enum Found<P: Clone + Send + Sync + 'static> {
    Open(Arc<Lease<P>>),
    /// A running login, and the pool to use if the workspace is not reachable.
    Opening(Outcome<P>, Option<Arc<Lease<P>>>),
    Rejected(Error),
}

impl<P: Clone + Send + Sync + 'static> Shared<P> {
    pub(super) fn new(builder: UserPoolsBuilder<P>) -> Self {
        let limits = builder.limits;
        Self {
            fingerprints: Fingerprints::default(),
            pools: Arc::new(Semaphore::new(limits.users())),
            proofs: Arc::new(Semaphore::new(limits.proofs())),
            builder,
            state: Mutex::new(State {
                open: HashMap::new(),
                identities: HashMap::new(),
                opening: HashMap::new(),
                failed: HashMap::new(),
                evicted: 0,
                sweeper: None,
            }),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State<P>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_in_use(&self, entry: &Entry<P>) -> bool {
        entry.has_leases() || (self.builder.is_busy)(&entry.pool)
    }

    /// Longer than a login can take. A login that takes longer is lost with its runtime.
    pub(super) fn opening_limit(&self) -> Duration {
        let login = self.builder.lakebase.connect_timeout();
        self.builder.limits.wait.saturating_mul(2) + login.saturating_mul(2) + MARGIN
    }

    pub(super) fn find(self: &Arc<Self>, user: &User, runtime: &Handle) -> Found<P> {
        let token = self.fingerprints.of(user);
        let key = Key::of(user, token);
        let mut state = self.lock();
        let dead = state.open.get(&key).filter(|entry| entry.is_dead());
        if dead.is_some() {
            // The adapter's pool is not dropped under the lock.
            let dead = state.open.remove(&key);
            drop(state);
            drop(dead);
            state = self.lock();
        }
        if state.sweeper.as_ref().is_none_or(AbortHandle::is_finished) {
            let sweeper = sweep(Arc::downgrade(self), self.builder.limits.idle);
            state.sweeper = Some(runtime.spawn(sweeper).abort_handle());
        }
        let identity = state.identities.get(&key);
        let standing = identity.map_or(Standing::Unknown, |identity| identity.standing(token));
        let open = state.open.get(&key);
        let lease = open.filter(|_| standing != Standing::Unknown);
        let lease = lease.map(Lease::new);
        if let (Standing::Proven, Some(lease)) = (standing, &lease) {
            let lease = Arc::clone(lease);
            drop(state);
            // So that no login waits for it; the mint also proves the token again.
            lease.0.identity.lakebase.renew_if_due();
            return Found::Open(lease);
        }
        let outcome = self.prove(&mut state, key, token, user, runtime);
        match (outcome, standing, lease) {
            (_, Standing::Due, Some(lease)) => Found::Open(lease),
            (Err(error), _, Some(lease)) if !is_rejection(&error) => Found::Open(lease),
            (Ok(outcome), _, lease) => Found::Opening(outcome, lease),
            (Err(error), _, _) => Found::Rejected(error),
        }
    }

    /// Returns the running login with this token, or starts one.
    fn prove(
        self: &Arc<Self>,
        state: &mut State<P>,
        key: Key,
        token: Fingerprint,
        user: &User,
        runtime: &Handle,
    ) -> Result<Outcome<P>, Error> {
        let id = (key, token);
        if let Some(failed) = state.failed.get(&id)
            && !failed.is_past()
        {
            return Err(failed.error.clone());
        }
        let limit = self.opening_limit();
        let known = state.opening.get(&id);
        if let Some(known) = known.filter(|one| one.is_running(limit)) {
            return Ok(known.outcome.clone());
        }
        if state.opening.len() >= MOST {
            let text = format!("{MOST} users are logging in already");
            return Err(Error::new(Kind::Timeout, text).with_transient(true));
        }
        let (report, outcome) = watch::channel(None);
        let opening = Opening {
            outcome: outcome.clone(),
            began: Instant::now(),
        };
        state.opening.insert(id.clone(), opening);
        let (shared, user, own) = (Arc::clone(self), user.clone(), outcome.clone());
        runtime.spawn(async move {
            let opened = shared.open(&id.0, token, &user).await;
            let failure = match &opened {
                Err(NotOpened::Failed(error)) => Some(error),
                Ok(_) | Err(NotOpened::Limit(_)) => None,
            };
            let outdated = shared.note(id, &own, failure);
            // The application's errors are not dropped under the lock.
            drop(outdated);
            let opened =
                opened.map_err(|(NotOpened::Failed(error) | NotOpened::Limit(error))| error);
            let _ = report.send(Some(opened));
        });
        Ok(outcome)
    }

    /// Records the end of a login. Returns old failures, for the caller to drop.
    fn note(
        &self,
        id: (Key, Fingerprint),
        own: &Outcome<P>,
        error: Option<&Error>,
    ) -> (Option<Failed>, HashMap<(Key, Fingerprint), Failed>) {
        let mut state = self.lock();
        let opening = state.opening.get(&id);
        if opening.is_some_and(|one| one.outcome.same_channel(own)) {
            state.opening.remove(&id);
        }
        let before = state.failed.remove(&id);
        let mut outdated = HashMap::new();
        if let Some(error) = error {
            if let Some(identity) = state.identities.get(&id.0)
                && is_rejection(error)
            {
                identity.reject(id.1);
            }
            if state.failed.len() >= MOST {
                outdated = std::mem::take(&mut state.failed);
            }
            let failed = Failed {
                error: error.clone(),
                at: Instant::now(),
            };
            state.failed.insert(id, failed);
        }
        (before, outdated)
    }

    /// Proves the token, and then returns the open pool or opens one.
    async fn open(
        self: &Arc<Self>,
        key: &Key,
        token: Fingerprint,
        user: &User,
    ) -> Result<Arc<Lease<P>>, NotOpened> {
        let (application, size) = (&self.builder.lakebase, self.builder.limits.per_user);
        if let Some((identity, standing)) = self.identity(key, token) {
            // A mint is enough: the token belongs to this user, and only its validity is open.
            if standing != Standing::Proven
                && let Err(error) = identity.prove(application, user, token).await
                && (is_rejection(&error) || self.pool(key).is_some())
            {
                return Err(error.into());
            }
            if let Some(open) = self.pool(key) {
                return Ok(open);
            }
            let permit = self.permit().await?;
            let pool = (self.builder.open)(identity.lakebase.clone(), size).await?;
            let entry = Entry::new(pool, identity, permit);
            return Ok(self.admit(key, Arc::new(entry), user, token));
        }
        let lakebase = application.on_behalf_of(user)?;
        let proof = self.proof_permit().await?;
        let mut pool = (self.builder.open)(lakebase.clone(), size).await?;
        let permit = match Arc::clone(&self.pools).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                // A pool without a permit must not keep a connection while the caller waits for one.
                self.close(pool, proof);
                if let Some(open) = self.pool(key) {
                    open.0.identity.accept(user, token, &lakebase);
                    return Ok(open);
                }
                let permit = self.permit().await?;
                pool = (self.builder.open)(lakebase.clone(), size).await?;
                permit
            }
        };
        let entry = Entry::new(pool, Identity::new(lakebase, user, token), permit);
        Ok(self.admit(key, Arc::new(entry), user, token))
    }

    /// The user of this key, if the token was proven before.
    fn identity(&self, key: &Key, token: Fingerprint) -> Option<(Arc<Identity>, Standing)> {
        let identity = Arc::clone(self.lock().identities.get(key)?);
        let standing = identity.standing(token);
        (standing != Standing::Unknown).then_some((identity, standing))
    }

    /// The open pool of this key.
    fn pool(&self, key: &Key) -> Option<Arc<Lease<P>>> {
        let state = self.lock();
        let open = state.open.get(key).filter(|entry| !entry.is_dead());
        open.map(Lease::new)
    }

    /// Adds a pool, unless another token of the same user was faster; then both use that pool.
    fn admit(
        &self,
        key: &Key,
        entry: Arc<Entry<P>>,
        user: &User,
        token: Fingerprint,
    ) -> Arc<Lease<P>> {
        let mut state = self.lock();
        let known = state.open.get(key).filter(|entry| !entry.is_dead());
        let (lease, spare) = match known {
            Some(known) => (Lease::new(known), Some(entry)),
            None => {
                let lease = Lease::new(&entry);
                state.remember(key, &entry.identity);
                (lease, state.open.insert(key.clone(), entry))
            }
        };
        drop(state);
        if let Some(spare) = spare {
            let (known, own) = (&lease.0.identity, &spare.identity);
            if !Arc::ptr_eq(known, own) {
                known.accept(user, token, &own.lakebase);
            }
            self.retire(spare);
        }
        lease
    }

    /// Waits for a permit to log in with a token that is not proven. The limit includes one login of another user.
    async fn proof_permit(&self) -> Result<OwnedSemaphorePermit, NotOpened> {
        let limit = self.builder.limits.wait + self.builder.lakebase.connect_timeout();
        match timeout(limit, Arc::clone(&self.proofs).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => {
                let text = format!(
                    "cannot begin the login of a user within {} s: the logins of other users take too long",
                    limit.as_secs_f64()
                );
                let error = Error::new(Kind::Timeout, text).with_transient(true);
                Err(NotOpened::Limit(error))
            }
        }
    }

    /// Waits for a permit for a pool, and closes the pool that has been out of use for the longest time if there is none. Callers
    /// get permits in their order.
    async fn permit(&self) -> Result<OwnedSemaphorePermit, NotOpened> {
        let limits = &self.builder.limits;
        let deadline = Instant::now() + limits.wait;
        let mut permit = std::pin::pin!(Arc::clone(&self.pools).acquire_owned());
        let mut closing: Option<JoinHandle<()>> = None;
        loop {
            // The first poll enters the queue, before any pool is closed.
            if let Ok(Ok(permit)) = timeout_at(Instant::now(), &mut permit).await {
                return Ok(permit);
            }
            if closing.as_ref().is_none_or(JoinHandle::is_finished) {
                closing = self.evict().map(|entry| self.retire(entry));
            }
            tokio::select! {
                biased;
                Ok(permit) = &mut permit => return Ok(permit),
                () = sleep_until(deadline) => break,
                () = sleep(EVICTION_POLL) => {}
            }
        }
        let text = format!(
            "no free pool for another user within {} s: {} users have running requests",
            limits.wait.as_secs_f64(),
            limits.users()
        );
        let hint = "Raise max_connections if the compute allows it, or lower connections_per_user";
        let error = Error::new(Kind::Timeout, text).with_transient(true);
        Err(NotOpened::Limit(error.with_hint(hint)))
    }

    /// Removes the pool that has been out of use for the longest time.
    fn evict(&self) -> Option<Arc<Entry<P>>> {
        let mut state = self.lock();
        let idle = state
            .open
            .iter()
            .filter(|(_, entry)| !self.is_in_use(entry));
        let oldest = idle.min_by_key(|(_, entry)| entry.last_used());
        let key = oldest.map(|(key, _)| key.clone())?;
        state.evicted += 1;
        state.open.remove(&key)
    }

    /// Removes the pools that are dead, or out of use and `is_over`.
    pub(super) fn take_idle(&self, is_over: impl Fn(&Entry<P>) -> bool) -> Vec<Arc<Entry<P>>> {
        let mut taken = Vec::new();
        self.lock().open.retain(|_, entry| {
            let goes = entry.is_dead() || is_over(entry) && !self.is_in_use(entry);
            if goes {
                taken.push(Arc::clone(entry));
            }
            !goes
        });
        taken
    }

    /// Forgets users without a pool.
    pub(super) fn forget_closed(&self) {
        let State {
            identities, open, ..
        } = &mut *self.lock();
        identities.retain(|key, _| open.contains_key(key));
    }

    /// Closes the pool of an entry, and then drops the entry with its permit.
    pub(super) fn retire(&self, entry: Arc<Entry<P>>) -> JoinHandle<()> {
        self.close(entry.pool.clone(), entry)
    }

    /// Closes a pool on a separate task, and then drops `held`.
    fn close(&self, pool: P, held: impl Send + 'static) -> JoinHandle<()> {
        let closing = (self.builder.close)(pool);
        tokio::spawn(async move {
            let _ = timeout(CLOSE_LIMIT, closing).await;
            drop(held);
        })
    }
}

impl<P: Clone + Send + Sync + 'static> State<P> {
    /// Remembers a user. At the limit, it forgets the user without a pool whose last proof is the oldest.
    fn remember(&mut self, key: &Key, identity: &Arc<Identity>) {
        if self.identities.len() >= MOST {
            let closed = self.identities.iter();
            let closed = closed.filter(|(key, _)| !self.open.contains_key(key));
            let oldest = closed.min_by_key(|(_, identity)| identity.last_proof());
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.identities.remove(&oldest);
            }
        }
        self.identities.insert(key.clone(), Arc::clone(identity));
    }
}

/// Closes pools that have been out of use for `idle`, and forgets users after an hour, until no user is left.
async fn sweep<P: Clone + Send + Sync + 'static>(pools: Weak<Shared<P>>, idle: Duration) {
    loop {
        sleep((idle / 4).max(SHORTEST_SWEEP)).await;
        let Some(pools) = pools.upgrade() else { return };
        for entry in pools.take_idle(|entry| entry.last_used().elapsed() >= idle) {
            pools.retire(entry);
        }
        let limit = pools.opening_limit();
        let mut state = pools.lock();
        state.opening.retain(|_, one| one.is_running(limit));
        let past = state.failed.extract_if(|_, failed| failed.is_past());
        let past: Vec<_> = past.collect();
        let State {
            identities, open, ..
        } = &mut *state;
        identities.retain(|key, identity| open.contains_key(key) || !identity.is_over());
        let is_last = identities.is_empty() && state.opening.is_empty();
        if is_last {
            state.sweeper = None;
        }
        drop(state);
        // The application's errors are not dropped under the lock.
        drop(past);
        if is_last {
            return;
        }
    }
}
