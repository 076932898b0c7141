//! `github-oidc`: GitHub Actions issues identity tokens to jobs that have the permission.

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;

use super::oidc::{ADVICE, Federation, IdToken};
use super::token::header_secret;
use super::{Configured, NotConfigured, Settings, Site, Strategy};
use crate::error::Error;
use crate::error::Kind;
use crate::http::protects_secrets;
use crate::settings::attributes::Attribute;

pub(super) static STRATEGY: Strategy = Strategy {
    name: "github-oidc",
    attributes: &[
        Attribute::Host,
        Attribute::ClientId,
        Attribute::TokenAudience,
        Attribute::IdTokenRequestUrl,
        Attribute::IdTokenRequestToken,
    ],
    advice: ADVICE,
    configure,
};

const PERMISSION: &str = "the workflow needs `permissions: id-token: write`";

/// The service of one job.
pub(super) struct Actions {
    url: Url,
    token: SecretString,
}

fn configure(settings: &Settings) -> Configured {
    if !settings.is_forced() {
        let may_ask = [Attribute::IdTokenRequestUrl, Attribute::IdTokenRequestToken];
        let in_actions = settings
            .vars
            .get("GITHUB_ACTIONS")
            .is_some_and(|yes| yes == "true");
        if !settings.is_any_set(&may_ask) && in_actions && settings.is_id_alone() {
            return Err(NotConfigured::Incomplete(format!(
                "the job may not ask for identity tokens; {PERMISSION}"
            )));
        }
        // Every job with the permission has these two, whatever it uses identity tokens for.
        if !settings.is_any_set(&may_ask) || !settings.is_any_set(&[Attribute::ClientId]) {
            return Err(NotConfigured::Unused);
        }
    }
    let required = |attribute| {
        settings.get(attribute).ok_or_else(|| {
            let missing = settings.missing(attribute);
            NotConfigured::Incomplete(format!("{missing}; {PERMISSION}"))
        })
    };
    let url = required(Attribute::IdTokenRequestUrl)?;
    let token = required(Attribute::IdTokenRequestToken)?;
    settings.required_host()?;
    let parsed = Url::parse(&url.value).ok().filter(protects_secrets);
    let actions = Actions {
        url: parsed.ok_or_else(|| url.wrong("an https URL"))?,
        token: header_secret(token)?,
    };
    Ok(Federation::source(IdToken::GitHub(actions), settings))
}

impl Actions {
    pub(super) async fn id_token(&self, site: &Site) -> Result<SecretString, Error> {
        let audience = match site.token_audience().await {
            Some(audience) => audience,
            None => site.token_endpoint().await?.to_string(),
        };
        let mut url = self.url.clone();
        url.query_pairs_mut().append_pair("audience", &audience);
        let token = self.token.expose_secret();
        let request = site.http.get(url).await?.bearer_auth(token);
        let reply = site.http.send(request, &[token]).await?;
        if !reply.is_success() {
            let error = reply.failure("GitHub did not hand out an identity token");
            return Err(error.with_hint("The workflow needs `permissions: id-token: write`"));
        }
        match reply.json()?.get("value").and_then(Value::as_str) {
            Some(token) if !token.is_empty() => Ok(SecretString::from(token)),
            _ => Err(reply.error(
                Kind::Platform,
                "GitHub's reply holds no identity token (`value`)",
            )),
        }
    }
}
