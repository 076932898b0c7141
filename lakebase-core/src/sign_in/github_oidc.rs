//! `github-oidc`: GitHub Actions hands out identity tokens to jobs that may have them.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;

use super::oidc::{Federation, IdTokens};
use super::token::header_secret;
use super::{Configured, Not, Settings, Site};
use crate::error::Error;
use crate::error::Kind;
use crate::settings::attributes::Attribute;

struct Actions {
    url: Url,
    token: SecretString,
}

pub(super) fn configure(settings: &Settings) -> Configured {
    if !settings.is_forced()
        && !settings.is_any_set(&[Attribute::IdTokenRequestUrl, Attribute::IdTokenRequestToken])
    {
        let in_actions = settings
            .vars
            .get("GITHUB_ACTIONS")
            .is_some_and(|yes| yes == "true");
        if in_actions && settings.is_id_alone() {
            return Err(Not::Complete(
                "the job may not ask for identity tokens; the workflow needs `permissions: id-token: write`".to_owned(),
            ));
        }
        return Err(Not::Meant);
    }
    // Every job that may ask for identity tokens has these two, whatever it asks them for.
    if !settings.is_forced() && !settings.is_any_set(&[Attribute::ClientId]) {
        return Err(Not::Meant);
    }
    let permission = |missing: Not| match missing {
        Not::Complete(what) => Not::Complete(format!(
            "{what}; the workflow needs `permissions: id-token: write`"
        )),
        other => other,
    };
    let url = settings
        .required(Attribute::IdTokenRequestUrl)
        .map_err(permission)?;
    let token = settings
        .required(Attribute::IdTokenRequestToken)
        .map_err(permission)?;
    settings.required_host()?;
    let parsed = Url::parse(&url.value)
        .ok()
        .filter(crate::http::protects_secrets)
        .ok_or_else(|| url.wrong("an https URL"))?;
    let tokens = Actions {
        url: parsed,
        token: header_secret(token)?,
    };
    Ok(Box::new(Federation::new(tokens, settings)))
}

impl IdTokens for Actions {
    fn name(&self) -> &'static str {
        "github-oidc"
    }

    fn id_token<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<SecretString, Error>> {
        async {
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
                return Err(reply
                    .failure("GitHub did not hand out an identity token")
                    .with_hint("The workflow needs `permissions: id-token: write`"));
            }
            match reply.json()?.get("value").and_then(Value::as_str) {
                Some(token) if !token.is_empty() => Ok(SecretString::from(token)),
                _ => Err(reply.error(
                    Kind::Platform,
                    "GitHub's reply holds no identity token (`value`)",
                )),
            }
        }
        .boxed()
    }

    fn made_of(&self) -> &'static [Attribute] {
        &[
            Attribute::Host,
            Attribute::ClientId,
            Attribute::TokenAudience,
            Attribute::IdTokenRequestUrl,
            Attribute::IdTokenRequestToken,
        ]
    }
}
