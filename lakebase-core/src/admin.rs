//! For tools and for setting up: branches, roles and privileges, the identity in the workspace, the state of the compute.

mod branches;
mod inspect;
mod roles;

pub use branches::{
    Branch, BranchDatabase, BranchId, BranchRole, BranchState, Branches, Expiry, NewBranch, NewRole,
};
pub use inspect::ComputeStatus;
pub use roles::{Access, IdentityKind, Object, ObjectKind, Plan, Privilege};
