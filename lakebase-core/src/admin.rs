//! For tools and for setting up: roles and privileges, who we are in the workspace, what state the compute is in.

mod inspect;
mod roles;

pub use inspect::ComputeStatus;
pub use roles::{Access, FutureObjects, IdentityKind, Object, Plan, Privilege};
