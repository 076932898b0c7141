//! Databricks' own OAuth: one request to the workspace's token endpoint.

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::Site;
use super::token::{self, AccessToken};
use crate::error::Error;
use crate::settings::attributes::Attribute;

/// Asks for a token, with client credentials in the header or `fields` of the grant in the form.
pub(super) async fn token(
    site: &Site,
    grant_type: &str,
    basic: Option<(&str, &SecretString)>,
    fields: &[(&str, &str)],
    advice: &str,
) -> Result<AccessToken, Error> {
    let settings = site.settings();
    let scope = settings.scopes();
    let mut form = vec![("grant_type", grant_type), ("scope", &scope)];
    for (name, attribute) in [
        ("assume_group", Attribute::GroupId),
        ("authorization_details", Attribute::AuthorizationDetails),
    ] {
        form.extend(settings.value(attribute).map(|value| (name, value)));
    }
    form.extend(fields);
    let basic = basic.map(|(id, secret)| (id, secret.expose_secret()));
    // A debug page may repeat the header as it was sent.
    let header = basic.map(|(id, secret)| token::basic(id, secret));
    let mut secrets: Vec<&str> = fields
        .iter()
        .filter(|(name, _)| *name == "subject_token")
        .map(|(_, value)| *value)
        .collect();
    secrets.extend(basic.map(|(_, secret)| secret));
    secrets.extend(header.as_ref().map(ExposeSecret::expose_secret));
    let post = async |endpoint: Url| {
        let mut request = site.http.post(endpoint).await?.form(&form);
        if let Some((id, secret)) = basic {
            request = request.basic_auth(id, Some(secret));
        }
        site.http.send(request, &secrets).await
    };
    let mut reply = post(site.token_endpoint().await?).await?;
    if reply.status == 404 && site.forget_assumed_endpoint() {
        reply = post(site.token_endpoint().await?).await?;
    }
    if !reply.is_success() {
        let error = reply.failure("the workspace refused the sign-in");
        return Err(match reply.status {
            400 | 401 | 403 => error.with_hint(advice),
            _ => error,
        });
    }
    AccessToken::from_reply(&reply)
}
