//! Token federation: another issuer's identity token is exchanged for a workspace token (RFC 8693).
//!
//! With a client id, the token is exchanged for that service principal (workload identity federation),
//! without one by a policy of the account. The identity token is asked for anew at every exchange.

use secrecy::{ExposeSecret, SecretString};

use super::token::AccessToken;
use super::{Settings, Site, Source, file_oidc, github_oidc, oauth};
use crate::error::Error;
use crate::settings::attributes::Attribute;
use crate::settings::setting::Setting;

const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
pub(super) const ADVICE: &str = "Check the federation policy: issuer, audience and subject must be those of the identity token; a policy of the whole account must have no client id";

pub(super) struct Federation {
    id_token: IdToken,
    pub(super) client_id: Option<String>,
}

/// Where identity tokens come from.
pub(super) enum IdToken {
    Value(SecretString),
    File(Setting),
    GitHub(github_oidc::Actions),
}

impl Federation {
    pub(super) fn source(id_token: IdToken, settings: &Settings) -> Source {
        Source::Federation(Self {
            id_token,
            client_id: settings.owned(Attribute::ClientId),
        })
    }

    pub(super) async fn token(&self, site: &Site) -> Result<AccessToken, Error> {
        let subject = match &self.id_token {
            IdToken::Value(token) => token.clone(),
            IdToken::File(path) => file_oidc::id_token(path).await?,
            IdToken::GitHub(actions) => actions.id_token(site).await?,
        };
        let mut fields = vec![
            ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
            ("subject_token", subject.expose_secret()),
        ];
        fields.extend(self.client_id.as_deref().map(|id| ("client_id", id)));
        oauth::token(site, GRANT, None, &fields, ADVICE).await
    }
}
