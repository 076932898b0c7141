//! What a sign-in yields.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;

use crate::credential::clock::Now;
use crate::credential::refresh::{Age, Validity};
use crate::error::Error;
use crate::settings::setting::Setting;

/// The headers that authenticate a call, and how long they do.
pub(crate) struct Token {
    pub(crate) headers: Vec<(&'static str, SecretString)>,
    /// Unlimited if `None`.
    pub(crate) validity: Option<Validity>,
}

impl Token {
    /// `Authorization` alone. Databricks is exact about the spelling of `Bearer`.
    pub(super) fn new(kind: &str, secret: &str, validity: Option<Validity>) -> Self {
        let kind = match kind {
            "" => "Bearer",
            _ if kind.eq_ignore_ascii_case("bearer") => "Bearer",
            other => other,
        };
        Self {
            headers: vec![(
                "authorization",
                SecretString::from(format!("{kind} {secret}")),
            )],
            validity,
        }
    }

    pub(super) fn with_header(
        mut self,
        name: &'static str,
        value: impl Into<SecretString>,
    ) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(crate) fn age(&self, now: Now) -> Age {
        self.validity
            .map_or(Age::Fresh, |validity| validity.age_for_workspace(now))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("validity", &self.validity)
            .finish_non_exhaustive()
    }
}

/// Visible ASCII: goes into a header as it is.
pub(crate) fn is_header_safe(secret: &str) -> bool {
    !secret.is_empty() && secret.bytes().all(|byte| byte.is_ascii_graphic())
}

/// What follows `Basic`.
pub(super) fn basic(user: &str, secret: &str) -> String {
    STANDARD.encode(format!("{user}:{secret}"))
}

/// A configured secret that goes into a header. The error does not repeat it.
pub(super) fn header_secret(secret: &Setting) -> Result<SecretString, Error> {
    if !is_header_safe(&secret.value) {
        return Err(Error::config(format!(
            "{} holds spaces, line breaks or other characters that no such secret has",
            secret.from
        ))
        .with_hint("It may have been copied or read from a file with a line break at its end"));
    }
    Ok(SecretString::from(secret.value.clone()))
}
