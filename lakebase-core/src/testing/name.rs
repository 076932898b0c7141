//! Names that say which process of which machine a test branch belongs to.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// What is before the machine's mark.
const PREFIX: &str = "test";

/// This process.
pub(super) struct Run {
    /// `None` where processes of other machines cannot be told apart: nothing is swept there.
    machine: Option<String>,
    process: u32,
    /// Numbers of processes are used again.
    random: u32,
}

static RUN: LazyLock<Run> = LazyLock::new(|| Run {
    machine: machine(),
    process: std::process::id(),
    random: fastrand::u32(..),
});
static COUNT: AtomicU32 = AtomicU32::new(0);

/// The id of this process's next branch: `test-{machine}-{process}-{random}-{number}`.
pub(super) fn next() -> String {
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    RUN.name(number)
}

/// Whether a branch was left behind by a process of this machine that has ended.
pub(super) fn is_left_behind(id: &str) -> bool {
    RUN.owner_of(id).is_some_and(has_ended)
}

impl Run {
    fn name(&self, number: u32) -> String {
        let machine = self.machine.as_deref().unwrap_or("x");
        let (process, random) = (self.process, self.random);
        format!("{PREFIX}-{machine}-{process}-{random:08x}-{number}")
    }

    /// The process of this machine that a branch belongs to.
    fn owner_of(&self, id: &str) -> Option<u32> {
        let parts: Vec<&str> = id.split('-').collect();
        match parts.as_slice() {
            [PREFIX, machine, process, random, number]
                if Some(*machine) == self.machine.as_deref()
                    && u32::from_str_radix(random, 16).is_ok()
                    && number.parse::<u32>().is_ok() =>
            {
                process.parse().ok()
            }
            _ => None,
        }
    }
}

/// A mark of the running system and of its namespace of processes: both are gone when either ends.
fn machine() -> Option<String> {
    // Both are the kernel's memory, so this does not block.
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = std::fs::read_link("/proc/self/ns/pid").ok()?;
    Some(mark(&format!("{} {}", boot.trim(), namespace.display())))
}

/// FNV-1a: the same in every build, and no more than a mark.
fn mark(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

#[cfg(unix)]
fn has_ended(process: u32) -> bool {
    use nix::errno::Errno;
    use nix::sys::signal::kill;
    use nix::unistd::Pid;

    let Some(process) = i32::try_from(process).ok().filter(|process| *process > 0) else {
        return false;
    };
    kill(Pid::from_raw(process), None) == Err(Errno::ESRCH)
}

#[cfg(not(unix))]
fn has_ended(_: u32) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::BranchId;

    fn run(machine: Option<&str>) -> Run {
        Run {
            machine: machine.map(str::to_owned),
            process: 4711,
            random: 255,
        }
    }

    #[test]
    fn a_name_says_whose_branch_it_is_on_this_machine_only() {
        let ours = run(Some("0123456789abcdef"));
        let name = ours.name(7);
        assert_eq!(name, "test-0123456789abcdef-4711-000000ff-7");
        assert_eq!(ours.owner_of(&name), Some(4711));
        for stranger in [run(Some("fedcba9876543210")), run(None)] {
            assert_eq!(stranger.owner_of(&name), None);
            assert_eq!(ours.owner_of(&stranger.name(7)), None);
        }
        for other in [
            "production",
            "test-a",
            "test-0123456789abcdef-4711",
            "ci-0123456789abcdef-4711-000000ff-7",
        ] {
            assert_eq!(ours.owner_of(other), None, "{other}");
        }
    }

    #[test]
    fn names_are_ids_and_none_comes_twice() {
        let (first, second) = (next(), next());
        assert_ne!(first, second);
        BranchId::new(first.as_str()).expect("an id");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn branches_of_running_processes_are_left_alone() {
        assert!(!is_left_behind(&next()));
        let mut child = std::process::Command::new("true").spawn().expect("it runs");
        let ended = Run {
            process: child.id(),
            machine: machine(),
            random: 0,
        };
        child.wait().expect("it ends");
        assert!(is_left_behind(&ended.name(0)));
    }
}
