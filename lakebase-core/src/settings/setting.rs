//! One raw value and where it came from, so that errors can name it.

use std::fmt::Display;
use std::str::FromStr;

use secrecy::zeroize::Zeroize as _;

use crate::error::Error;
use crate::error::foreign::{clean_text, is_secret_like};

/// The value is wiped from memory when it is dropped: it may be a secret.
#[derive(Clone)]
pub(crate) struct Setting {
    pub(crate) value: String,
    /// The variable, URL part or builder method, as the user knows it.
    pub(crate) from: String,
}

impl Setting {
    pub(crate) fn new(value: impl Into<String>, from: impl Into<String>) -> Self {
        Self {
            value: value.into(),
            from: from.into(),
        }
    }

    /// Parses a value that is no secret; the error quotes it.
    pub(crate) fn parse<T>(&self, expected: &str) -> Result<T, Error>
    where
        T: FromStr,
    {
        self.value.trim().parse().map_err(|_| self.wrong(expected))
    }

    pub(crate) fn wrong(&self, expected: impl Display) -> Error {
        Error::config(format!(
            "{}: {} is not {expected}",
            self.from,
            quoted(&self.value)
        ))
    }

    /// A value that goes into packets and headers as it is.
    pub(crate) fn printable(&self) -> Result<&Self, Error> {
        if self.value.chars().any(char::is_control) {
            return Err(Error::config(format!(
                "{} holds line breaks or other control characters",
                self.from
            )));
        }
        Ok(self)
    }

    /// A value that errors and logs repeat: no secret may have been put there by mistake.
    pub(crate) fn no_secret(&self) -> Result<&Self, Error> {
        if is_secret_like(&self.value) {
            let text = format!(
                "{} holds what looks like a secret (not repeated)",
                self.from
            );
            return Err(Error::config(text).with_hint(
                "A personal access token goes into DATABRICKS_TOKEN, an OAuth secret into DATABRICKS_CLIENT_SECRET",
            ));
        }
        Ok(self)
    }

    /// A name: no secret, and no URL, which may hold a password.
    pub(crate) fn no_url(&self) -> Result<&Self, Error> {
        self.no_secret()?;
        if self.value.contains("://") {
            return Err(
                Error::config(format!("{} holds a URL (not repeated)", self.from))
                    .with_hint("A whole URL goes into LAKEBASE_PG_URL"),
            );
        }
        Ok(self)
    }

    /// A value that must not be empty once it was given explicitly.
    pub(crate) fn not_empty(self) -> Result<Self, Error> {
        if self.value.trim().is_empty() {
            return Err(Error::config(format!("{} is empty", self.from)));
        }
        Ok(self)
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        self.value.zeroize();
    }
}

/// A value as an error may repeat it: not if it may be a secret, or a URL with a password, put into
/// the wrong place.
pub(crate) fn quoted(value: &str) -> String {
    if value.contains('@') || value.contains("://") {
        "a value that holds a URL or user information (not repeated)".to_owned()
    } else if is_secret_like(value) {
        "a value that looks like a secret (not repeated)".to_owned()
    } else {
        format!("{:?}", clean_text(value))
    }
}
