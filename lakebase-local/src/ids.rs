//! Ids of roles and databases in resource names, which differ from the names in Postgres.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Lengths of the shortest and the longest id.
const LENGTHS: (usize, usize) = (4, 63);

/// A kind of object with an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Role,
    Database,
}

/// Ids chosen at creation, by name in Postgres. Other ids are derived from the name.
#[derive(Debug, Default)]
pub(crate) struct Ids(Mutex<HashMap<(Kind, String), String>>);

impl Ids {
    fn lock(&self) -> MutexGuard<'_, HashMap<(Kind, String), String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn copy(&self) -> Self {
        Self(Mutex::new(self.lock().clone()))
    }

    pub(crate) fn set(&self, kind: Kind, name: &str, id: &str) {
        self.lock().insert((kind, name.to_owned()), id.to_owned());
    }

    pub(crate) fn forget(&self, kind: Kind, name: &str) {
        self.lock().remove(&(kind, name.to_owned()));
    }

    pub(crate) fn of(&self, kind: Kind, name: &str) -> String {
        let chosen = self.lock().get(&(kind, name.to_owned())).cloned();
        chosen.unwrap_or_else(|| from_name(name))
    }
}

fn from_name(name: &str) -> String {
    let plain = |letter: char| match letter.to_ascii_lowercase() {
        letter @ ('a'..='z' | '0'..='9') => letter,
        _ => '-',
    };
    let mut id: String = name.chars().map(plain).collect();
    if !id.starts_with(|letter: char| letter.is_ascii_lowercase()) {
        id.insert_str(0, "r-");
    }
    id.truncate(LENGTHS.1);
    while id.ends_with('-') || id.len() < LENGTHS.0 {
        match id.ends_with('-') {
            true => id.truncate(id.len() - 1),
            false => id.push('0'),
        }
    }
    id
}

/// `[a-z]([a-z0-9-]{0,61}[a-z0-9])?`
pub(crate) fn is_id(id: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    id.len() <= LENGTHS.1
        && id.starts_with(|letter: char| letter.is_ascii_lowercase())
        && id.bytes().last().is_some_and(is_plain)
        && id.bytes().all(|byte| is_plain(byte) || byte == b'-')
}
