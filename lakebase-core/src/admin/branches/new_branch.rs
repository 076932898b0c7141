//! The settings of a new branch.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::api::{DEFAULT_TIMEOUT, checked_id};
use super::expiry::{Expiry, rfc3339};
use super::id::BranchId;
use crate::error::Error;

/// A branch to create with [`Branches::create`](super::Branches::create).
#[derive(Clone, Debug)]
#[must_use = "pass it to `Branches::create`, which creates the branch"]
pub struct NewBranch {
    pub(super) id: BranchId,
    pub(super) expiry: Expiry,
    pub(super) source: Option<String>,
    pub(super) timeout: Duration,
    pub(super) logs_in: bool,
    at_time: Option<SystemTime>,
    at_lsn: Option<String>,
    is_protected: bool,
}

impl NewBranch {
    /// A copy of the current state of the project's default branch.
    pub fn new(id: BranchId, expiry: Expiry) -> Self {
        Self {
            id,
            expiry,
            source: None,
            timeout: DEFAULT_TIMEOUT,
            logs_in: true,
            at_time: None,
            at_lsn: None,
            is_protected: false,
        }
    }

    /// Sets the branch to copy, by its id: the project's default branch by default.
    pub fn source(mut self, id: impl Into<String>) -> Self {
        self.source = Some(id.into());
        self
    }

    /// Copies the data of this time instead of the current data. The project's history must reach back that far.
    pub fn at_time(mut self, time: SystemTime) -> Self {
        self.at_time = Some(time);
        self
    }

    /// Copies the data of this position in the write-ahead log, for example `0/1A2B3C4D`.
    pub fn at_lsn(mut self, lsn: impl Into<String>) -> Self {
        self.at_lsn = Some(lsn.into());
        self
    }

    /// Protects the branch against deletion. A project can have one protected branch.
    pub fn protected(mut self) -> Self {
        self.is_protected = true;
        self
    }

    /// Sets the limit for the whole creation, logins included: 10 minutes by default, a day at most.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Waits only for the endpoint and does not log in, for an identity that manages branches and has no role in Postgres. The branch
    /// can reject logins for up to a minute after that.
    pub fn without_login(mut self) -> Self {
        self.logs_in = false;
        self
    }

    /// The id that the branch will have.
    pub fn id(&self) -> &BranchId {
        &self.id
    }

    /// The body of the request.
    pub(super) fn body(&self, project: &str) -> Result<Value, Error> {
        let mut spec = Map::new();
        if let Some(source) = &self.source {
            let source = checked_id("source branch", source)?;
            let path = format!("{project}/branches/{source}");
            spec.insert("source_branch".to_owned(), json!(path));
        }
        match (self.at_time, &self.at_lsn) {
            (Some(_), Some(_)) => {
                return Err(Error::config("both at_time and at_lsn are set: choose one"));
            }
            (Some(time), None) => {
                let time = rfc3339("at_time", time)?;
                spec.insert("source_branch_time".to_owned(), json!(time));
            }
            (None, Some(lsn)) => {
                spec.insert("source_branch_lsn".to_owned(), json!(lsn));
            }
            (None, None) => {}
        }
        let (field, value) = self.expiry.field()?;
        spec.insert(field.to_owned(), value);
        if self.is_protected {
            spec.insert("is_protected".to_owned(), json!(true));
        }
        Ok(json!({ "spec": spec }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_contains_only_the_fields_that_are_set() {
        let id = BranchId::new("x").expect("an id");
        let new = NewBranch::new(id, Expiry::Never);
        let body = new.body("projects/shop").expect("valid");
        assert_eq!(body, json!({"spec": {"no_expiry": true}}));

        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_789_381_800);
        let at = new.clone().source("production").at_time(time).protected();
        let body = at.body("projects/shop").expect("valid");
        let expected = json!({"spec": {
            "source_branch": "projects/shop/branches/production",
            "source_branch_time": "2026-09-14T10:30:00Z",
            "no_expiry": true,
            "is_protected": true,
        }});
        assert_eq!(body, expected);

        for wrong in [at.at_lsn("0/0"), new.source("projects/shop/branches/x")] {
            assert!(wrong.body("projects/shop").expect_err("wrong").is_config());
        }
    }
}
