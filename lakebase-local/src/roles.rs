//! Which Postgres roles log in how.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How a role logs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RoleKind {
    /// With a token of the identity of the same name.
    OAuth,
    /// With a token of any of these identities.
    Group(HashSet<String>),
    /// With a native password, which Postgres itself checks.
    Native,
    /// By `databricks_create_role`; it may be gone or another by now, so Postgres is asked.
    MadeInSql,
    /// Not made for logins through Lakebase, or not there at all.
    Unknown,
}

#[derive(Debug, Default)]
pub(crate) struct Roles {
    kinds: Mutex<HashMap<String, RoleKind>>,
    /// Of native roles.
    passwords: Mutex<HashMap<String, String>>,
}

impl Roles {
    pub(crate) fn set(&self, role: &str, kind: RoleKind) {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.insert(role.to_owned(), kind);
    }

    pub(crate) fn copy(&self) -> Self {
        let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        Self {
            kinds: Mutex::new(kinds.clone()),
            passwords: Mutex::new(self.passwords().clone()),
        }
    }

    fn passwords(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.passwords
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_password(&self, role: &str, password: &str) {
        self.passwords()
            .insert(role.to_owned(), password.to_owned());
    }

    pub(crate) fn password(&self, role: &str) -> Option<String> {
        self.passwords().get(role).cloned()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.keys().cloned().collect()
    }

    pub(crate) fn kind(&self, role: &str) -> RoleKind {
        let kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.get(role).cloned().unwrap_or(RoleKind::Unknown)
    }
}
