//! The ids of branches and other resources: the last parts of their names.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;
use crate::settings::setting::quoted;

/// The platform's limit.
const LONGEST: usize = 63;
/// Derived ids are padded to this length, because ids of roles have at least four characters.
const SHORTEST: usize = 4;

/// The id of a new branch: at most 63 characters from `a-z`, `0-9` and `-`, starting with a letter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BranchId(String);

impl BranchId {
    /// Checks an id.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`], with the rule.
    pub fn new(id: impl Into<String>) -> Result<Self, Error> {
        let id = id.into();
        if id.len() <= LONGEST
            && id.starts_with(|c: char| c.is_ascii_lowercase())
            && id.chars().all(is_allowed)
        {
            return Ok(Self(id));
        }
        let text = format!("{} cannot be the id of a branch", quoted(&id));
        Err(Error::config(text).with_hint(
            "An id has at most 63 characters from a-z, 0-9 and -, and starts with a letter; BranchId::from_git converts any name into an id",
        ))
    }

    /// Converts the name of a git branch into an id: lower case, with `-` for each other character, with the prefix `b-` if it does
    /// not start with a letter, cut to 63 characters, and without `-` at the end. Two names can have the same id.
    ///
    /// ```
    /// use lakebase_core::admin::BranchId;
    ///
    /// assert_eq!(BranchId::from_git("feature/Foo").as_str(), "feature-foo");
    /// assert_eq!(BranchId::from_git("42-fix").as_str(), "b-42-fix");
    /// ```
    pub fn from_git(name: &str) -> Self {
        Self(sanitized(name, "b-"))
    }

    /// Returns the id with a prefix, which can mark the owner of the branch, as branches have no labels: `ci` and `feature-foo` become
    /// `ci-feature-foo`.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] if an id cannot start with the prefix.
    pub fn with_prefix(&self, prefix: &str) -> Result<Self, Error> {
        let mut id = Self::new(prefix)?.0 + "-" + &self.0;
        id.truncate(LONGEST);
        Self::new(id.trim_end_matches('-'))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Converts any text into an id, with the prefix `first` if it does not start with a letter.
pub(super) fn sanitized(text: &str, first: &str) -> String {
    let mut id: String = text
        .to_lowercase()
        .chars()
        .map(|c| if is_allowed(c) { c } else { '-' })
        .collect();
    if !id.starts_with(|c: char| c.is_ascii_lowercase()) {
        id.insert_str(0, first);
    }
    id.truncate(LONGEST);
    // The platform does not document whether an id may end with `-`.
    id.truncate(id.trim_end_matches('-').len());
    while id.len() < SHORTEST {
        id.push('x');
    }
    id
}

fn is_allowed(c: char) -> bool {
    matches!(c, 'a'..='z' | '0'..='9' | '-')
}

impl AsRef<str> for BranchId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BranchId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for BranchId {
    type Err = Error;

    fn from_str(id: &str) -> Result<Self, Error> {
        Self::new(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_checked_by_the_rule_of_the_platform() {
        let long = "a".repeat(64);
        for id in ["a", "ci-pr-99", "x--", &long[1..]] {
            assert_eq!(BranchId::new(id).expect(id).as_str(), id);
        }
        for id in ["", "1a", "-a", "A", "a_b", "a/b", "ä", &long] {
            let error = BranchId::new(id).expect_err(id);
            assert!(
                error.is_config() && error.to_string().contains("63"),
                "{error}"
            );
        }
    }

    #[test]
    fn names_of_git_branches_become_ids() {
        let long = format!("x/{}", "y".repeat(80));
        for (name, id) in [
            ("feature/Foo", "feature-foo"),
            ("dependabot/npm_and_yarn/a.b", "dependabot-npm-and-yarn-a-b"),
            ("42-fix", "b-42-fix"),
            ("-x", "b--x"),
            ("a", "axxx"),
            ("a/", "axxx"),
            ("", "bxxx"),
            ("Größe", "gr--e"),
            (long.as_str(), &format!("x-{}", "y".repeat(61))),
        ] {
            assert_eq!(BranchId::from_git(name).as_str(), id, "{name}");
        }
    }

    #[test]
    fn an_id_with_a_prefix_is_cut_at_its_end() {
        let id = BranchId::from_git(&"z".repeat(80))
            .with_prefix("ci")
            .expect("an id");
        assert_eq!(id.as_str(), format!("ci-{}", "z".repeat(60)));
        for prefix in ["", "1", "C I"] {
            let id = BranchId::from_git("abc").with_prefix(prefix);
            assert!(id.expect_err(prefix).is_config());
        }
    }

    proptest::proptest! {
        #[test]
        fn every_name_becomes_a_valid_id(name in ".{0,100}") {
            let id = BranchId::from_git(&name);
            proptest::prop_assert!(BranchId::new(id.as_str()).is_ok(), "{}", id);
        }
    }
}
