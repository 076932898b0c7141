//! `pat` and `basic`: a personal access token (or another bearer token), or user name and password, which are sent
//! unchanged.

use super::token::{basic, header_secret};
use super::{Configured, Settings, Source, Strategy};
use crate::error::Error;
use crate::settings::attributes::Attribute::{Host, Password, Token, Username};

pub(super) static PAT: Strategy = Strategy {
    name: "pat",
    attributes: &[Host, Token],
    advice: "The personal access token may be wrong, expired, revoked or from another workspace",
    configure: configure_pat,
};

fn configure_pat(settings: &Settings) -> Configured {
    let token = settings.main(Token)?;
    settings.required_host()?;
    settings.reject_group(PAT.name)?;
    Ok(Source::Fixed("Bearer", header_secret(token)?))
}

/// Databricks supports it for few accounts.
pub(super) static BASIC: Strategy = Strategy {
    name: "basic",
    attributes: &[Host, Username, Password],
    advice: "Check user name and password; most workspaces accept no passwords",
    configure: configure_basic,
};

fn configure_basic(settings: &Settings) -> Configured {
    if !settings.is_any_set(&[Username, Password]) {
        return Err(settings.absent(Username));
    }
    let username = settings.required(Username)?;
    let password = settings.required(Password)?;
    settings.required_host()?;
    settings.reject_group(BASIC.name)?;
    if username.value.contains(':') {
        let text = format!("{} is not a user name: it contains a colon", username.from);
        return Err(Error::config(text).into());
    }
    let credentials = basic(&username.value, &password.value);
    Ok(Source::Fixed("Basic", credentials))
}
