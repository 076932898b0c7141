//! `env-oidc`: the identity token is in an environment variable.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use secrecy::SecretString;

use super::oidc::{Federation, IdTokens};
use super::{Configured, Not, Settings, Site};
use crate::error::Error;
use crate::settings::attributes::Attribute;
use crate::settings::setting::quoted;

const USUAL: &str = "DATABRICKS_OIDC_TOKEN";

struct Variable(SecretString);

pub(super) fn configure(settings: &Settings) -> Configured {
    let named = settings.get(Attribute::OidcTokenEnv);
    // Somebody may have put the token itself there.
    let is_name = |name: &str| {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        name.chars().all(is_word) && !name.starts_with(|c: char| c.is_ascii_digit())
    };
    if let Some(named) = named.filter(|named| !is_name(&named.value)) {
        let text = format!("{} is not the name of a variable", named.from);
        let hint = "It names the variable that holds the identity token";
        return Err(Error::config(text).with_hint(hint).into());
    }
    let name = named.map_or(USUAL, |name| name.value.as_str());
    let token = settings
        .vars
        .get(name)
        .map(|token| token.trim())
        .filter(|token| !token.is_empty());
    let Some(token) = token else {
        return Err(match named {
            Some(from) => Not::Complete(format!(
                "the variable {} that {} names is not set or empty",
                quoted(name),
                from.from
            )),
            None if settings.is_forced() => Not::Complete(format!("{USUAL} is not set or empty")),
            None => Not::Meant,
        });
    };
    settings.required_host()?;
    let tokens = Variable(SecretString::from(token));
    Ok(Box::new(Federation::new(tokens, settings)))
}

impl IdTokens for Variable {
    fn name(&self) -> &'static str {
        "env-oidc"
    }

    fn id_token<'a>(&'a self, _site: &'a Site) -> BoxFuture<'a, Result<SecretString, Error>> {
        async { Ok(self.0.clone()) }.boxed()
    }

    fn made_of(&self) -> &'static [Attribute] {
        &[
            Attribute::Host,
            Attribute::ClientId,
            Attribute::OidcTokenEnv,
        ]
    }
}
