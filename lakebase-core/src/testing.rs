//! A branch for each test: a copy of a database that no other test uses.
//!
//! ```no_run
//! use lakebase_core::testing::TestBranch;
//!
//! # async fn test() -> Result<(), Box<dyn std::error::Error>> {
//! let branch = TestBranch::from("production").await?;
//! let (client, connection) = branch.lakebase().connect().await?;
//! # drop((client, connection));
//! // ..
//! branch.finish().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Deletion
//!
//! [`TestBranch::finish`] deletes the branch and returns errors. Dropping the value, as a failing test does, deletes it in the
//! background. If the process ends before that, the branch expires after an hour; on Linux, the next test process of the same user on
//! the same machine deletes it earlier.
//!
//! For this, each process holds a lock on an empty file in the temporary folder (`lakebase-test-..`), whose name identifies its branches.
//! Other processes delete only branches whose file exists and is not locked, so containers, CI machines and clones of a machine do not
//! delete each other's branches. Without a writable temporary folder, no other process deletes them.
//!
//! # Limits
//!
//! A process creates at most four branches at a time, and honours the workspace's rate limit. Test runners that start one process per
//! test (`cargo nextest`) need their own limit (`test-groups`). A project has a limited number of branches, so let tests share a branch
//! where they can.

mod name;
mod reaper;
mod test_branch;

pub use test_branch::TestBranch;
