//! For tools and for setting up: branches, roles and privileges, the identity in the workspace, the state of the compute.

mod branches;
mod inspect;
mod roles;

pub use branches::{
    Branch, BranchDatabase, BranchId, BranchRole, BranchState, Branches, Expiry, NewBranch,
    NewRole, NotCreated,
};

/// What a database contains, and the difference between two of them.
pub mod schema {
    pub use crate::postgres::migration::schema::{Change, Difference, Object, Snapshot};
}

pub use inspect::ComputeStatus;
pub use roles::{
    Access, BypassReason, IdentityKind, Object, ObjectKind, Plan, Privilege, RowSecurityBypass,
    row_security_bypasses,
};
