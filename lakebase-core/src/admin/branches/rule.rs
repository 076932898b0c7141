//! Hints for changes that a rule of the platform forbids.

use crate::error::Error;

/// Also the hint for a 409 without a branch: some replies do not explain why an id is in use.
pub(super) const DELETED: &str =
    "A deleted branch keeps its id until it is purged: undelete it, purge it, or choose another id";

const TOO_MANY: &str =
    "The project has reached its limit of branches: delete some, and give new ones an expiry";

const CAN_MANAGE: &str = "Creating, changing and deleting branches needs CAN MANAGE on the project: its owner grants that under Settings > Project permissions. CAN USE is enough for listing branches and creating roles and databases";

/// HTTP status (0 for any), the platform's code ("" for any), texts of which the message contains one (empty for any message),
/// and the hint. The first match counts.
const RULES: &[(u16, &str, &[&str], &str)] = &[
    (403, "", &[], CAN_MANAGE),
    (
        0,
        "",
        &[
            "deleted branch",
            "soft-deleted",
            "soft deleted",
            "being deleted",
            "is deleted",
            "was deleted",
        ],
        DELETED,
    ),
    (
        0,
        "",
        &["protected branch", "branch is protected"],
        "The branch is protected: remove the protection first (set_protected(false)), if this is the right branch",
    ),
    (
        0,
        "",
        &["root branch", "default branch"],
        "The root branch and the default branch of a project cannot be deleted and cannot expire; they are deleted with the project",
    ),
    (
        0,
        "",
        &["children", "child branch"],
        "It is the source of other branches: delete those first",
    ),
    (
        0,
        "",
        &["maximum expiration", "30 days"],
        "The workspace limits how long a branch may live: choose a shorter expiry, for example 7 days, or Expiry::Never",
    ),
    (
        0,
        "",
        &[
            "branch limit",
            "branch quota",
            "branches limit",
            "branches per project",
            "limit of branches",
            "number of branches",
            "quota of",
            "reached its limit",
            "too many branches",
        ],
        TOO_MANY,
    ),
    (
        0,
        "",
        &["role with that name already exists"],
        "A role with this id exists, perhaps inherited from the source branch: use that role",
    ),
    (
        0,
        "",
        &["database with that name already exists"],
        "A database with this id exists, perhaps inherited from the source branch: use that database",
    ),
    (
        409,
        "ABORTED",
        &[],
        "Another change of the project is running: retry when it is done",
    ),
    (
        409,
        "",
        &[],
        "A branch with this id exists: use it, choose another id, or purge it first",
    ),
    (
        404,
        "",
        &["role not found"],
        "Create the role first, and use its id, not its name in Postgres",
    ),
    (
        404,
        "",
        &[],
        "Check the project and the id (production, not the uid br-..); an expired branch no longer exists",
    ),
    (
        400,
        "",
        &["branch id not found"],
        "Use the id of the branch (production), not its uid (br-..)",
    ),
];

/// Adds the hint of a rule. Such an error is permanent, with any HTTP status.
pub(super) fn explained(error: Error) -> Error {
    let code = error.error_code().unwrap_or_default().to_owned();
    // A quota of branches may have the status 429. Other texts with this status are about the rate of requests, which is transient.
    let is_rate =
        |hint: &str| error.status() == Some(429) && !(hint == TOO_MANY && error.mentions("branch"));
    let fits = |&&(status, wanted, texts, hint): &&(u16, &str, &[&str], &str)| {
        !is_rate(hint)
            && (status == 0 || error.status() == Some(status))
            && (wanted.is_empty() || wanted == code)
            && (texts.is_empty() || texts.iter().any(|text| error.mentions(text)))
    };
    // Rules need a reply; 401 and 5xx have other causes.
    if !matches!(error.status(), Some(200 | 400 | 403..=409 | 429)) {
        return error;
    }
    let Some(&(_, _, _, hint)) = RULES.iter().find(fits) else {
        return error;
    };
    error.with_hint(hint).with_transient(code == "ABORTED")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn each_rule_has_a_hint_and_is_permanent() {
        for (status, code, message, hint) in [
            (
                409,
                "ALREADY_EXISTS",
                "branch with such id already exists",
                "choose another id",
            ),
            (
                400,
                "BAD_REQUEST",
                "cannot delete protected branch",
                "set_protected(false)",
            ),
            (
                400,
                "BAD_REQUEST",
                "Cannot delete root branch 'br-x'",
                "deleted with the project",
            ),
            (
                400,
                "BAD_REQUEST",
                "cannot delete branch with children",
                "delete those first",
            ),
            (
                400,
                "BAD_REQUEST",
                "branch has child branches",
                "delete those first",
            ),
            (
                400,
                "INVALID_PARAMETER_VALUE",
                "expiration time exceeds the maximum expiration time",
                "shorter expiry",
            ),
            (
                409,
                "ALREADY_EXISTS",
                "a soft-deleted branch has this id",
                "purge it",
            ),
            (403, "PERMISSION_DENIED", "not allowed", "CAN MANAGE"),
            (400, "BAD_REQUEST", "branch limit reached", "delete some"),
            (
                429,
                "RESOURCE_EXHAUSTED",
                "quota of 10 branches is used up",
                "delete some",
            ),
            (404, "NOT_FOUND", "branch id not found", "not the uid"),
            (400, "BAD_REQUEST", "branch id not found", "not its uid"),
            (
                400,
                "BAD_REQUEST",
                "role with that name already exists",
                "inherited",
            ),
            (
                400,
                "BAD_REQUEST",
                "database with that name already exists",
                "inherited",
            ),
            (
                404,
                "NOT_FOUND",
                "role not found; role_id:\"x\"",
                "Create the role first",
            ),
        ] {
            let error = Error::new(
                Kind::Platform,
                format!("the workspace rejected the request: {message}"),
            )
            .with_response(status, Some(code.to_owned()), None)
            .with_transient(status == 429);
            let error = explained(error);
            assert!(
                error.hint().is_some_and(|found| found.contains(hint)),
                "{error}"
            );
            assert!(!error.is_transient(), "{error}");
        }
    }

    #[test]
    fn rate_limits_outages_and_concurrent_changes_stay_transient() {
        for (status, code, message) in [
            (429, "RESOURCE_EXHAUSTED", "slow down"),
            (
                429,
                "RESOURCE_EXHAUSTED",
                "the rate of requests exceeds the maximum quota of 10 per second",
            ),
            (
                429,
                "RESOURCE_EXHAUSTED",
                "too many changes of protected branches and their children",
            ),
            (503, "TEMPORARILY_UNAVAILABLE", "try later"),
            (409, "ABORTED", "another operation runs"),
        ] {
            let error = Error::new(Kind::Platform, message)
                .with_response(status, Some(code.to_owned()), None)
                .with_transient(status != 409);
            assert!(explained(error).is_transient(), "{code}");
        }
    }
}
