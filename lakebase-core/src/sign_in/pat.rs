//! `pat`: a personal access token, or any other bearer token. It is sent as it is.

use super::token::header_secret;
use super::{Configured, Settings, Source, Strategy};
use crate::settings::attributes::Attribute;

pub(super) static STRATEGY: Strategy = Strategy {
    name: "pat",
    attributes: &[Attribute::Host, Attribute::Token],
    advice: "The personal access token may be wrong, expired, revoked or of another workspace",
    configure,
};

fn configure(settings: &Settings) -> Configured {
    let token = settings.main(Attribute::Token)?;
    settings.required_host()?;
    settings.reject_group(STRATEGY.name)?;
    Ok(Source::Fixed("Bearer", header_secret(token)?))
}
