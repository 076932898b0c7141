//! When a credential is usable, when it is renewed, when a failed renewal is retried.
//!
//! Pure arithmetic: time and randomness come in as arguments.

use std::time::{Duration, Instant, SystemTime};

use crate::credential::clock::Now;

/// How a [`Lakebase`](crate::lakebase::Lakebase) keeps its credential fresh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refresh {
    /// A background task renews at about three quarters of the lifetime; callers wait only when
    /// nothing valid is held. The default.
    #[default]
    Ahead,
    /// No background task: the first caller after about three quarters of the lifetime starts the renewal and gets the
    /// held credential. For handles that may not be used again, such as those of [users](crate::User).
    OnDemand,
    /// No background task: the first caller after about three quarters of the lifetime renews and waits.
    /// For runtimes that are frozen between requests (serverless functions).
    Lazy,
}

/// Shares of the lifetime between which renewal starts, at random: late enough not to mint twice as often as
/// needed, early enough to leave twelve minutes of an hour to ride out an outage.
const RENEW_BETWEEN: [f64; 2] = [0.68, 0.8];
/// Not even the first renewal is earlier: a program that runs for minutes mints once.
const RENEW_NOT_BEFORE: f64 = 0.05;
/// This close to a token's end a new one is preferred.
const NEAR_END: Duration = Duration::from_secs(30);
/// This close to its end a token is no longer used, because a login takes time to arrive.
const END_MARGIN: Duration = Duration::from_secs(2);
/// See [`Validity::age_for_workspace`].
const WORKSPACE_TOKEN_MARGIN: Duration = Duration::from_secs(40);
/// See [`Validity::age_for_workspace`].
const LONGEST_STALE: Duration = Duration::from_secs(20 * 60);
/// Nothing is trusted for longer, whatever expiry was sent.
const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Shortest and longest time for which callers with nothing valid share a failure.
const CALLER_WAIT: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(500)];
/// A proxy's maintenance page may ask for more than the maintenance takes.
pub(crate) const MAX_ASKED_WAIT: Duration = Duration::from_secs(60);

/// What a held value is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    /// Served.
    Fresh,
    /// Served, while a new one is fetched in the background.
    Due,
    /// A new one is preferred; served if none arrives in a moment.
    NearEnd,
    /// Rejected, perhaps by mistake. Served once per failed attempt to fetch a new one.
    LastResort,
    /// Not served.
    Dead,
}

/// From when until when a credential may be used, on both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Validity {
    since: Now,
    lifetime: Duration,
}

impl Validity {
    /// Measures the lifetime without trusting that our wall clock agrees with the server's.
    ///
    /// `date` is the server's own clock when it answered (whole seconds, truncated); `sent` and
    /// `received` are our readings around the request. Where both clocks can agree within that
    /// resolution, ours is used; otherwise the latest the server's clock can have shown.
    /// `None` if the expiry has passed.
    pub(crate) fn measure(
        expires_at: SystemTime,
        date: Option<SystemTime>,
        sent: Now,
        received: Now,
    ) -> Option<Self> {
        let second = Duration::from_secs(1);
        let server_now = match date {
            Some(date) if sent.wall > date + second || received.wall < date => date + second,
            _ => sent.wall,
        };
        let lifetime = expires_at.duration_since(server_now).ok()?;
        (!lifetime.is_zero()).then(|| Self::starting(sent, lifetime))
    }

    /// Begins with a request and lasts for what the answer said.
    pub(crate) fn starting(sent: Now, lifetime: Duration) -> Self {
        Self {
            since: sent,
            lifetime: lifetime.min(MAX_LIFETIME),
        }
    }

    /// Time since it began, by whichever clock says more.
    pub(crate) fn elapsed(&self, now: Now) -> Duration {
        let wall = now.wall.duration_since(self.since.wall).unwrap_or_default();
        now.passed.saturating_sub(self.since.passed).max(wall)
    }

    /// How long a login may still use it. The margins scale with short lifetimes.
    fn usable_for(&self, now: Now) -> Duration {
        let margin = (self.lifetime / 10).min(END_MARGIN);
        self.lifetime.saturating_sub(self.elapsed(now) + margin)
    }

    pub(crate) fn is_usable(&self, now: Now) -> bool {
        !self.usable_for(now).is_zero()
    }

    fn is_near_end(&self, now: Now) -> bool {
        self.elapsed(now) + (self.lifetime / 5).min(NEAR_END) >= self.lifetime
    }

    /// Never longer than this, whatever the clocks say.
    pub(crate) fn at_most(self, limit: Duration) -> Self {
        Self {
            lifetime: self.lifetime.min(limit),
            ..self
        }
    }

    /// The age of a workspace token. The platform rejects it in its last 30 s, so the official clients
    /// drop it 40 s early; they renew it in the background in the second half of its life, at most
    /// 20 minutes ahead.
    pub(crate) fn age_for_workspace(&self, now: Now) -> Age {
        let elapsed = self.elapsed(now);
        if elapsed + WORKSPACE_TOKEN_MARGIN >= self.lifetime {
            Age::Dead
        } else if elapsed > self.lifetime - (self.lifetime / 2).min(LONGEST_STALE) {
            Age::Due
        } else {
            Age::Fresh
        }
    }

    /// Of two that are used together, the one that ends first.
    pub(crate) fn ending_first(self, other: Self) -> Self {
        let end = |validity: Self| validity.since.passed.saturating_add(validity.lifetime);
        if end(other) < end(self) { other } else { self }
    }

    pub(crate) fn lifetime(&self) -> Duration {
        self.lifetime
    }
}

/// A validity together with the moment at which renewal is due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    validity: Validity,
    renew_after: Duration,
    refresh: Refresh,
}

impl Schedule {
    /// `random` is uniform in `0.0..1.0`. What was minted in its time, because `before` was due, is renewed after three
    /// quarters of the lifetime or so. Anything else (a start, an outage that outlasted the tokens, a
    /// revocation) may have happened to a whole fleet in the same moment: then renewals spread over the whole
    /// interval.
    ///
    /// A credential that is old already when it lands (a provider with a cache of its own) is not due at once, or
    /// renewal would spin.
    pub(crate) fn new(
        validity: Validity,
        refresh: Refresh,
        landed: Now,
        before: Option<Schedule>,
        random: f64,
    ) -> Self {
        let random = random.clamp(0.0, 1.0);
        let in_time = |before: Schedule| {
            before.is_usable(landed) && before.until_renewal(validity.since).is_zero()
        };
        let share = match before.is_some_and(in_time) {
            true => share_of_next(random),
            false => share_of_first(random),
        };
        let earliest = validity.elapsed(landed) + pause_floor(validity.lifetime);
        Self {
            validity,
            renew_after: validity.lifetime.mul_f64(share).max(earliest),
            refresh,
        }
    }

    /// The same for a handle that has renewed before: nothing has happened to a whole fleet.
    pub(crate) fn of_next(self, random: f64) -> Self {
        let share = share_of_next(random.clamp(0.0, 1.0));
        Self {
            renew_after: self.validity.lifetime.mul_f64(share),
            ..self
        }
    }

    /// When the token was requested.
    pub(crate) fn since(&self) -> Now {
        self.validity.since
    }

    pub(crate) fn is_usable(&self, now: Now) -> bool {
        self.validity.is_usable(now)
    }

    /// With lazy renewal, the caller that finds it due waits for a new one.
    pub(crate) fn age(&self, now: Now) -> Age {
        let is_due = self.until_renewal(now).is_zero();
        if !self.is_usable(now) {
            Age::Dead
        } else if self.validity.is_near_end(now) || is_due && self.refresh == Refresh::Lazy {
            Age::NearEnd
        } else if is_due {
            Age::Due
        } else {
            Age::Fresh
        }
    }

    pub(crate) fn usable_for(&self, now: Now) -> Duration {
        self.validity.usable_for(now)
    }

    /// How long until renewal is due; zero when it is.
    pub(crate) fn until_renewal(&self, now: Now) -> Duration {
        self.renew_after.saturating_sub(self.validity.elapsed(now))
    }

    /// Time since the token was requested.
    pub(crate) fn elapsed(&self, now: Now) -> Duration {
        self.validity.elapsed(now)
    }

    pub(crate) fn lifetime(&self) -> Duration {
        self.validity.lifetime()
    }
}

fn share_of_next(random: f64) -> f64 {
    let [low, high] = RENEW_BETWEEN;
    low + (high - low) * random
}

/// The rest of an interval of which a random part has passed: with it, a fleet that starts together renews from then on
/// at the even rate of one that has run for long (the equilibrium distribution of a renewal process).
fn share_of_first(random: f64) -> f64 {
    let [low, high] = RENEW_BETWEEN;
    let mean = f64::midpoint(low, high);
    let skipped = RENEW_NOT_BEFORE / mean;
    let passed = skipped + (1.0 - skipped) * random;
    match passed * mean <= low {
        true => passed * mean,
        false => high - ((1.0 - passed) * 2.0 * mean * (high - low)).sqrt(),
    }
}

/// The shortest pause between two mints, scaled for short lifetimes.
fn pause_floor(lifetime: Duration) -> Duration {
    (lifetime / 100).clamp(Duration::from_millis(50), Duration::from_secs(1))
}

/// What a server asked to wait, and up to a tenth more (a quarter of a second at least): those whom it
/// turned away together must not come back together.
pub(crate) fn spread(asked: Duration, random: f64) -> Duration {
    let more = (asked / 10).max(Duration::from_millis(250));
    asked + more.mul_f64(random.clamp(0.0, 1.0))
}

/// The pause after failed renewals. While the held credential is usable, it is a part of the time left, so a fleet does not
/// come back in the moment in which an outage ends, and attempts get denser towards the end. After that, it
/// doubles from a floor. Scales with short lifetimes, honours the server's `Retry-After`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    since: Instant,
    pause: Duration,
    for_callers: Duration,
}

impl Backoff {
    /// `held` is for how long the held value is still usable, and its lifetime.
    pub(crate) fn new(
        since: Instant,
        failures: u32,
        held: Option<(Duration, Duration)>,
        retry_after: Option<Duration>,
        random: f64,
    ) -> Self {
        let random = random.clamp(0.0, 1.0);
        let (usable, lifetime) = held.unwrap_or((Duration::ZERO, Duration::from_secs(3600)));
        let doubled =
            |floor: Duration| floor.saturating_mul(1 << failures.saturating_sub(1).min(16));
        let floor = pause_floor(lifetime);
        let pause = match usable.is_zero() {
            true => {
                let (shortest, longest) = (Duration::from_millis(250), Duration::from_secs(30));
                let ceiling = (lifetime / 20).clamp(shortest, longest);
                doubled(floor).min(ceiling).mul_f64(0.75 + 0.5 * random)
            }
            false => usable.mul_f64(0.25 + 0.5 * random).max(floor),
        };
        let asked = |longest: Duration| {
            retry_after.map_or(Duration::ZERO, |asked| spread(asked.min(longest), random))
        };
        let [shortest, longest] = CALLER_WAIT;
        Self {
            since,
            pause: pause.max(asked(Duration::MAX)),
            for_callers: doubled(shortest).min(longest).max(asked(MAX_ASKED_WAIT)),
        }
    }

    /// The background task waits at least this long.
    pub(crate) fn at_least(self, pause: Duration) -> Self {
        Self {
            pause: self.pause.max(pause),
            ..self
        }
    }

    /// How long the background task still waits.
    pub(crate) fn left(&self, now: Now) -> Duration {
        self.left_of(self.pause, now)
    }

    /// How long callers with nothing valid still share the failure: short, so that recovery is noticed
    /// at once, unless the server asked for more (a minute at most).
    pub(crate) fn left_for_callers(&self, now: Now) -> Duration {
        self.left_of(self.for_callers, now)
    }

    fn left_of(&self, pause: Duration, now: Now) -> Duration {
        pause.saturating_sub(now.monotonic.saturating_duration_since(self.since))
    }
}

/// Bounds how often something may happen: a burst, then one per interval.
#[derive(Debug)]
pub(crate) struct Bucket {
    left: u32,
    since: Option<Instant>,
}

impl Bucket {
    const BURST: u32 = 10;

    pub(crate) fn full() -> Self {
        Self {
            left: Self::BURST,
            since: None,
        }
    }

    /// Takes one, if there is one left.
    pub(crate) fn take(&mut self, interval: Duration, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let gained = now.saturating_duration_since(since).as_nanos() / interval.as_nanos().max(1);
        let gained = u32::try_from(gained).unwrap_or(u32::MAX);
        if gained >= Self::BURST - self.left {
            (self.left, self.since) = (Self::BURST, Some(now));
        } else {
            self.left += gained;
            self.since = Some(since + interval * gained);
        }
        let has_one = self.left > 0;
        self.left -= u32::from(has_one);
        has_one
    }

    /// Gives back one that was not used.
    pub(crate) fn give_back(&mut self) {
        self.left = (self.left + 1).min(Self::BURST);
    }
}

/// How often tokens may be minted in the long run.
pub(crate) fn mint_interval(lifetime: Duration) -> Duration {
    (lifetime / 4).clamp(Duration::from_millis(50), Duration::from_secs(1))
}

#[cfg(test)]
mod tests;
