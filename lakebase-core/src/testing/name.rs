//! Names of test branches, which identify the process that created them, and a search for processes that have ended.
//!
//! Each process ("run") holds a lock on a file until it ends, which other processes of the machine can check. A mark of the machine in
//! the name is not enough, because clones of a virtual machine have the same mark.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The first part of a name.
const PREFIX: &str = "test";

/// A test process.
struct Run {
    /// The machine's mark; `None` if no file can be locked, so that no other process can check whether this one has ended.
    mark: Option<String>,
    process: u32,
    /// Distinguishes processes with the same number.
    random: u32,
    /// The locked file.
    _file: Option<File>,
}

static RUN: LazyLock<Run> = LazyLock::new(|| Run::start(&std::env::temp_dir()));
static COUNT: AtomicU32 = AtomicU32::new(0);

/// Returns the id for the next branch of this process: `test-{machine}-{process}-{random}-{number}`.
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

/// The runs of this machine and user that have ended.
#[derive(Debug, Default)]
pub(super) struct EndedRuns {
    /// Names and paths of their files.
    files: HashMap<String, PathBuf>,
}

impl EndedRuns {
    /// Searches the temporary folder. Blocks.
    pub(super) fn find() -> Self {
        Self::find_in(&std::env::temp_dir())
    }

    fn find_in(folder: &Path) -> Self {
        let (Some(machine), Ok(entries)) = (machine(), fs::read_dir(folder)) else {
            return Self::default();
        };
        let prefix = file_prefix(&machine);
        let ended = entries.filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name().into_string().ok()?;
            let random = name.strip_prefix(&prefix)?;
            let is_one = random.len() == 8 && random.bytes().all(|byte| byte.is_ascii_hexdigit());
            (is_one && has_ended(&entry.path())).then(|| (name, entry.path()))
        });
        Self {
            files: ended.collect(),
        }
    }

    /// Whether one of these runs created the branch with this id.
    pub(super) fn created(&self, id: &str) -> bool {
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

    /// Removes the files, after the deletion of the branches has started.
    pub(super) fn forget(self) {
        for file in self.files.into_values() {
            let _ = fs::remove_file(file);
        }
    }
}

fn file_prefix(machine: &str) -> String {
    format!("lakebase-{PREFIX}-{machine}-")
}

fn file_name(machine: &str, random: u32) -> String {
    format!("{}{random:08x}", file_prefix(machine))
}

/// Creates a locked file. It gets its name after the lock, so no process sees it unlocked.
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

/// Whether the file belongs to this user and no process holds its lock. Child processes of the run can hold it, too.
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

/// A mark of this boot of the machine and of the PID namespace. It changes with either.
fn machine() -> Option<String> {
    // The kernel answers both from memory, so they do not block.
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(mark(&format!("{} {}", boot.trim(), namespace.display())))
}

/// FNV-1a, which is the same in every build; std's hasher is not.
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
    fn names_are_valid_ids_and_unique() {
        let (first, second) = (next(), next());
        assert_ne!(first, second);
        BranchId::new(first.as_str()).expect("an id");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn only_branches_of_runs_with_an_unlocked_file_count_as_abandoned() {
        let folder = std::env::temp_dir().join(format!("lakebase-{:016x}", fastrand::u64(..)));
        fs::create_dir(&folder).expect("a folder");
        let (ends, lives) = (Run::start(&folder), Run::start(&folder));
        let names = [ends.name(7), lives.name(7)];
        let created = |ended: &EndedRuns| names.each_ref().map(|name| ended.created(name));
        assert_eq!(created(&EndedRuns::find_in(&folder)), [false, false]);
        drop(ends);
        let ended = EndedRuns::find_in(&folder);
        assert_eq!(created(&ended), [true, false]);
        for other in ["production", "test-a", "test-0123456789abcdef-4711"] {
            assert!(!ended.created(other), "{other}");
        }
        // A clone of the machine has no such file, either.
        ended.forget();
        assert_eq!(created(&EndedRuns::find_in(&folder)), [false, false]);
        drop(lives);
        fs::remove_dir_all(folder).expect("removed");
        assert_eq!(
            created(&EndedRuns::find_in(Path::new("/nowhere"))),
            [false, false]
        );
        assert!(Run::start(Path::new("/nowhere")).mark.is_none());
    }
}
