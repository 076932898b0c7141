//! Classifies failed logins by SQLSTATE and message, and gives hints.

use crate::target::Target;

/// What the login loop does after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The credential was rejected: the loop renews it once.
    Rejected,
    /// A new branch still rejects valid credentials: the loop retries with new ones.
    Unready,
    /// The loop retries.
    Transient,
    /// The login fails.
    Permanent,
}

/// Texts of the gateway when it rejects a token, with any SQLSTATE.
const REJECTIONS: &[&str] = &[
    "authentication failed",
    "authentication token",
    "invalid authorization",
    "failed to decode token",
    "jwt token",
    "security label",
];

/// Transient SQLSTATEs, or their classes: a lost connection; no connections, memory or disk space left; shutdown, crash and start.
/// `58000` and `XX000` come from a gateway that cannot reach the compute, or not yet.
const TRANSIENT: &[&str] = &["08", "53", "57P01", "57P02", "57P03", "58000", "XX000"];

/// The platform documents no SQLSTATEs for errors of its gateway, so class 28 or one of the known
/// texts counts as a rejection.
pub(super) fn classify(sqlstate: &str, message: &str) -> Verdict {
    let message = message.to_lowercase();
    let has = |text: &str| message.contains(text);
    // A gateway may send this with another SQLSTATE.
    let lacks_role = has("role ") && has("does not exist");
    if has("external authorization failed") {
        Verdict::Unready
    } else if sqlstate.starts_with("28") || lacks_role || REJECTIONS.iter().any(|text| has(text)) {
        Verdict::Rejected
    } else if has("invalid protocol version") || has("unsupported startup") {
        // Gateways reject a startup without TLS like this, and poolers one with settings.
        Verdict::Permanent
    } else if TRANSIENT.iter().any(|code| sqlstate.starts_with(code)) {
        Verdict::Transient
    } else {
        Verdict::Permanent
    }
}

/// SQLSTATEs, or their classes, that the Postgres of the endpoint sends and a gateway that does not know the endpoint does not.
const FROM_ENDPOINT: &[&str] = &["22", "3D000", "42", "53", "55", "57"];

/// Whether the error shows that the login has reached the endpoint, and not a host that was once the endpoint's.
pub(super) fn is_from_endpoint(sqlstate: &str) -> bool {
    FROM_ENDPOINT.iter().any(|code| sqlstate.starts_with(code))
}

/// Quotes a name, which may come from a request, for SQL that a person copies.
fn quoted(name: &str, quote: char) -> String {
    let doubled = name.replace(quote, &format!("{quote}{quote}"));
    format!("{quote}{doubled}{quote}")
}

/// The next step, for the person who reads the error.
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
            format!("The role {user:?} has NOLOGIN, so it cannot log in: check PGUSER")
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
            "A new branch rejects logins for some seconds; if this branch is older, check that the identity may use it"
                .to_owned()
        }
        _ if message.contains("does not exist") => format!(
            "Create the role (SELECT databricks_create_role({}, ...)), or check PGUSER",
            quoted(user, '\'')
        ),
        _ if message.contains("security label") || message.contains("identity") => format!(
            "The authenticated identity must be the role {user:?} itself (case-sensitive) or a member of that group role: check PGUSER and the authentication"
        ),
        _ if verdict != Verdict::Rejected => return None,
        _ if uses_tokens => {
            let role = format!(
                "Check that role {user:?} belongs to the authenticated identity and was created by databricks_create_role, not by plain CREATE ROLE"
            );
            match target.database() {
                // The platform creates it, with the extension.
                "databricks_postgres" => role,
                database => format!(
                    "{role}. A database that was created by plain CREATE DATABASE (perhaps {database:?}) rejects tokens until its owner logs in with a native password and runs in it: CREATE EXTENSION IF NOT EXISTS databricks_auth"
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
    fn an_error_about_a_token_or_from_a_gateway_leaves_a_doubt_about_the_host() {
        for (sqlstate, expected) in [
            ("3D000", true),
            ("42501", true),
            ("53300", true),
            ("57P03", true),
            ("28P01", false),
            ("28000", false),
            ("08006", false),
            ("58000", false),
            ("XX000", false),
            ("", false),
        ] {
            assert_eq!(is_from_endpoint(sqlstate), expected, "{sqlstate}");
        }
    }

    #[test]
    fn class_28_and_known_texts_are_rejections_and_other_codes_transient_or_permanent() {
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
