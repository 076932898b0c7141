//! The current database credential: renewed ahead of expiry, replaced when Postgres rejects it.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tracing::field::{Empty, display};
use tracing::{Instrument as _, Span};

use crate::credential::Credential;
use crate::credential::clock::{Now, Watch};
use crate::credential::provider::SharedProvider;
use crate::credential::refresh::{Age, Bucket, Refresh, Schedule, Validity, mint_interval};
use crate::credential::single_flight::{Aging, Fetch, SingleFlight, no_runtime};
use crate::error::{Error, Kind};
use crate::telemetry::{Counts, Outage, TokenStats};

/// Time limit of one mint.
const MINT_LIMIT: Duration = Duration::from_secs(40);
/// The refresh task reads the clocks at this interval at least, because timers stop while the machine is suspended.
const MAX_NAP: Duration = Duration::from_secs(15);
/// For this long, a fresh credential is returned without a lock, after one reading of the wall clock.
const MEMO: Duration = Duration::from_secs(1);
/// More threads than this share memos.
const MEMOS: usize = 8;
/// The shortest time between two replacements of a credential that replaced a rejected one and was never accepted: then the
/// credential is not the cause.
pub(crate) const REJECTION_FLOOR: Duration = Duration::from_secs(60);
/// While a fresh branch rejects every login, credentials older than this are replaced.
pub(crate) const UNREADY_FLOOR: Duration = Duration::from_secs(2);

/// Needs a runtime from the first `get` on.
pub(crate) struct CredentialCache {
    shared: Arc<Shared>,
}

struct Shared {
    minter: Arc<Minter>,
    flight: SingleFlight<Credential>,
    refresher: Mutex<Option<(AbortHandle, u32)>>,
    memos: Memos,
}

/// Copies of a fresh credential, which are returned without a lock, a system call or a counter that many threads write.
/// Each thread uses one of them.
#[derive(Default)]
struct Memos([ArcSwapOption<Memo>; MEMOS]);

struct Memo {
    credential: Credential,
    since: SystemTime,
    until: SystemTime,
}

impl Memos {
    /// The slot of the calling thread.
    fn own(&self) -> &ArcSwapOption<Memo> {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static THREAD: usize = THREADS.fetch_add(1, Ordering::Relaxed);
        }
        &self.0[THREAD.with(|number| number % MEMOS)]
    }

    fn forget(&self) {
        self.0.iter().for_each(|memo| memo.store(None));
    }
}

impl Memo {
    /// `None` unless the credential is fresh. A tenth of the lifetime at most, so that it ends before the expiry, whatever
    /// the clocks do.
    fn of(credential: &Credential, now: Now) -> Option<Self> {
        let schedule = credential.schedule()?;
        let lasts = (schedule.validity.lifetime() / 10)
            .min(schedule.until_renewal(now))
            .min(MEMO);
        (credential.age(now) == Age::Fresh).then(|| Self {
            credential: credential.apart(),
            since: now.wall,
            until: now.wall + lasts,
        })
    }

    fn serves(&self, wall: SystemTime) -> bool {
        let is_recent = self.since <= wall && wall < self.until;
        is_recent && self.credential.is_newest() && !self.credential.is_rejected()
    }
}

/// Why a login failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The credential was rejected.
    Rejected,
    /// The branch is fresh, or its gateway fails, and rejects valid credentials. Those older than this are replaced.
    Unready(Duration),
}

/// What to do about a rejected credential.
#[derive(Debug)]
pub(crate) enum Rejection {
    /// The next login gets another credential.
    Renew,
    /// Another credential would be rejected as well.
    Final,
    /// The credential was a last resort, because a new one cannot be minted for this reason.
    Stuck(Error),
}

impl CredentialCache {
    pub(crate) fn new(
        provider: SharedProvider,
        clock: Arc<Watch>,
        refresh: Refresh,
        outage: &Arc<Outage>,
        counts: &Arc<Counts>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                flight: SingleFlight::new(
                    "database credential",
                    Arc::clone(&clock),
                    MINT_LIMIT,
                    outage,
                ),
                minter: Arc::new(Minter {
                    provider,
                    clock,
                    refresh,
                    counts: Arc::clone(counts),
                    minted: AtomicU64::new(0),
                    bucket: Mutex::new(Bucket::full()),
                    last: Mutex::default(),
                }),
                refresher: Mutex::default(),
                memos: Memos::default(),
            }),
        }
    }

    /// Returns the current credential. Waits for a mint if no valid one is held, and up to 0.75 s shortly before its expiry.
    ///
    /// Cancel safe: the mint runs on a task of its own.
    pub(crate) async fn get(&self) -> Result<Credential, Error> {
        let shared = &self.shared;
        if let Some(memo) = &*shared.memos.own().load()
            && memo.serves(shared.minter.clock.wall())
        {
            return Ok(memo.credential.clone());
        }
        let is_ahead = shared.minter.refresh == Refresh::Ahead;
        if is_ahead {
            shared.ensure_refresher()?;
        }
        let credential = shared.flight.get(|| Minter::mint(&shared.minter)).await?;
        if is_ahead && let Some(memo) = Memo::of(&credential, shared.flight.now()) {
            shared.memos.own().store(Some(Arc::new(memo)));
        }
        Ok(credential.marked())
    }

    /// Mints and holds a new credential, even if a valid one is held.
    pub(crate) async fn renew(&self) -> Result<(), Error> {
        let minter = &self.shared.minter;
        let minted = self.shared.flight.fetch(|| Minter::mint(minter)).await;
        minted.map(drop)
    }

    /// Starts a renewal if it is due, except with [`Refresh::Lazy`].
    pub(crate) fn renew_if_due(&self) {
        if self.shared.minter.refresh != Refresh::Lazy {
            let _ = self.shared.renew_or_nap();
        }
    }

    /// Copies the credential of another cache of the same user.
    pub(crate) fn adopt(&self, other: &Self) {
        let minted = other.shared.flight.inspect(|held, _| held.cloned());
        let minted = minted.filter(|minted| !minted.is_rejected());
        let Some((minted, schedule)) = minted.and_then(|one| Some((one.clone(), one.schedule()?)))
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

    /// When the held credential was requested, by [`Watch::passed`].
    pub(crate) fn minted_at(&self) -> Option<Duration> {
        let since = |held: &Credential| Some(held.schedule()?.validity.since.passed);
        self.shared.flight.inspect(|held, _| held.and_then(since))
    }

    /// Whether the credential is held and valid, and not due unless it is renewed ahead. Takes no lock.
    pub(crate) fn is_current(&self, credential: &Credential) -> bool {
        let ahead = self.shared.minter.refresh == Refresh::Ahead;
        credential.is_newest()
            && match credential.age(self.shared.flight.now()) {
                Age::Fresh => true,
                Age::Due | Age::NearEnd => ahead,
                Age::LastResort | Age::Dead => false,
            }
    }

    /// Whether the credential is valid, held or not.
    pub(crate) fn is_valid(&self, credential: &Credential) -> bool {
        credential.is_usable(self.shared.flight.now())
    }

    pub(crate) fn stats(&self) -> TokenStats {
        let shared = &self.shared;
        let now = shared.flight.now();
        let counts = &shared.minter.counts;
        let mut stats = TokenStats {
            failures: counts.failed_mints.load(Ordering::Relaxed),
            mints: counts.mints.stats(),
            ..TokenStats::default()
        };
        shared.flight.inspect(|held, failure| {
            let schedule = held.and_then(Credential::schedule);
            stats.age = schedule.map(|schedule| schedule.validity.elapsed(now));
            stats.renewal_in = schedule.map(|schedule| schedule.until_renewal(now));
            stats.usable_for = held.map(|held| match held.is_rejected() {
                true => Duration::ZERO,
                false => held.usable_for(now),
            });
            stats.last_error = failure.map(Error::chain);
        });
        stats
    }

    /// Drops the last failure: the provider has another token to mint with.
    pub(crate) fn forget_failure(&self) {
        self.shared.flight.forget_failure();
    }

    /// Records that Postgres rejected a login with `credential`.
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
                Cause::Rejected => held.is_not_the_cause(now),
                Cause::Unready(floor) => held.is_younger_than(floor, now),
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
    /// Starts the refresh task on the caller's runtime, unless it runs. A child of a fork needs its own.
    fn ensure_refresher(self: &Arc<Self>) -> Result<(), Error> {
        let runtime = Handle::try_current().map_err(|_| no_runtime())?;
        let mut refresher = self
            .refresher
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let process = std::process::id();
        let runs = |(task, its): &(AbortHandle, u32)| *its == process && !task.is_finished();
        if !refresher.as_ref().is_some_and(runs) {
            let shared = Arc::downgrade(self);
            let end = Forget(Weak::clone(&shared));
            let task = refresh_ahead(shared, self.flight.subscribe(), end);
            *refresher = Some((runtime.spawn(task).abort_handle(), process));
        }
        Ok(())
    }

    /// Starts a renewal if it is due, and returns the time to sleep.
    fn renew_or_nap(&self) -> Duration {
        // The wall clock may have been set back.
        self.memos.forget();
        let due = |held: &Credential, now| {
            held.schedule()
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

/// Renews ahead of expiry until the last handle of the cache is dropped. `_end` is dropped even if this is never polled.
async fn refresh_ahead(shared: Weak<Shared>, mut landed: watch::Receiver<u64>, _end: Forget) {
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

/// Drops the memos when the refresh task ends, for example with its runtime, so that the next caller starts another one.
struct Forget(Weak<Shared>);

impl Drop for Forget {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            shared.memos.forget();
        }
    }
}

/// Mints credentials at a limited rate, with their number and schedule.
struct Minter {
    provider: SharedProvider,
    clock: Arc<Watch>,
    refresh: Refresh,
    counts: Arc<Counts>,
    minted: AtomicU64,
    /// Limits successful mints. Failures have pauses of their own.
    bucket: Mutex<Bucket>,
    /// Schedule of the last credential.
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

    /// `None` if the credential has expired since the request was sent, for example in a suspend.
    async fn attempt(&self) -> Result<Option<Credential>, Error> {
        let sent = self.clock.now();
        self.check_rate(sent)?;
        let span = tracing::info_span!(
            target: "lakebase::token",
            "lakebase.token.refresh",
            lakebase.token.expires_at = Empty,
            error.type = Empty,
        );
        let minted = self.provider.mint().instrument(span.clone()).await;
        self.note(sent, &minted, &span);
        let accepted = minted.and_then(|credential| self.accept(credential, sent));
        if !matches!(accepted, Ok(Some(_))) {
            self.bucket().give_back();
        }
        accepted
    }

    fn note(&self, sent: Now, minted: &Result<Credential, Error>, span: &Span) {
        let error_type = minted.as_ref().err().map(Error::error_type);
        let took = self
            .clock
            .now()
            .monotonic
            .saturating_duration_since(sent.monotonic);
        self.counts.mints.record(took, error_type);
        if let Some(error_type) = error_type {
            self.counts.failed_mints.fetch_add(1, Ordering::Relaxed);
            span.record("error.type", error_type);
        }
        if let Some(expires_at) = minted.as_ref().ok().and_then(Credential::expires_at)
            && let Ok(expires_at) = Timestamp::try_from(expires_at)
        {
            span.record("lakebase.token.expires_at", display(expires_at));
        }
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last(&self) -> MutexGuard<'_, Option<Schedule>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The limit scales with the lifetime of the last credential.
    fn check_rate(&self, now: Now) -> Result<(), Error> {
        let lifetime = self
            .last()
            .map_or(Duration::MAX, |last| last.validity.lifetime());
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
        let validity = match (credential.validity(), credential.expires_at()) {
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
            .schedule()
            .map_or(Age::Fresh, |schedule| schedule.age(now))
        {
            Age::Dead => Age::Dead,
            _ if self.is_rejected() => Age::LastResort,
            age => age,
        }
    }

    fn usable_for(&self, now: Now) -> Duration {
        self.schedule()
            .map_or(Duration::MAX, |schedule| schedule.validity.usable_for(now))
    }

    fn lifetime(&self) -> Option<Duration> {
        Some(self.schedule()?.validity.lifetime())
    }

    fn retire(&self, newer: &Self) {
        self.mark_replaced(newer);
    }
}

impl Credential {
    /// It recently replaced a rejected credential and was never accepted: the credential is not the cause.
    fn is_not_the_cause(&self, now: Now) -> bool {
        self.replaces_rejected()
            && !self.was_accepted()
            && self.is_younger_than(REJECTION_FLOOR, now)
    }

    fn is_younger_than(&self, age: Duration, now: Now) -> bool {
        self.schedule()
            .is_some_and(|schedule| schedule.validity.elapsed(now) < age)
    }
}
