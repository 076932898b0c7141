//! A value and its source.

use std::fmt::Display;
use std::str::FromStr;

use secrecy::zeroize::Zeroize as _;

use crate::error::Error;
use crate::error::foreign::{clean_text, is_secret_like};

/// A value, which may be a secret and is wiped when it is dropped.
#[derive(Clone)]
pub(crate) struct Setting {
    pub(crate) value: String,
    /// Variable, part of a URL, builder method or profile.
    pub(crate) from: String,
}

impl Setting {
    pub(crate) fn new(value: impl Into<String>, from: impl Into<String>) -> Self {
        Self {
            value: value.into(),
            from: from.into(),
        }
    }

    /// Parses the value. The error quotes it, unless it may be a secret.
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

    /// Rejects control characters, for values in packets and headers.
    pub(crate) fn printable(&self) -> Result<&Self, Error> {
        if self.value.chars().any(char::is_control) {
            return Err(Error::config(format!(
                "{} contains line breaks or other control characters",
                self.from
            )));
        }
        Ok(self)
    }

    /// Rejects a secret in a setting that errors and logs repeat.
    pub(crate) fn no_secret(&self) -> Result<&Self, Error> {
        if is_secret_like(&self.value) {
            let text = format!(
                "the value of {} looks like a secret (not repeated)",
                self.from
            );
            return Err(Error::config(text).with_hint(
                "Set DATABRICKS_TOKEN to a personal access token, and DATABRICKS_CLIENT_SECRET to an OAuth secret",
            ));
        }
        Ok(self)
    }

    /// Rejects a secret, and a URL, which may contain a password.
    pub(crate) fn no_url(&self) -> Result<&Self, Error> {
        self.no_secret()?;
        if self.value.contains("://") {
            return Err(
                Error::config(format!("{} contains a URL (not repeated)", self.from))
                    .with_hint("The variable for a URL is LAKEBASE_PG_URL"),
            );
        }
        Ok(self)
    }

    /// Rejects an empty value.
    pub(crate) fn not_empty(&self) -> Result<(), Error> {
        if self.value.trim().is_empty() {
            return Err(Error::config(format!("{} is empty", self.from)));
        }
        Ok(())
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        self.value.zeroize();
    }
}

/// The value for an error, unless it may be a secret or a URL with a password.
pub(crate) fn quoted(value: &str) -> String {
    if value.contains('@') || value.contains("://") {
        "a value that contains a URL or user information (not repeated)".to_owned()
    } else if is_secret_like(value) {
        "a value that looks like a secret (not repeated)".to_owned()
    } else {
        format!("{:?}", clean_text(value))
    }
}
