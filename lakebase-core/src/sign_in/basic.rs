//! `basic`: user name and password. Databricks has ended it for most accounts.

use super::token::basic;
use super::{Configured, Settings, Source, Strategy};
use crate::error::Error;
use crate::settings::attributes::Attribute;

pub(super) static STRATEGY: Strategy = Strategy {
    name: "basic",
    attributes: &[Attribute::Host, Attribute::Username, Attribute::Password],
    advice: "Check user name and password; most workspaces take no passwords any more",
    configure,
};

fn configure(settings: &Settings) -> Configured {
    if !settings.is_any_set(&[Attribute::Username, Attribute::Password]) {
        return Err(settings.absent(Attribute::Username));
    }
    let username = settings.required(Attribute::Username)?;
    let password = settings.required(Attribute::Password)?;
    settings.required_host()?;
    settings.reject_group(STRATEGY.name)?;
    if username.value.contains(':') {
        let text = format!("{} is not a user name: it holds a colon", username.from);
        return Err(Error::config(text).into());
    }
    Ok(Source::Fixed(
        "Basic",
        basic(&username.value, &password.value),
    ))
}
