//! `oauth-m2m`: client id and secret of a service principal.

use std::fmt;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use secrecy::SecretString;

use super::oauth::Request;
use super::token::{Token, header_secret};
use super::{Configured, Refusal, Settings, SignIn, Site};
use crate::error::Error;
use crate::settings::attributes::Attribute;

const ADVICE: &str = "Check client id and secret of the service principal: the secret may be wrong, expired or of another workspace";

struct ServicePrincipal {
    client_id: String,
    client_secret: SecretString,
    request: Request,
}

pub(super) fn configure(settings: &Settings) -> Configured {
    if !settings.is_any_set(&[Attribute::ClientId, Attribute::ClientSecret]) {
        return Err(settings.absent(Attribute::ClientId));
    }
    let id = settings.required(Attribute::ClientId)?;
    let secret = settings.required(Attribute::ClientSecret)?;
    settings.required_host()?;
    if id.value.contains(':') {
        // Most likely with the secret behind it.
        return Err(
            Error::config(format!("{} is not a client id: it holds a colon", id.from)).into(),
        );
    }
    Ok(Box::new(ServicePrincipal {
        client_id: id.value.clone(),
        client_secret: header_secret(secret)?,
        request: Request::new("client_credentials", settings),
    }))
}

impl SignIn for ServicePrincipal {
    fn name(&self) -> &'static str {
        "oauth-m2m"
    }

    fn fetch<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<Token, Refusal>> {
        async {
            let basic = Some((self.client_id.as_str(), &self.client_secret));
            Ok(self.request.send(site, basic, &[], ADVICE).await?)
        }
        .boxed()
    }

    fn made_of(&self) -> &'static [Attribute] {
        &[
            Attribute::Host,
            Attribute::ClientId,
            Attribute::ClientSecret,
        ]
    }

    fn postgres_role(&self) -> Option<&str> {
        Some(&self.client_id)
    }

    fn advice(&self) -> &'static str {
        ADVICE
    }
}

impl fmt::Debug for ServicePrincipal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as {}", self.name(), self.client_id)
    }
}
