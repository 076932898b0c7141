//! Administration for tools, tests and setup: branches, roles and privileges, the identity in the workspace, and the state of the
//! compute.

mod branches;
mod inspect;
mod roles;

pub use branches::{
    Branch, BranchDatabase, BranchId, BranchRole, BranchState, Branches, Expiry, NewBranch,
    NewRole, NotCreated,
};

/// Snapshots of a database's schema, and their difference: see [`Snapshot`](schema::Snapshot).
pub mod schema {
    pub use crate::postgres::migration::schema::{Change, Difference, Object, Snapshot};
}

pub use inspect::ComputeStatus;
pub use roles::{
    Access, BypassReason, IdentityKind, Object, ObjectKind, Plan, Privilege, RowSecurityBypass,
    row_security_bypasses,
};
