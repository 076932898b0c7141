//! Locks on tables that keep other sessions waiting, and for how long they were held, as far as polls of `pg_locks` show.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

/// A lock on a table with which reads or writes of other sessions conflict. `SHARE UPDATE EXCLUSIVE`
/// (`CREATE INDEX CONCURRENTLY`, `VACUUM`, `VALIDATE CONSTRAINT`) is none of them.
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

    /// Returns whether `SELECT` waits, too; all of them block writes.
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

/// A relation's number, and how it is locked.
pub(super) type Lock = (u32, LockMode);

/// Times are upper bounds: a lock counts from the last poll that did not see it, to the first that sees it no more.
#[derive(Debug)]
pub(super) struct Locks {
    last_asked: Instant,
    held_since: HashMap<Lock, Instant>,
    longest: BTreeMap<Lock, Duration>,
}

impl Locks {
    pub(super) fn new(began: Instant) -> Self {
        Self {
            last_asked: began,
            held_since: HashMap::new(),
            longest: BTreeMap::new(),
        }
    }

    /// A poll that was sent and answered at these times found these.
    pub(super) fn poll(&mut self, asked: Instant, answered: Instant, held: &HashSet<Lock>) {
        if asked < self.last_asked {
            return; // Overtaken by another one.
        }
        for lock in held {
            self.held_since.entry(*lock).or_insert(self.last_asked);
        }
        let longest = &mut self.longest;
        self.held_since.retain(|lock, since| {
            let is_held = held.contains(lock);
            if !is_held {
                keep_longest(longest, *lock, answered - *since);
            }
            is_held
        });
        self.last_asked = asked;
    }

    /// The longest time for which each was held, if the rest were released at `ended`. A weaker lock than another one on
    /// the same relation counts only if it was held for longer.
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
    fn a_lock_counts_from_before_it_was_seen_until_it_is_gone() {
        use LockMode::{AccessExclusive, Share};
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut locks = Locks::new(start);
        let (share, access) = ((1, Share), (1, AccessExclusive));
        locks.poll(at(10), at(11), &HashSet::new());
        locks.poll(at(20), at(21), &[share, (2, Share)].into());
        locks.poll(at(15), at(22), &HashSet::new()); // overtaken
        locks.poll(at(30), at(31), &[share].into());
        locks.poll(at(40), at(41), &[share, access].into());
        let ms = Duration::from_millis;
        let expected = [(share, ms(90)), (access, ms(70)), ((2, Share), ms(21))];
        assert_eq!(locks.end(at(100)), expected);
        locks.poll(at(110), at(111), &[share, access].into());
        assert_eq!(
            locks.end(at(120)),
            [(access, ms(80))],
            "the weaker one adds nothing"
        );
    }
}
