//! A user's token that a proxy in front of the application forwards, as in Databricks Apps.

use std::sync::{Arc, Mutex, PoisonError};

use secrecy::{ExposeSecret, SecretString};

use super::token::{Token, is_header_safe};
use super::{NotConfigured, Strategy, jwt};
use crate::error::Error;
use crate::settings::attributes::Attribute::Host;

pub(super) static STRATEGY: Strategy = Strategy {
    name: "on-behalf-of",
    attributes: &[Host],
    advice: "The user's token has expired, was revoked, or lacks the scope `postgres`. The user's next request brings a new one",
    // It comes from a request, not from settings.
    configure: |_| Err(NotConfigured::Unused),
};

/// The newest token of one user. Clones share it.
#[derive(Clone)]
pub(crate) struct ForwardedToken(Arc<Mutex<SecretString>>);

impl ForwardedToken {
    pub(crate) fn new(token: SecretString) -> Result<Self, Error> {
        Ok(Self(Arc::new(Mutex::new(checked(token)?))))
    }

    /// Returns whether the token has changed.
    pub(crate) fn replace(&self, token: SecretString) -> Result<bool, Error> {
        let token = checked(token)?;
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_other = held.expose_secret() != token.expose_secret();
        *held = token;
        Ok(is_other)
    }

    /// Whether these headers contain the newest token.
    pub(super) fn is_in(&self, signed: &Token) -> bool {
        let own = self.token();
        let (own, signed) = (own.headers.first(), signed.headers.first());
        let same = own
            .zip(signed)
            .map(|((_, own), (_, signed))| own.expose_secret() == signed.expose_secret());
        same.unwrap_or_default()
    }

    pub(super) fn token(&self) -> Token {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Without an expiry: the workspace rejects an expired token, and this machine's clock may be wrong.
        Token::new("Bearer", held.expose_secret(), None)
    }
}

/// The expiry in seconds since 1970, if the token is a JWT.
pub(crate) fn expiry(token: &str) -> Option<u64> {
    jwt::claims(token)?.get("exp")?.as_u64()
}

fn checked(token: SecretString) -> Result<SecretString, Error> {
    match is_header_safe(token.expose_secret()) {
        true => Ok(token),
        false => Err(Error::config(
            "the user's token is empty or contains characters that are invalid in a token",
        )),
    }
}
