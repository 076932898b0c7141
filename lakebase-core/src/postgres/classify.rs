//! What an error of a login means, and what to do next.

use crate::target::Target;

/// What to do about a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The credential was refused: renew once, then give up.
    Rejected,
    /// The branch is so fresh that it rejects good credentials: retried within the budget, with new
    /// ones.
    Unready,
    /// Worth trying again within the budget.
    Transient,
    /// Not worth it.
    Permanent,
}

/// Texts by which the gateway refuses a token, whatever SQLSTATE comes with them.
const REJECTIONS: &[&str] = &[
    "authentication failed",
    "authentication token",
    "invalid authorization",
    "failed to decode token",
    "jwt token",
    "security label",
];

/// SQLSTATEs, or their classes, that pass: out of connections, memory or disk; shutting down, crashed, starting up;
/// lost contact. `XX000` and `58000` are a gateway's own trouble: the compute cannot be reached, or not yet.
const TRANSIENT: &[&str] = &["08", "53", "57P01", "57P02", "57P03", "58000", "XX000"];

/// The platform documents no SQLSTATEs for errors of its gateway, so class 28 or one of the known
/// texts counts as a refusal.
pub(super) fn classify(sqlstate: &str, message: &str) -> Verdict {
    let message = message.to_lowercase();
    let has = |text: &str| message.contains(text);
    // A role that is not there, in whatever code a gateway may wrap it.
    let lacks_role = has("role ") && has("does not exist");
    if has("external authorization failed") {
        Verdict::Unready
    } else if sqlstate.starts_with("28") || lacks_role || REJECTIONS.iter().any(|text| has(text)) {
        Verdict::Rejected
    } else if has("invalid protocol version") || has("unsupported startup") {
        // What gateways answer to a startup without TLS, and poolers to one with settings.
        Verdict::Permanent
    } else if TRANSIENT.iter().any(|code| sqlstate.starts_with(code)) {
        Verdict::Transient
    } else {
        Verdict::Permanent
    }
}

/// For SQL that a person copies: names may come with a request.
fn quoted(name: &str, quote: char) -> String {
    let doubled = name.replace(quote, &format!("{quote}{quote}"));
    format!("{quote}{doubled}{quote}")
}

/// What to do next, for the person who reads the error.
pub(super) fn hint(
    verdict: Verdict,
    sqlstate: &str,
    message: &str,
    target: &Target,
    uses_tokens: bool,
) -> Option<String> {
    let message = message.to_lowercase();
    let user = target.user();
    let hint = match sqlstate {
        "3D000" => "Check PGDATABASE".to_owned(),
        _ if message.contains("not permitted to log in") => {
            format!("The role {user:?} is made for membership only: check PGUSER")
        }
        "42501" => format!(
            "Run: GRANT CONNECT ON DATABASE {} TO {}",
            quoted(target.database(), '"'),
            quoted(user, '"')
        ),
        "53300" => {
            "The compute's connection limit is reached: use smaller pools or a larger compute"
                .to_owned()
        }
        _ if message.contains("invalid protocol version") => {
            "The server demands TLS: set PGSSLMODE (in a URL, sslmode) to require".to_owned()
        }
        _ if verdict == Verdict::Unready => {
            "A fresh branch rejects logins for some seconds; if this one is not fresh, check the identity's right to use it"
                .to_owned()
        }
        _ if message.contains("does not exist") => format!(
            "Create the role (SELECT databricks_create_role({}, ...)), or check PGUSER",
            quoted(user, '\'')
        ),
        _ if message.contains("security label") || message.contains("identity") => format!(
            "The signed-in identity must be the role {user:?} itself (case-sensitive) or a member of that group role: check PGUSER and the sign-in"
        ),
        _ if verdict != Verdict::Rejected => return None,
        _ if uses_tokens => {
            let role = format!(
                "Check that role {user:?} belongs to the signed-in identity and was made by databricks_create_role, not by plain CREATE ROLE"
            );
            match target.database() {
                // The platform made it, and the extension in it.
                "databricks_postgres" => role,
                database => format!(
                    "{role}. If the database {database:?} was made by plain CREATE DATABASE, tokens are rejected there until its owner runs in it, with a native login: CREATE EXTENSION IF NOT EXISTS databricks_auth"
                ),
            }
        }
        _ => "Check PGPASSWORD, and that native login is enabled for the endpoint".to_owned(),
    };
    Some(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_by_class_28_or_by_text_and_the_rest_by_what_can_change() {
        for (verdict, errors) in [
            (
                Verdict::Rejected,
                &[
                    "28P01 password authentication failed for user \"x\"",
                    "28000 role \"x\" does not exist",
                    "XX000 password authentication failed for user 'x'",
                    "XX000 Provided authentication token is not a valid JWT encoding",
                    "XX000 Invalid authorization for databricks identity login",
                    "XX000 JWT token has expired (exp=1)",
                    "XX000 Failed to decode token for role",
                    "28P01 token's identity did not match the security label configured for role x",
                    "XX000 role \"x\" does not exist",
                ][..],
            ),
            (
                Verdict::Unready,
                &[
                    "28000 External authorization failed",
                    "28P01 external authorization failed",
                    "XX000 External authorization failed",
                ][..],
            ),
            (
                Verdict::Transient,
                &[
                    "XX000 Control plane request failed",
                    "57P03 the database system is starting up",
                    "57P01 terminating connection due to administrator command",
                    "53300 sorry, too many clients already",
                    "08006 connection failure",
                ][..],
            ),
            (
                Verdict::Permanent,
                &[
                    "42501 permission denied for database \"x\"",
                    "3D000 database \"x\" does not exist",
                    "0A000 unsupported frontend protocol",
                    "08P01 Invalid protocol version: 196608",
                    "08P01 unsupported startup parameter: options",
                ][..],
            ),
        ] {
            for error in errors {
                let (sqlstate, message) = error.split_once(' ').expect("a SQLSTATE");
                assert_eq!(classify(sqlstate, message), verdict, "{error}");
            }
        }
    }
}
