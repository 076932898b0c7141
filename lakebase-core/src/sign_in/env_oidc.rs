//! `env-oidc`: the identity token is in an environment variable.

use secrecy::SecretString;

use super::oidc::{ADVICE, Federation, IdToken};
use super::{Configured, NotConfigured, Settings, Strategy};
use crate::error::Error;
use crate::settings::attributes::Attribute;
use crate::settings::setting::quoted;

pub(super) static STRATEGY: Strategy = Strategy {
    name: "env-oidc",
    attributes: &[
        Attribute::Host,
        Attribute::ClientId,
        Attribute::OidcTokenEnv,
    ],
    advice: ADVICE,
    configure,
};

const DEFAULT_VARIABLE: &str = "DATABRICKS_OIDC_TOKEN";

fn configure(settings: &Settings) -> Configured {
    let named = settings.get(Attribute::OidcTokenEnv);
    if let Some(named) = named.filter(|named| !is_variable_name(&named.value)) {
        let text = format!("{} is not the name of a variable", named.from);
        let hint = "It names the variable that holds the identity token";
        return Err(Error::config(text).with_hint(hint).into());
    }
    let name = named.map_or(DEFAULT_VARIABLE, |name| name.value.as_str());
    let token = settings.vars.get(name).map(|token| token.trim());
    let Some(token) = token.filter(|token| !token.is_empty()) else {
        return Err(match named {
            Some(from) => NotConfigured::Incomplete(format!(
                "the variable {} that {} names is not set or empty",
                quoted(name),
                from.from
            )),
            None if settings.is_forced() => {
                NotConfigured::Incomplete(format!("{name} is not set or empty"))
            }
            None => NotConfigured::Unused,
        });
    };
    settings.required_host()?;
    let token = IdToken::Value(SecretString::from(token));
    Ok(Federation::source(token, settings))
}

/// A token that was put there by mistake is not a name.
fn is_variable_name(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !text.starts_with(|c: char| c.is_ascii_digit())
}
