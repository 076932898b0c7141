//! When a credential is valid, when it is renewed, and when a failed renewal is retried.
//!
//! Pure functions: time and randomness are arguments.

use std::time::{Duration, Instant, SystemTime};

use crate::credential::clock::Now;

/// When a [`Lakebase`](crate::Lakebase) renews its credential, for
/// [`ConfigBuilder::refresh`](crate::config::ConfigBuilder::refresh).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refresh {
    /// A background task renews after about three quarters of the lifetime. Callers wait only if no valid credential is
    /// held. The default.
    #[default]
    Ahead,
    /// The first caller after about three quarters of the lifetime starts the renewal and gets the held credential. There is
    /// no background task. For handles that may not be used again, such as those of [users](crate::User).
    OnDemand,
    /// The first caller after about three quarters of the lifetime renews and waits. There is no background task. For
    /// runtimes that are frozen between requests, such as serverless functions.
    Lazy,
}

/// Renewal starts at a random time between these shares of the lifetime. For an hour, this leaves twelve minutes for an
/// outage.
const RENEW_BETWEEN: [f64; 2] = [0.68, 0.8];
/// The first renewal starts after this share of the lifetime, so that a program that runs for minutes mints once.
const RENEW_NOT_BEFORE: f64 = 0.05;
/// This long before its expiry, callers prefer a new token.
const NEAR_END: Duration = Duration::from_secs(30);
/// This long before its expiry, a token is no longer used, because a login takes time.
const END_MARGIN: Duration = Duration::from_secs(2);
/// See [`Validity::age_for_workspace`].
const WORKSPACE_TOKEN_MARGIN: Duration = Duration::from_secs(40);
/// See [`Validity::age_for_workspace`].
const LONGEST_STALE: Duration = Duration::from_secs(20 * 60);
/// A later expiry is not used.
const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Shortest and longest time for which callers with nothing valid share a failure.
const CALLER_WAIT: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(500)];
/// Callers wait at most 10 % longer, whatever `Retry-After` says: a maintenance page may overstate it.
pub(crate) const MAX_ASKED_WAIT: Duration = Duration::from_secs(60);

/// How a held value may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    /// Returned to callers.
    Fresh,
    /// Returned to callers, while a new one is fetched in the background.
    Due,
    /// Returned to callers if a new one does not arrive within 0.75 s.
    NearEnd,
    /// Rejected, perhaps by mistake. Returned to one caller per failed attempt to fetch a new one.
    LastResort,
    /// Expired, or there is none.
    Dead,
}

/// Start and lifetime of a credential, on both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Validity {
    pub(crate) since: Now,
    lifetime: Duration,
}

impl Validity {
    /// Measures the lifetime even if this machine's wall clock and the server's clock differ.
    ///
    /// `date` is the server's clock in whole seconds, truncated; `sent` and `received` are the clocks of this machine
    /// before and after the request. If the clocks agree within a second, this machine's clock is used, otherwise the
    /// latest possible time of the server's clock. `None` if the expiry has passed.
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

    /// A lifetime that begins with a request.
    pub(crate) fn starting(sent: Now, lifetime: Duration) -> Self {
        Self {
            since: sent,
            lifetime: lifetime.min(MAX_LIFETIME),
        }
    }

    /// Time since the start, by whichever clock shows more.
    pub(crate) fn elapsed(&self, now: Now) -> Duration {
        let wall = now.wall.duration_since(self.since.wall).unwrap_or_default();
        now.passed.saturating_sub(self.since.passed).max(wall)
    }

    /// How long a login may still use it. The margin scales with short lifetimes.
    pub(crate) fn usable_for(&self, now: Now) -> Duration {
        let margin = (self.lifetime / 10).min(END_MARGIN);
        self.lifetime.saturating_sub(self.elapsed(now) + margin)
    }

    pub(crate) fn is_usable(&self, now: Now) -> bool {
        !self.usable_for(now).is_zero()
    }

    fn is_near_end(&self, now: Now) -> bool {
        self.elapsed(now) + (self.lifetime / 5).min(NEAR_END) >= self.lifetime
    }

    /// Limits the lifetime.
    pub(crate) fn at_most(self, limit: Duration) -> Self {
        Self {
            lifetime: self.lifetime.min(limit),
            ..self
        }
    }

    /// The age of a workspace token, by the rules of the official clients. The platform rejects a token in its last 30 s, so
    /// it is dropped 40 s before its expiry. It is due in the second half of its lifetime, at most 20 minutes before its
    /// expiry.
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

    /// The one of the two that ends first.
    pub(crate) fn ending_first(self, other: Self) -> Self {
        let end = |validity: Self| validity.since.passed.saturating_add(validity.lifetime);
        if end(other) < end(self) { other } else { self }
    }

    pub(crate) fn lifetime(&self) -> Duration {
        self.lifetime
    }
}

/// A validity and the time of its renewal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    pub(crate) validity: Validity,
    renew_after: Duration,
    refresh: Refresh,
}

impl Schedule {
    /// `random` is uniform in `0.0..1.0`. A credential that was minted because `before` was due is renewed after about three
    /// quarters of its lifetime. After a start, an outage that outlasted the credentials or a revocation, a whole fleet may
    /// mint at the same time: then the renewals are spread over the whole interval.
    ///
    /// A credential that is old when it arrives, from a provider with a cache, is not due at once, so that renewal does
    /// not loop.
    pub(crate) fn new(
        validity: Validity,
        refresh: Refresh,
        landed: Now,
        before: Option<Schedule>,
        random: f64,
    ) -> Self {
        let random = random.clamp(0.0, 1.0);
        let in_time = |before: Schedule| {
            before.validity.is_usable(landed) && before.until_renewal(validity.since).is_zero()
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

    /// The schedule for a credential that another handle has minted at its own time.
    pub(crate) fn of_next(self, random: f64) -> Self {
        let share = share_of_next(random.clamp(0.0, 1.0));
        Self {
            renew_after: self.validity.lifetime.mul_f64(share),
            ..self
        }
    }

    /// With [`Refresh::Lazy`], a caller waits for a new credential once it is due.
    pub(crate) fn age(&self, now: Now) -> Age {
        let is_due = self.until_renewal(now).is_zero();
        if !self.validity.is_usable(now) {
            Age::Dead
        } else if self.validity.is_near_end(now) || is_due && self.refresh == Refresh::Lazy {
            Age::NearEnd
        } else if is_due {
            Age::Due
        } else {
            Age::Fresh
        }
    }

    /// Time until renewal is due, or zero.
    pub(crate) fn until_renewal(&self, now: Now) -> Duration {
        self.renew_after.saturating_sub(self.validity.elapsed(now))
    }
}

fn share_of_next(random: f64) -> f64 {
    let [low, high] = RENEW_BETWEEN;
    low + (high - low) * random
}

/// The rest of an interval of which a random part has passed (the equilibrium distribution of a renewal process). A fleet
/// that starts at the same time then renews at an even rate from the beginning.
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

/// The shortest pause between two mints, which scales with short lifetimes.
fn pause_floor(lifetime: Duration) -> Duration {
    (lifetime / 100).clamp(Duration::from_millis(50), Duration::from_secs(1))
}

/// `Retry-After` plus up to a tenth of it (at least a quarter of a second), so that clients that were rejected at the same
/// time do not retry at the same time.
pub(crate) fn spread(retry_after: Duration, random: f64) -> Duration {
    let more = (retry_after / 10).max(Duration::from_millis(250));
    retry_after.saturating_add(more.mul_f64(random.clamp(0.0, 1.0)))
}

/// The pause after failed renewals. While the held credential is valid, the pause is a random part of the remaining time:
/// attempts become more frequent towards its expiry, and a fleet does not retry at the same time when an outage ends. Then
/// the pause doubles from a minimum. It scales with short lifetimes and is at least the server's `Retry-After`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    /// By [`Now::passed`].
    since: Duration,
    pause: Duration,
    for_callers: Duration,
}

impl Backoff {
    /// `held` is the remaining time and the lifetime of the held value.
    pub(crate) fn new(
        since: Duration,
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
        let server_wait = |longest: Duration| {
            retry_after.map_or(Duration::ZERO, |wait| spread(wait.min(longest), random))
        };
        let [shortest, longest] = CALLER_WAIT;
        Self {
            since,
            pause: pause.max(server_wait(Duration::MAX)),
            for_callers: doubled(shortest)
                .min(longest)
                .max(server_wait(MAX_ASKED_WAIT)),
        }
    }

    /// The shortest pause of the background task.
    pub(crate) fn at_least(self, pause: Duration) -> Self {
        Self {
            pause: self.pause.max(pause),
            ..self
        }
    }

    /// The rest of the background task's pause.
    pub(crate) fn left(&self, now: Now) -> Duration {
        self.left_of(self.pause, now)
    }

    /// How long callers without a valid value still share the failure: half a second at most, so that they notice a
    /// recovery at once, or as long as the server's `Retry-After`, about a minute at most.
    pub(crate) fn left_for_callers(&self, now: Now) -> Duration {
        self.left_of(self.for_callers, now)
    }

    fn left_of(&self, pause: Duration, now: Now) -> Duration {
        pause.saturating_sub(now.passed.saturating_sub(self.since))
    }
}

/// Limits a rate to a burst and then one per interval.
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

    /// Takes one if one is left.
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

    /// Returns one that was not used.
    pub(crate) fn give_back(&mut self) {
        self.left = (self.left + 1).min(Self::BURST);
    }
}

/// The interval of mints after a burst.
pub(crate) fn mint_interval(lifetime: Duration) -> Duration {
    (lifetime / 4).clamp(Duration::from_millis(50), Duration::from_secs(1))
}

#[cfg(test)]
mod tests;
