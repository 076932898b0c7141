//! Table locks that block other sessions, and how long they were held, measured by polls of `pg_locks`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

/// The mode of a table lock that blocks writes, or reads and writes, of other sessions: see [`HeldLock`](super::HeldLock).
/// `SHARE UPDATE EXCLUSIVE` (`CREATE INDEX CONCURRENTLY`, `VACUUM`, `VALIDATE CONSTRAINT`) blocks neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum LockMode {
    /// `CREATE INDEX`: blocks writes.
    Share,
    /// Foreign keys on both tables, `CREATE TRIGGER`: blocks writes.
    ShareRowExclusive,
    /// `REFRESH MATERIALIZED VIEW CONCURRENTLY`: blocks writes and `SELECT FOR UPDATE`.
    Exclusive,
    /// Most of `ALTER TABLE`, `DROP TABLE`, `TRUNCATE`: blocks reads and writes.
    AccessExclusive,
}

impl LockMode {
    pub(super) fn from_pg_locks(mode: &str) -> Option<Self> {
        Some(match mode {
            "ShareLock" => Self::Share,
            "ShareRowExclusiveLock" => Self::ShareRowExclusive,
            "ExclusiveLock" => Self::Exclusive,
            "AccessExclusiveLock" => Self::AccessExclusive,
            _ => return None,
        })
    }

    /// Returns whether the lock also blocks `SELECT`. All modes block writes.
    pub fn blocks_reads(self) -> bool {
        self == Self::AccessExclusive
    }
}

impl fmt::Display for LockMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Share => "SHARE",
            Self::ShareRowExclusive => "SHARE ROW EXCLUSIVE",
            Self::Exclusive => "EXCLUSIVE",
            Self::AccessExclusive => "ACCESS EXCLUSIVE",
        })
    }
}

/// The OID of a relation, and the mode.
pub(super) type Lock = (u32, LockMode);

/// How long each lock was held. Times are upper bounds: from the last poll before the lock appeared until the first poll after it
/// was gone.
#[derive(Debug)]
pub(super) struct Locks {
    last_sent: Instant,
    held_since: HashMap<Lock, Instant>,
    longest: BTreeMap<Lock, Duration>,
}

impl Locks {
    pub(super) fn new(began: Instant) -> Self {
        Self {
            last_sent: began,
            held_since: HashMap::new(),
            longest: BTreeMap::new(),
        }
    }

    /// Records the locks that a poll has found, with the times of its request and its reply.
    pub(super) fn poll(&mut self, sent: Instant, received: Instant, held: &HashSet<Lock>) {
        if sent < self.last_sent {
            return; // A later poll was faster.
        }
        for lock in held {
            self.held_since.entry(*lock).or_insert(self.last_sent);
        }
        let longest = &mut self.longest;
        self.held_since.retain(|lock, since| {
            let is_held = held.contains(lock);
            if !is_held {
                keep_longest(longest, *lock, received - *since);
            }
            is_held
        });
        self.last_sent = sent;
    }

    /// Releases all locks at `ended`, and returns how long each was held at most. It omits a lock if a stronger one on the
    /// same relation was held for as long.
    pub(super) fn end(&mut self, ended: Instant) -> Vec<(Lock, Duration)> {
        for (lock, since) in self.held_since.drain() {
            keep_longest(&mut self.longest, lock, ended - since);
        }
        let all = std::mem::take(&mut self.longest);
        let is_covered = |(relation, mode): Lock, held: Duration| {
            let mut others = all.range((relation, mode)..=(relation, LockMode::AccessExclusive));
            others.any(|((_, other), longer)| *other > mode && *longer >= held)
        };
        let kept = all
            .iter()
            .filter(|(lock, held)| !is_covered(**lock, **held));
        kept.map(|(lock, held)| (*lock, *held)).collect()
    }
}

fn keep_longest(longest: &mut BTreeMap<Lock, Duration>, lock: Lock, held: Duration) {
    let longest = longest.entry(lock).or_default();
    *longest = held.max(*longest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_counts_from_the_poll_before_it_until_the_poll_after_it() {
        use LockMode::{AccessExclusive, Share};
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut locks = Locks::new(start);
        let (share, access) = ((1, Share), (1, AccessExclusive));
        locks.poll(at(10), at(11), &HashSet::new());
        locks.poll(at(20), at(21), &[share, (2, Share)].into());
        locks.poll(at(15), at(22), &HashSet::new()); // older than the last one
        locks.poll(at(30), at(31), &[share].into());
        locks.poll(at(40), at(41), &[share, access].into());
        let ms = Duration::from_millis;
        let expected = [(share, ms(90)), (access, ms(70)), ((2, Share), ms(21))];
        assert_eq!(locks.end(at(100)), expected);
        locks.poll(at(110), at(111), &[share, access].into());
        assert_eq!(
            locks.end(at(120)),
            [(access, ms(80))],
            "the weaker lock is omitted"
        );
    }
}
