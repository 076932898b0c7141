//! The state of a branch.

use std::fmt;

/// The state of a branch: see [`Branch::state`](super::Branch::state).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BranchState {
    /// The platform creates it.
    Init,
    /// It accepts logins.
    Ready,
    /// The platform imports data into it.
    Importing,
    /// The platform resets it to its source.
    Resetting,
    /// It is archived after a time without use; a login restores it.
    Archived,
    /// It is deleted, and can be undeleted until it is purged.
    Deleted,
    /// The platform's name of a state that this version does not know.
    Other(String),
}

impl BranchState {
    pub(super) fn read(word: &str) -> Self {
        match word.rsplit("STATE_").next().unwrap_or(word) {
            "INIT" => Self::Init,
            "READY" => Self::Ready,
            "IMPORTING" => Self::Importing,
            "RESETTING" => Self::Resetting,
            "ARCHIVED" => Self::Archived,
            "DELETED" => Self::Deleted,
            _ => Self::Other(crate::error::foreign::clean_text(word)),
        }
    }

    /// The platform's name, for example `READY`.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Init => "INIT",
            Self::Ready => "READY",
            Self::Importing => "IMPORTING",
            Self::Resetting => "RESETTING",
            Self::Archived => "ARCHIVED",
            Self::Deleted => "DELETED",
            Self::Other(word) => word,
        }
    }
}

impl fmt::Display for BranchState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_parsed_with_and_without_prefix_and_unknown_ones_are_kept() {
        for (word, state) in [
            ("READY", BranchState::Ready),
            ("BRANCH_STATE_INIT", BranchState::Init),
            ("HIBERNATING", BranchState::Other("HIBERNATING".to_owned())),
        ] {
            assert_eq!(BranchState::read(word), state);
        }
        assert_eq!(BranchState::read("ARCHIVED").to_string(), "ARCHIVED");
    }
}
