//! Tokens of the workspace, read from replies and from the output of command-line tools.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use crate::credential::clock::Now;
use crate::credential::refresh::{Age, Validity};
use crate::error::Error;
use crate::error::Kind;
use crate::http::Reply;
use crate::settings::setting::Setting;

/// The headers that authenticate a request, and their validity.
pub(crate) struct Token {
    pub(crate) headers: Vec<(&'static str, SecretString)>,
    /// `None` without an expiry.
    pub(crate) validity: Option<Validity>,
}

impl Token {
    /// Only the header `Authorization`. Databricks accepts no other spelling of `Bearer`.
    pub(super) fn new(scheme: &str, secret: &str, validity: Option<Validity>) -> Self {
        let scheme = match scheme {
            "" => "Bearer",
            _ if scheme.eq_ignore_ascii_case("bearer") => "Bearer",
            other => other,
        };
        let value = SecretString::from(format!("{scheme} {secret}"));
        Self {
            headers: vec![("authorization", value)],
            validity,
        }
    }

    pub(crate) fn age(&self, now: Now) -> Age {
        self.validity
            .map_or(Age::Fresh, |validity| validity.age_for_workspace(now))
    }
}

/// An access token from its issuer.
pub(super) struct AccessToken {
    pub(super) scheme: String,
    pub(super) secret: SecretString,
    pub(super) validity: Validity,
}

impl From<AccessToken> for Token {
    fn from(token: AccessToken) -> Self {
        Self::new(
            &token.scheme,
            token.secret.expose_secret(),
            Some(token.validity),
        )
    }
}

/// The output of a command-line tool.
pub(super) struct CliFormat {
    /// Name and login command of the tool, for hints.
    pub(super) tool: &'static str,
    pub(super) login: &'static str,
    /// Names of fields.
    pub(super) token: &'static str,
    pub(super) scheme: &'static str,
    pub(super) expiry: &'static str,
}

impl AccessToken {
    /// Reads a reply of RFC 6749. The time `expires_on`, which Azure and the metadata service add, takes precedence over
    /// the lifetime `expires_in`.
    pub(super) fn from_reply(reply: &Reply) -> Result<Self, Error> {
        let answer = reply.json()?;
        let unusable = |field: &str, what: &str| {
            let text = format!("the authentication reply is unusable: `{field}` {what}");
            reply.error(Kind::Platform, text)
        };
        let (secret, scheme) = secret(&answer, "access_token", "token_type", unusable)?;
        let lifetime = answer
            .get("expires_in")
            .and_then(seconds)
            .filter(|lifetime| !lifetime.is_zero())
            .map(|lifetime| Validity::starting(reply.sent, lifetime));
        let expiry = answer.get("expires_on");
        let validity = match (expiry.and_then(epoch), lifetime) {
            (Some(at), _) => Validity::measure(at, reply.date, reply.sent, reply.received)
                .ok_or_else(|| unusable("expires_on", "has passed already"))?,
            (None, Some(lifetime)) => lifetime,
            (None, None) if expiry.is_some() => {
                return Err(unusable("expires_on", "is not a time"));
            }
            (None, None) => {
                return Err(unusable(
                    "expires_in",
                    "is not a positive number of seconds",
                ));
            }
        };
        Ok(Self {
            scheme,
            secret,
            validity,
        })
    }

    /// Reads the output of a tool that ran between these two times. Its clock is this machine's.
    pub(super) fn from_cli(
        format: &CliFormat,
        stdout: &str,
        started: Now,
        ended: Now,
    ) -> Result<Self, Error> {
        let wrong = |text: String| {
            Error::new(Kind::Platform, text).with_hint(format!("Update the {}", format.tool))
        };
        let unusable = |what: &str| wrong(format!("cannot unmarshal CLI result: {what}"));
        let answer: Value = serde_json::from_str(stdout).map_err(|_| unusable("it is not JSON"))?;
        let (secret, scheme) = secret(&answer, format.token, format.scheme, |field, what| {
            unusable(&format!("`{field}` {what}"))
        })?;
        // The Azure CLI prints both; its `expiresOn` is local time.
        let expiry = answer.get("expires_on").and_then(epoch);
        let expiry = expiry.or_else(|| parse_expiry(answer.get(format.expiry)?.as_str()?));
        let expiry = expiry.ok_or_else(|| {
            let field = format.expiry;
            wrong(format!("cannot parse expiry: `{field}` is not a date"))
        })?;
        let validity = Validity::measure(expiry, None, started, ended).ok_or_else(|| {
            let login = format.login;
            Error::new(Kind::SignIn, "the CLI returned a token that has expired").with_hint(
                format!("Check this machine's clock, or log in again with {login}"),
            )
        })?;
        Ok(Self {
            scheme,
            secret,
            validity,
        })
    }
}

/// The token and its scheme.
fn secret(
    answer: &Value,
    token: &str,
    scheme: &str,
    unusable: impl Fn(&str, &str) -> Error,
) -> Result<(SecretString, String), Error> {
    let secret = match answer.get(token).and_then(Value::as_str) {
        Some(secret) if is_header_safe(secret) => SecretString::from(secret),
        Some(_) => return Err(unusable(token, "is not a token")),
        None => return Err(unusable(token, "is missing")),
    };
    match answer.get(scheme).and_then(Value::as_str) {
        None | Some("") => Ok((secret, "Bearer".to_owned())),
        Some(word) if is_header_safe(word) => Ok((secret, word.to_owned())),
        Some(_) => Err(unusable(scheme, "is not a word")),
    }
}

/// A number of seconds, or a string with one.
fn seconds(value: &Value) -> Option<Duration> {
    let seconds = match value.as_str() {
        Some(text) => text.trim().parse().ok()?,
        None => value.as_f64()?,
    };
    Duration::try_from_secs_f64(seconds).ok()
}

/// Seconds since 1970.
fn epoch(value: &Value) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(seconds(value)?)
}

/// RFC 3339, or a date and a time of this machine's zone.
fn parse_expiry(text: &str) -> Option<SystemTime> {
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Some(at.into());
    }
    let local: jiff::civil::DateTime = text.parse().ok()?;
    let at = local.to_zoned(jiff::tz::TimeZone::system()).ok()?;
    Some(at.timestamp().into())
}

/// Visible ASCII, which a header can contain.
pub(crate) fn is_header_safe(secret: &str) -> bool {
    !secret.is_empty() && secret.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Credentials of the scheme `Basic`.
pub(super) fn basic(user: &str, secret: &str) -> SecretString {
    let pair = Zeroizing::new(format!("{user}:{secret}"));
    SecretString::from(STANDARD.encode(pair.as_bytes()))
}

/// A configured secret for a header. The error does not contain it.
pub(super) fn header_secret(secret: &Setting) -> Result<SecretString, Error> {
    if is_header_safe(&secret.value) {
        return Ok(SecretString::from(secret.value.as_str()));
    }
    let what = "contains spaces, line breaks or other characters that are invalid in a secret";
    Err(Error::config(format!("{} {what}", secret.from))
        .with_hint("It may have been copied or read from a file with a line break at its end"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_has_an_offset_or_is_local_time() {
        let utc = |text: &str| text.parse::<jiff::Timestamp>().ok().map(SystemTime::from);
        for (text, expected) in [
            (
                "2023-12-01T15:19:48.007742617Z",
                utc("2023-12-01T15:19:48.007742617Z"),
            ),
            (
                "2023-12-05T15:59:01.40081+11:00",
                utc("2023-12-05T04:59:01.40081Z"),
            ),
            ("March 20, 2024", None),
            ("", None),
        ] {
            assert_eq!(parse_expiry(text), expected, "{text:?}");
        }
        let local: jiff::civil::DateTime = "2023-12-06 10:06:05".parse().expect("a date");
        let zoned = local
            .to_zoned(jiff::tz::TimeZone::system())
            .expect("a time");
        assert_eq!(
            parse_expiry("2023-12-06 10:06:05"),
            Some(zoned.timestamp().into())
        );
    }
}
