//! A branch for each test: a copy of a database that the test alone uses.
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
//! # What becomes of the branches
//!
//! [`TestBranch::finish`] deletes the branch and reports errors. Dropping it, which a failing test does, deletes it in the
//! background. A branch that neither of them could delete, because the process ended, expires after an hour; on Linux, the
//! next test process of the same user on the same machine deletes it earlier. Each process holds a lock on an empty file in the
//! temporary folder (`lakebase-test-..`), with the mark of its branches in the name. Only branches whose file is there and
//! not locked are deleted, so containers, CI machines and clones of a machine leave each other's branches alone. Without a
//! temporary folder that can be written, no other process deletes them.
//!
//! # Limits
//!
//! A process creates at most four branches at a time, and waits as long as the workspace asks for when it limits the rate of
//! requests. Test runners that start one process per test (`cargo nextest`) need their own limit (`test-groups`), and a
//! project can have a limited number of branches: tests that can share a branch should.

mod name;
mod reaper;
mod test_branch;

pub use test_branch::TestBranch;
