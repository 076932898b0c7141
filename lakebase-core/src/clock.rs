//! Where time comes from.

use std::fmt;
use std::time::{Instant, SystemTime};

/// The two clocks the crate reads, so that tests can move them.
///
/// Expiry is judged by both: the wall clock notices that a machine was suspended, the monotonic
/// clock notices that somebody set the wall clock back.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The wall clock.
    fn wall(&self) -> SystemTime;
    /// The monotonic clock. It may stand still while the machine is suspended.
    fn monotonic(&self) -> Instant;
}

/// The machine's clocks. The monotonic one follows tokio's, so paused tests pause it too.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // the one place that reads the real clock
    fn wall(&self) -> SystemTime {
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
}

impl Now {
    pub(crate) fn read(clock: &dyn Clock) -> Self {
        Self {
            wall: clock.wall(),
            monotonic: clock.monotonic(),
        }
    }
}
