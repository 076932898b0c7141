//! When a credential is usable, when it is renewed, when a failed renewal is tried again.
//!
//! Pure arithmetic: time and randomness come in as arguments.

use std::time::{Duration, Instant, SystemTime};

use crate::clock::Now;

/// How a [`Lakebase`](crate::Lakebase) keeps its credential fresh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refresh {
    /// A background task renews at about three quarters of the lifetime; callers wait only when
    /// nothing valid is held. The default.
    #[default]
    Ahead,
    /// No background task: the first caller after three quarters of the lifetime renews and waits.
    /// For runtimes that are frozen between requests (serverless functions).
    Lazy,
}

/// Share of the lifetime after which renewal starts: late enough not to mint twice as often as
/// needed, early enough to leave a quarter (15 minutes of an hour) to ride out an outage.
const RENEW_AT: f64 = 0.75;
/// Half-width of the jitter around it, so that a fleet started together does not mint in step.
const RENEW_JITTER: f64 = 0.05;
/// A token is not handed out this close to its end, because a login takes time to arrive.
const MAX_MARGIN: Duration = Duration::from_secs(30);
/// See [`Validity::is_usable_for_workspace`].
const WORKSPACE_TOKEN_MARGIN: Duration = Duration::from_secs(40);
/// See [`Validity::is_stale_for_workspace`].
const LONGEST_STALE: Duration = Duration::from_secs(20 * 60);
/// Nothing is trusted for longer, whatever expiry was sent.
const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Longest wait after which callers with nothing valid may cause another attempt.
const MAX_CALLER_WAIT: Duration = Duration::from_millis(500);

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
    fn age(&self, now: Now) -> Duration {
        let wall = now.wall.duration_since(self.since.wall).unwrap_or_default();
        now.passed.saturating_sub(self.since.passed).max(wall)
    }

    /// May be given to a driver now.
    pub(crate) fn is_usable(&self, now: Now) -> bool {
        self.age(now) + (self.lifetime / 10).min(MAX_MARGIN) < self.lifetime
    }

    /// Never longer than this, whatever the clocks say.
    pub(crate) fn at_most(self, limit: Duration) -> Self {
        Self {
            lifetime: self.lifetime.min(limit),
            ..self
        }
    }

    /// A workspace token this old may still sign calls: the platform refuses it in its last 30 s, so
    /// the official clients give it up 40 s early.
    pub(crate) fn is_usable_for_workspace(&self, now: Now) -> bool {
        self.age(now) + WORKSPACE_TOKEN_MARGIN < self.lifetime
    }

    /// A workspace token in the second half of its life, or in its last 20 minutes, is renewed in the
    /// background.
    pub(crate) fn is_stale_for_workspace(&self, now: Now) -> bool {
        self.age(now) > self.lifetime - (self.lifetime / 2).min(LONGEST_STALE)
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
}

impl Schedule {
    /// `random` is uniform in `0.0..1.0`. A credential that is old already when it lands (a provider
    /// with a cache of its own) is not due at once, or renewal would spin.
    pub(crate) fn new(validity: Validity, landed: Now, random: f64) -> Self {
        let share = RENEW_AT + RENEW_JITTER * (2.0 * random.clamp(0.0, 1.0) - 1.0);
        let earliest = validity.age(landed) + pause_floor(validity.lifetime);
        Self {
            validity,
            renew_after: validity.lifetime.mul_f64(share).max(earliest),
        }
    }

    pub(crate) fn is_usable(&self, now: Now) -> bool {
        self.validity.is_usable(now)
    }

    /// How long until renewal is due; zero when it is.
    pub(crate) fn until_renewal(&self, now: Now) -> Duration {
        self.renew_after.saturating_sub(self.validity.age(now))
    }

    pub(crate) fn lifetime(&self) -> Duration {
        self.validity.lifetime()
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

/// The pause after failed renewals: doubles from a floor, scales with short lifetimes, honours the
/// server's `Retry-After`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    since: Instant,
    pause: Duration,
    asked: Option<Duration>,
}

impl Backoff {
    pub(crate) fn new(
        since: Instant,
        failures: u32,
        lifetime: Option<Duration>,
        retry_after: Option<Duration>,
        random: f64,
    ) -> Self {
        let lifetime = lifetime.unwrap_or(Duration::from_secs(3600));
        let ceiling = (lifetime / 20).clamp(Duration::from_millis(250), Duration::from_secs(30));
        let doubled = pause_floor(lifetime).saturating_mul(1 << failures.saturating_sub(1).min(16));
        let pause = doubled
            .min(ceiling)
            .mul_f64(0.75 + 0.5 * random.clamp(0.0, 1.0));
        Self {
            since,
            pause,
            asked: retry_after.map(|asked| spread(asked, random)),
        }
    }

    /// How long the background task waits still.
    pub(crate) fn left(&self, now: Now) -> Duration {
        let pause = self.pause.max(self.asked.unwrap_or_default());
        pause.saturating_sub(now.monotonic.saturating_duration_since(self.since))
    }

    /// How long callers that have nothing valid are answered with the last failure: short, so that
    /// recovery is noticed at once, unless the server asked for more.
    pub(crate) fn left_for_callers(&self, now: Now) -> Duration {
        let pause = self
            .pause
            .min(MAX_CALLER_WAIT)
            .max(self.asked.unwrap_or_default());
        pause.saturating_sub(now.monotonic.saturating_duration_since(self.since))
    }
}

#[cfg(test)]
mod tests;
