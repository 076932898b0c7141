//! `oauth-m2m`: client id and secret of a service principal.

use secrecy::SecretString;

use super::token::{AccessToken, header_secret};
use super::{Configured, Settings, Site, Source, Strategy, oauth};
use crate::error::Error;
use crate::settings::attributes::Attribute;

pub(super) static STRATEGY: Strategy = Strategy {
    name: "oauth-m2m",
    attributes: &[
        Attribute::Host,
        Attribute::ClientId,
        Attribute::ClientSecret,
    ],
    advice: "Check client id and secret of the service principal: the secret may be wrong, expired or of another workspace",
    configure,
};

pub(super) struct ServicePrincipal {
    pub(super) client_id: String,
    client_secret: SecretString,
}

fn configure(settings: &Settings) -> Configured {
    if !settings.is_any_set(&[Attribute::ClientId, Attribute::ClientSecret]) {
        return Err(settings.absent(Attribute::ClientId));
    }
    let id = settings.required(Attribute::ClientId)?;
    let secret = settings.required(Attribute::ClientSecret)?;
    settings.required_host()?;
    if id.value.contains(':') {
        // Most likely with the secret behind it.
        let text = format!("{} is not a client id: it holds a colon", id.from);
        return Err(Error::config(text).into());
    }
    Ok(Source::ServicePrincipal(ServicePrincipal {
        client_id: id.value.clone(),
        client_secret: header_secret(secret)?,
    }))
}

impl ServicePrincipal {
    pub(super) async fn token(&self, site: &Site) -> Result<AccessToken, Error> {
        let basic = Some((self.client_id.as_str(), &self.client_secret));
        oauth::token(site, "client_credentials", basic, &[], STRATEGY.advice).await
    }
}
