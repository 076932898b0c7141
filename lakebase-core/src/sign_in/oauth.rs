//! `oauth-m2m`, with client id and secret of a service principal; and requests to the workspace's token endpoint.

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::token::{AccessToken, basic, header_secret};
use super::{Configured, Settings, Site, Source, Strategy};
use crate::error::Error;
use crate::settings::attributes::Attribute::{
    AuthorizationDetails, ClientId, ClientSecret, GroupId, Host,
};

pub(super) static M2M: Strategy = Strategy {
    name: "oauth-m2m",
    attributes: &[Host, ClientId, ClientSecret],
    advice: "Check client id and secret of the service principal: the secret may be wrong, expired or from another workspace",
    configure,
};

pub(super) struct ServicePrincipal {
    pub(super) client_id: String,
    client_secret: SecretString,
}

fn configure(settings: &Settings) -> Configured {
    if !settings.is_any_set(&[ClientId, ClientSecret]) {
        return Err(settings.absent(ClientId));
    }
    let id = settings.required(ClientId)?;
    let secret = settings.required(ClientSecret)?;
    settings.required_host()?;
    if id.value.contains(':') {
        // Probably followed by the secret.
        let text = format!("{} is not a client id: it contains a colon", id.from);
        return Err(Error::config(text).into());
    }
    Ok(Source::ServicePrincipal(ServicePrincipal {
        client_id: id.value.clone(),
        client_secret: header_secret(secret)?,
    }))
}

impl ServicePrincipal {
    pub(super) async fn token(&self, site: &Site) -> Result<AccessToken, Error> {
        let client = Some((self.client_id.as_str(), &self.client_secret));
        token(site, "client_credentials", client, &[], M2M.advice).await
    }
}

/// Requests a token, with the client's id and secret in the header or `fields` of the grant in the form.
pub(super) async fn token(
    site: &Site,
    grant_type: &str,
    client: Option<(&str, &SecretString)>,
    fields: &[(&str, &str)],
    advice: &str,
) -> Result<AccessToken, Error> {
    let settings = site.settings();
    let scope = settings.scopes();
    let mut form = vec![("grant_type", grant_type), ("scope", &scope)];
    for (name, attribute) in [
        ("assume_group", GroupId),
        ("authorization_details", AuthorizationDetails),
    ] {
        form.extend(settings.value(attribute).map(|value| (name, value)));
    }
    form.extend(fields);
    let client = client.map(|(id, secret)| (id, secret.expose_secret()));
    // A debug page may repeat the header.
    let header = client.map(|(id, secret)| basic(id, secret));
    let subject = fields.iter().find(|(name, _)| *name == "subject_token");
    let secrets: Vec<&str> = [
        subject.map(|(_, token)| *token),
        client.map(|(_, secret)| secret),
        header.as_ref().map(ExposeSecret::expose_secret),
    ]
    .into_iter()
    .flatten()
    .collect();
    let post = async |endpoint: Url| {
        let mut request = site.http.post(endpoint).await?.form(&form);
        if let Some((id, secret)) = client {
            request = request.basic_auth(id, Some(secret));
        }
        site.http.send(request, &secrets).await
    };
    let mut reply = post(site.token_endpoint().await?).await?;
    if reply.status == 404 && site.discover_endpoint() {
        reply = post(site.token_endpoint().await?).await?;
    }
    if !reply.is_success() {
        let error = reply.failure("the workspace rejected the authentication");
        return Err(match reply.status {
            400 | 401 | 403 => error.with_hint(advice),
            _ => error,
        });
    }
    AccessToken::from_reply(&reply)
}
