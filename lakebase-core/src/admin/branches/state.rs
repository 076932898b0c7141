//! What a branch is doing.

use std::fmt;

/// The state of a branch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BranchState {
    /// It is being created.
    Init,
    /// It can be used.
    Ready,
    /// Data is being imported into it.
    Importing,
    /// It is being reset to its source.
    Resetting,
    /// It is stored away because it was not used; a login brings it back.
    Archived,
    /// It is deleted and can be undeleted until it is purged.
    Deleted,
    /// A state that this version does not know, in the platform's word.
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

    /// The platform's word, for example `READY`.
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
    fn states_are_read_with_and_without_prefix_and_unknown_ones_are_kept() {
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
