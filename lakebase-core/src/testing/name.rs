//! Names that say which run of a test program a branch belongs to, and which runs have ended.
//!
//! A run is a process. It holds a lock on a file of its own for as long as it lives, so another process of the same machine
//! can see that it has ended. A mark of the machine alone is not enough: clones of a virtual machine have the same one.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// What is before the machine's mark.
const PREFIX: &str = "test";

/// This process.
struct Run {
    /// Marks the machine and this run; `None` where no file can be held: nobody can tell whether this run has ended.
    mark: Option<String>,
    process: u32,
    /// Numbers of processes are used again.
    random: u32,
    /// Locked.
    _file: Option<File>,
}

static RUN: LazyLock<Run> = LazyLock::new(|| Run::start(&std::env::temp_dir()));
static COUNT: AtomicU32 = AtomicU32::new(0);

/// The id of this process's next branch: `test-{machine}-{process}-{random}-{number}`.
pub(super) fn next() -> String {
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    RUN.name(number)
}

impl Run {
    fn start(folder: &Path) -> Self {
        let random = fastrand::u32(..);
        let held = machine().and_then(|mark| {
            let file = hold(&folder.join(file_name(&mark, random))).ok()?;
            Some((mark, file))
        });
        let (mark, file) = held.unzip();
        Self {
            mark,
            process: std::process::id(),
            random,
            _file: file,
        }
    }

    fn name(&self, number: u32) -> String {
        let machine = self.mark.as_deref().unwrap_or("x");
        let (process, random) = (self.process, self.random);
        format!("{PREFIX}-{machine}-{process}-{random:08x}-{number}")
    }
}

/// Runs of this machine and user that have ended.
#[derive(Debug, Default)]
pub(super) struct EndedRuns {
    /// By the names of the files.
    files: HashMap<String, PathBuf>,
}

impl EndedRuns {
    /// Blocks.
    pub(super) fn find() -> Self {
        Self::find_in(&std::env::temp_dir())
    }

    fn find_in(folder: &Path) -> Self {
        let (Some(machine), Ok(entries)) = (machine(), fs::read_dir(folder)) else {
            return Self::default();
        };
        let prefix = file_name(&machine, 0);
        let prefix = &prefix[..prefix.len() - 8];
        let ended = entries.filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name().into_string().ok()?;
            let random = name.strip_prefix(prefix)?;
            let is_one = random.len() == 8 && random.bytes().all(|byte| byte.is_ascii_hexdigit());
            (is_one && has_ended(&entry.path())).then(|| (name, entry.path()))
        });
        Self {
            files: ended.collect(),
        }
    }

    /// Whether one of them made the branch of this id.
    pub(super) fn made(&self, id: &str) -> bool {
        let parts: Vec<&str> = id.split('-').collect();
        match parts.as_slice() {
            [PREFIX, machine, process, random, number]
                if process.parse::<u32>().is_ok() && number.parse::<u32>().is_ok() =>
            {
                let random = u32::from_str_radix(random, 16);
                random.is_ok_and(|random| self.files.contains_key(&file_name(machine, random)))
            }
            _ => false,
        }
    }

    /// Removes their files, once their branches are being deleted.
    pub(super) fn forget(self) {
        for file in self.files.into_values() {
            let _ = fs::remove_file(file);
        }
    }
}

fn file_name(machine: &str, random: u32) -> String {
    format!("lakebase-{PREFIX}-{machine}-{random:08x}")
}

/// Creates a file that is locked as soon as it has its name.
fn hold(path: &Path) -> io::Result<File> {
    let unnamed = path.with_extension("new");
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&unnamed)?;
    let held = file.try_lock().map_err(io::Error::from);
    if let Err(error) = held.and_then(|()| fs::rename(&unnamed, path)) {
        let _ = fs::remove_file(&unnamed);
        return Err(error);
    }
    Ok(file)
}

/// Whether the file is this user's and nobody holds it. Processes that started the run's children count as well.
#[cfg(unix)]
fn has_ended(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;

    let is_own = fs::symlink_metadata(path)
        .is_ok_and(|found| found.is_file() && found.uid() == nix::unistd::geteuid().as_raw());
    is_own && File::open(path).is_ok_and(|file| file.try_lock().is_ok())
}

#[cfg(not(unix))]
fn has_ended(_: &Path) -> bool {
    false
}

/// A mark of the running system and of its namespace of processes: both are gone when either ends.
fn machine() -> Option<String> {
    // Both are the kernel's memory, so this does not block.
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(mark(&format!("{} {}", boot.trim(), namespace.display())))
}

/// FNV-1a: the same in every build, and no more than a mark.
fn mark(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::BranchId;

    #[test]
    fn names_are_ids_and_none_comes_twice() {
        let (first, second) = (next(), next());
        assert_ne!(first, second);
        BranchId::new(first.as_str()).expect("an id");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn only_branches_of_runs_whose_file_nobody_holds_are_left_behind() {
        let folder = std::env::temp_dir().join(format!("lakebase-{:016x}", fastrand::u64(..)));
        fs::create_dir(&folder).expect("a folder");
        let (ends, lives) = (Run::start(&folder), Run::start(&folder));
        let names = [ends.name(7), lives.name(7)];
        let made = |ended: &EndedRuns| names.each_ref().map(|name| ended.made(name));
        assert_eq!(made(&EndedRuns::find_in(&folder)), [false, false]);
        drop(ends);
        let ended = EndedRuns::find_in(&folder);
        assert_eq!(made(&ended), [true, false]);
        for other in ["production", "test-a", "test-0123456789abcdef-4711"] {
            assert!(!ended.made(other), "{other}");
        }
        // As on a clone of the machine, which has no such file.
        ended.forget();
        assert_eq!(made(&EndedRuns::find_in(&folder)), [false, false]);
        drop(lives);
        fs::remove_dir_all(folder).expect("removed");
        assert_eq!(
            made(&EndedRuns::find_in(Path::new("/nowhere"))),
            [false, false]
        );
        assert!(Run::start(Path::new("/nowhere")).mark.is_none());
    }
}
