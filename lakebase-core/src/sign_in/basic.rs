//! `basic`: user name and password. Databricks has ended it for most accounts.

use std::fmt;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use secrecy::{ExposeSecret, SecretString};

use super::token::{self, Token};
use super::{Configured, Refusal, Settings, SignIn, Site};
use crate::error::Error;
use crate::settings::attributes::Attribute;

struct Basic {
    encoded: SecretString,
}

pub(super) fn configure(settings: &Settings) -> Configured {
    if !settings.is_any_set(&[Attribute::Username, Attribute::Password]) {
        return Err(settings.absent(Attribute::Username));
    }
    let username = settings.required(Attribute::Username)?;
    let password = settings.required(Attribute::Password)?;
    settings.required_host()?;
    settings.refuse_group("basic")?;
    if username.value.contains(':') {
        let text = format!("{} is not a user name: it holds a colon", username.from);
        return Err(Error::config(text).into());
    }
    let encoded = token::basic(&username.value, &password.value);
    Ok(Box::new(Basic {
        encoded: encoded.into(),
    }))
}

impl SignIn for Basic {
    fn name(&self) -> &'static str {
        "basic"
    }

    fn fetch<'a>(&'a self, _site: &'a Site) -> BoxFuture<'a, Result<Token, Refusal>> {
        async { Ok(Token::new("Basic", self.encoded.expose_secret(), None)) }.boxed()
    }

    fn made_of(&self) -> &'static [Attribute] {
        &[Attribute::Host, Attribute::Username, Attribute::Password]
    }

    fn advice(&self) -> &'static str {
        "Check user name and password; most workspaces take no passwords any more"
    }

    fn can_renew(&self) -> bool {
        false
    }
}

impl fmt::Debug for Basic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
