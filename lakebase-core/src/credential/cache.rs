//! The current database credential: renewed ahead of expiry, replaced when Postgres rejects it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::credential::Credential;
use crate::credential::clock::{Now, Watch};
use crate::credential::provider::SharedProvider;
use crate::credential::refresh::{Age, Bucket, Refresh, Schedule, Validity, mint_interval};
use crate::credential::single_flight::{Aging, Fetch, SingleFlight, no_runtime};
use crate::error::Error;
use crate::error::Kind;

/// Upper bound for one mint, so that a provider that never answers cannot block renewal forever.
const MINT_LIMIT: Duration = Duration::from_secs(40);
/// The refresh task reads the clocks at least this often: timers stand still while a machine is
/// suspended, wall time does not.
const MAX_NAP: Duration = Duration::from_secs(15);
/// A credential minted because the one before was rejected, and rejected itself without ever having
/// been accepted, is not the problem. It is replaced at most this often.
const REJECTION_FLOOR: Duration = Duration::from_secs(60);

/// Cheap to clone; clones share one state. Touches no runtime until a credential is wanted.
#[derive(Clone)]
pub(crate) struct CredentialCache {
    shared: Arc<Shared>,
}

struct Shared {
    minter: Arc<Minter>,
    flight: SingleFlight<Credential>,
    refresher: Mutex<Option<(AbortHandle, u32)>>,
}

/// While a fresh branch rejects every login, a credential of this age is replaced.
const UNREADY_FLOOR: Duration = Duration::from_secs(2);

/// Why a login failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The credential was rejected.
    Rejected,
    /// The branch is so fresh that it rejects good ones.
    Unready,
}

/// What to do about a rejected credential.
#[derive(Debug)]
pub(crate) enum Rejection {
    /// Log in with the next one.
    Renew,
    /// Another one would be rejected, too.
    Final,
    /// It was a last resort: a new one cannot be minted, for this reason.
    Stuck(Error),
}

impl CredentialCache {
    pub(crate) fn new(provider: SharedProvider, clock: Arc<Watch>, refresh: Refresh) -> Self {
        Self {
            shared: Arc::new(Shared {
                flight: SingleFlight::new("database credential", Arc::clone(&clock), MINT_LIMIT),
                minter: Arc::new(Minter {
                    provider,
                    clock,
                    refresh,
                    minted: AtomicU64::new(0),
                    bucket: Mutex::new(Bucket::full()),
                    last: Mutex::default(),
                }),
                refresher: Mutex::default(),
            }),
        }
    }

    /// The current credential. Waits if nothing valid is held, and for a moment near the held one's end.
    ///
    /// Cancel safe: the mint runs on a task of its own.
    pub(crate) async fn get(&self) -> Result<Credential, Error> {
        let shared = &self.shared;
        if shared.minter.refresh == Refresh::Ahead {
            shared.ensure_refresher()?;
        }
        let credential = shared.flight.get(|| Minter::mint(&shared.minter)).await?;
        Ok(credential.handed_out())
    }

    /// Mints a credential, whatever is held, and holds it.
    pub(crate) async fn renew(&self) -> Result<(), Error> {
        let minter = &self.shared.minter;
        let minted = self.shared.flight.fetch(|| Minter::mint(minter)).await;
        minted.map(drop)
    }

    /// Starts a renewal if it is due. Lazily, callers that need a credential do.
    pub(crate) fn renew_if_due(&self) {
        if self.shared.minter.refresh != Refresh::Lazy {
            let _ = self.shared.renew_or_nap();
        }
    }

    /// Holds the credential that the other cache has minted for the same user.
    pub(crate) fn adopt(&self, other: &Self) {
        let minted = other.shared.flight.inspect(|held, _| held.cloned());
        let minted = minted.filter(|minted| !minted.is_rejected());
        let Some((minted, schedule)) = minted.and_then(|one| Some((one.clone(), one.schedule?)))
        else {
            return;
        };
        let minter = &self.shared.minter;
        let schedule = schedule.of_next(fastrand::f64());
        let was_accepted = minted.was_accepted();
        let adopted = minted.held(schedule, minter.number());
        if was_accepted {
            adopted.mark_accepted();
        }
        *minter.last() = Some(schedule);
        self.shared.flight.put(adopted);
    }

    /// When the held credential was requested, as [`Watch::passed`] counts.
    pub(crate) fn minted_at(&self) -> Option<Duration> {
        let since = |held: &Credential| Some(held.schedule?.since().passed);
        self.shared.flight.inspect(|held, _| held.and_then(since))
    }

    /// Still the held credential, still good for a login, and not due if only callers renew it. Takes no lock.
    pub(crate) fn is_current(&self, credential: &Credential) -> bool {
        let ahead = self.shared.minter.refresh == Refresh::Ahead;
        credential.is_newest()
            && match credential.age(self.shared.flight.now()) {
                Age::Fresh => true,
                Age::Due | Age::NearEnd => ahead,
                Age::LastResort | Age::Dead => false,
            }
    }

    /// Still good for a login, newest or not.
    pub(crate) fn is_valid(&self, credential: &Credential) -> bool {
        credential.is_usable(self.shared.flight.now())
    }

    /// The provider has another token to mint with: why the last mint failed does not matter any more.
    pub(crate) fn forget_failure(&self) {
        self.shared.flight.forget_failure();
    }

    /// Postgres rejected a login with `credential`.
    pub(crate) fn reject(&self, credential: &Credential, cause: Cause) -> Rejection {
        let shared = &self.shared;
        let now = shared.flight.now();
        shared.flight.inspect(|held, failure| {
            let Some(held) = held.filter(|held| held.generation() == credential.generation())
            else {
                return Rejection::Renew;
            };
            if credential.is_last_resort() {
                return Rejection::Stuck(failure.cloned().unwrap_or_else(|| {
                    Error::new(Kind::Timeout, "the workspace has not answered yet")
                }));
            }
            let is_final = match cause {
                Cause::Rejected => held.is_hopeless(now),
                Cause::Unready => held.is_younger_than(UNREADY_FLOOR, now),
            };
            if is_final {
                return Rejection::Final;
            }
            held.mark_rejected(cause == Cause::Rejected);
            Rejection::Renew
        })
    }
}

impl Shared {
    /// Starts the refresh task on the caller's runtime, unless one runs. A task does not survive a fork.
    fn ensure_refresher(self: &Arc<Self>) -> Result<(), Error> {
        let runtime = Handle::try_current().map_err(|_| no_runtime())?;
        let mut refresher = self
            .refresher
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let process = std::process::id();
        let runs = |(task, its): &(AbortHandle, u32)| *its == process && !task.is_finished();
        if !refresher.as_ref().is_some_and(runs) {
            let task = refresh_ahead(Arc::downgrade(self), self.flight.subscribe());
            *refresher = Some((runtime.spawn(task).abort_handle(), process));
        }
        Ok(())
    }

    /// Renews if that is due, and returns how long to sleep.
    fn renew_or_nap(&self) -> Duration {
        let due = |held: &Credential, now| {
            held.schedule
                .map_or(MAX_NAP, |schedule| schedule.until_renewal(now))
        };
        let wait = self.flight.renew(due, || Minter::mint(&self.minter));
        wait.unwrap_or(MAX_NAP).min(MAX_NAP)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let refresher = self
            .refresher
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        let process = std::process::id();
        if let Some((task, _)) = refresher.take().filter(|(_, its)| *its == process) {
            task.abort();
        }
    }
}

impl fmt::Debug for CredentialCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialCache")
            .field("provider", &self.shared.minter.provider)
            .field("refresh", &self.shared.minter.refresh)
            .finish_non_exhaustive()
    }
}

/// Renews ahead of expiry until the last handle of the cache is dropped.
async fn refresh_ahead(shared: Weak<Shared>, mut landed: watch::Receiver<u64>) {
    loop {
        let Some(nap) = shared.upgrade().map(|shared| shared.renew_or_nap()) else {
            return;
        };
        tokio::select! {
            () = tokio::time::sleep(nap) => {}
            alive = landed.changed() => if alive.is_err() { return },
        }
    }
}

/// Mints, numbers and dates credentials, at a bounded rate.
struct Minter {
    provider: SharedProvider,
    clock: Arc<Watch>,
    refresh: Refresh,
    minted: AtomicU64,
    /// Counts successes: failures have pauses of their own.
    bucket: Mutex<Bucket>,
    /// Of what was minted last.
    last: Mutex<Option<Schedule>>,
}

impl Minter {
    fn mint(minter: &Arc<Self>) -> Fetch<Credential> {
        let minter = Arc::clone(minter);
        Box::pin(async move {
            if let Some(credential) = minter.attempt().await? {
                return Ok(credential);
            }
            let again = minter.attempt().await?;
            again.ok_or_else(|| Error::timeout("credentials expire while they are minted"))
        })
    }

    /// `None` if the credential has expired since the request was sent, in a suspend say.
    async fn attempt(&self) -> Result<Option<Credential>, Error> {
        let sent = self.clock.now();
        self.check_rate(sent)?;
        let minted = self.provider.mint().await;
        let accepted = minted.and_then(|credential| self.accept(credential, sent));
        if !matches!(accepted, Ok(Some(_))) {
            self.bucket().give_back();
        }
        accepted
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last(&self) -> MutexGuard<'_, Option<Schedule>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Scales with the lifetime of what was minted last; an hour's token until then.
    fn check_rate(&self, now: Now) -> Result<(), Error> {
        let lifetime = self.last().map_or(Duration::MAX, |last| last.lifetime());
        match self.bucket().take(mint_interval(lifetime), now.monotonic) {
            true => Ok(()),
            false => Err(Error::new(
                Kind::Login,
                "Postgres rejects credentials as fast as they are minted: the next one is minted in a moment",
            )
            .with_transient(true)),
        }
    }

    fn accept(&self, credential: Credential, sent: Now) -> Result<Option<Credential>, Error> {
        let now = self.clock.now();
        let unusable = |what: &str| {
            let text = format!("the provider returned a credential {what}");
            Error::new(Kind::Provider, text)
        };
        let validity = match (credential.validity, credential.expires_at()) {
            (Some(validity), _) => Some(validity),
            (None, Some(expires_at)) => Validity::measure(expires_at, None, sent, now),
            (None, None) => return Err(unusable("without an expiry")),
        };
        let validity = validity
            .filter(|validity| validity.is_usable(sent))
            .ok_or_else(|| unusable("that has expired or is about to"))?;
        if !validity.is_usable(now) {
            return Ok(None);
        }
        let mut last = self.last();
        let schedule = Schedule::new(validity, self.refresh, now, *last, fastrand::f64());
        *last = Some(schedule);
        Ok(Some(credential.held(schedule, self.number())))
    }

    fn number(&self) -> u64 {
        self.minted.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl Aging for Credential {
    fn age(&self, now: Now) -> Age {
        match self
            .schedule
            .map_or(Age::Fresh, |schedule| schedule.age(now))
        {
            Age::Dead => Age::Dead,
            _ if self.is_rejected() => Age::LastResort,
            age => age,
        }
    }

    fn usable_for(&self, now: Now) -> Duration {
        self.schedule
            .map_or(Duration::MAX, |schedule| schedule.usable_for(now))
    }

    fn lifetime(&self) -> Option<Duration> {
        Some(self.schedule?.lifetime())
    }

    fn retire(&self, newer: &Self) {
        self.mark_replaced(newer);
    }
}

impl Credential {
    /// Replaced a rejected one, and was never accepted: the token is not the problem.
    fn is_hopeless(&self, now: Now) -> bool {
        self.replaces_rejected()
            && !self.was_accepted()
            && self.is_younger_than(REJECTION_FLOOR, now)
    }

    fn is_younger_than(&self, age: Duration, now: Now) -> bool {
        self.schedule
            .is_some_and(|schedule| schedule.elapsed(now) < age)
    }
}
