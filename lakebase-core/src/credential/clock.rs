//! The clocks.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// The two clocks that the crate reads, for [`ConfigBuilder::clock`](crate::config::ConfigBuilder::clock) in tests.
///
/// Expiry uses both. The wall clock goes on while the machine is suspended; the monotonic clock goes on when the wall clock
/// is set back.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Returns the time of the wall clock.
    fn wall(&self) -> SystemTime;
    /// Returns the time of the monotonic clock, which may stop while the machine is suspended.
    fn monotonic(&self) -> Instant;
}

/// The clocks of the machine. The monotonic one is tokio's, which tests can pause. On Linux, the wall clock is the coarse
/// one, which is up to 10 ms late and takes half the time to read.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // the one place that reads the real clock
    fn wall(&self) -> SystemTime {
        #[cfg(target_os = "linux")]
        if let Ok(time) = nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME_COARSE) {
            return SystemTime::UNIX_EPOCH + Duration::from(time);
        }
        SystemTime::now()
    }

    fn monotonic(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

/// One reading of both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) wall: SystemTime,
    pub(crate) monotonic: Instant,
    /// Time since the [`Watch`] was created, by whichever clock has advanced more at each step.
    pub(crate) passed: Duration,
}

/// Smaller differences between the clocks are drift, or the time between their readings.
const JUMP_MILLIS: i64 = 1000;

/// Measures time with both clocks of a configuration, from [`adapter::watch`](crate::adapter::watch).
///
/// The clocks diverge when the machine is suspended, which stops the monotonic one, and when the wall clock is set. Time that
/// the wall clock has gained stays counted, even if it is set back later.
#[derive(Debug)]
pub struct Watch {
    clock: Arc<dyn Clock>,
    wall: SystemTime,
    monotonic: Instant,
    /// By how much the wall clock has advanced more than the monotonic one; negative if it has advanced less.
    apart_millis: AtomicI64,
    /// The sum of the wall clock's gains.
    gained_millis: AtomicU64,
    /// Held while a jump is counted.
    jumping: Mutex<()>,
}

impl Watch {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            wall: clock.wall(),
            monotonic: clock.monotonic(),
            clock,
            apart_millis: AtomicI64::new(0),
            gained_millis: AtomicU64::new(0),
            jumping: Mutex::new(()),
        }
    }

    /// Returns the time since the configuration was built. It goes on while the machine is suspended.
    pub fn passed(&self) -> Duration {
        self.now().passed
    }

    /// The wall clock alone, which may be set back.
    pub(crate) fn wall(&self) -> SystemTime {
        self.clock.wall()
    }

    /// Reads both clocks. Takes no lock, unless they have just diverged.
    pub(crate) fn now(&self) -> Now {
        let (wall, monotonic) = (self.clock.wall(), self.clock.monotonic());
        let apart = self.apart(wall, monotonic);
        if is_jump(apart, self.apart_millis.load(Ordering::Acquire)) {
            self.jumped();
        }
        let awake = monotonic.saturating_duration_since(self.monotonic);
        let gained = Duration::from_millis(self.gained_millis.load(Ordering::Acquire));
        Now {
            wall,
            monotonic,
            passed: awake.saturating_add(gained),
        }
    }

    fn apart(&self, wall: SystemTime, monotonic: Instant) -> i64 {
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let shown = match wall.duration_since(self.wall) {
            Ok(later) => millis(later),
            Err(earlier) => -millis(earlier.duration()),
        };
        shown.saturating_sub(millis(monotonic.saturating_duration_since(self.monotonic)))
    }

    fn jumped(&self) {
        let _one_at_a_time = self.jumping.lock().unwrap_or_else(PoisonError::into_inner);
        // Read again: another caller may have counted the jump.
        let apart = self.apart(self.clock.wall(), self.clock.monotonic());
        let before = self.apart_millis.load(Ordering::Acquire);
        if !is_jump(apart, before) {
            return;
        }
        let gained = u64::try_from(apart.saturating_sub(before)).unwrap_or(0);
        self.gained_millis.fetch_add(gained, Ordering::AcqRel);
        self.apart_millis.store(apart, Ordering::Release);
    }
}

fn is_jump(apart: i64, before: i64) -> bool {
    apart.saturating_sub(before).saturating_abs() >= JUMP_MILLIS
}
