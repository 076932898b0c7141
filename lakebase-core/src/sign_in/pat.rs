//! `pat`: a personal access token, or any bearer the user brings. Sent as it is; nothing is asked.

use std::fmt;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use secrecy::{ExposeSecret, SecretString};

use super::token::{Token, header_secret};
use super::{Configured, Refusal, Settings, SignIn, Site};
use crate::settings::attributes::Attribute;

struct Pat(SecretString);

pub(super) fn configure(settings: &Settings) -> Configured {
    let token = settings
        .get(Attribute::Token)
        .ok_or_else(|| settings.absent(Attribute::Token))?;
    settings.required_host()?;
    settings.refuse_group("pat")?;
    Ok(Box::new(Pat(header_secret(token)?)))
}

impl SignIn for Pat {
    fn name(&self) -> &'static str {
        "pat"
    }

    fn fetch<'a>(&'a self, _site: &'a Site) -> BoxFuture<'a, Result<Token, Refusal>> {
        async { Ok(Token::new("Bearer", self.0.expose_secret(), None)) }.boxed()
    }

    fn made_of(&self) -> &'static [Attribute] {
        &[Attribute::Host, Attribute::Token]
    }

    fn advice(&self) -> &'static str {
        "The personal access token may be wrong, expired, revoked or of another workspace"
    }

    fn can_renew(&self) -> bool {
        false
    }
}

impl fmt::Debug for Pat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
