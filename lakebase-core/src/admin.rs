//! For tools and for setting up: roles and privileges, the identity in the workspace, the state of the compute.

mod inspect;
mod roles;

pub use inspect::ComputeStatus;
pub use roles::{Access, IdentityKind, Object, ObjectKind, Plan, Privilege};
