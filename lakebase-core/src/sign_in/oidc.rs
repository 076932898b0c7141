//! Token federation: another issuer's identity token is exchanged for a workspace token (RFC 8693).
//!
//! With a client id, the policy is that of the service principal, without one that of the account. The identity token
//! comes from a variable (`env-oidc`), a file that another program renews, as in Kubernetes (`file-oidc`), or GitHub
//! Actions (`github-oidc`). The last two are read for each exchange.

use std::io;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::fs::{File, metadata};
use tokio::io::AsyncReadExt as _;
use url::Url;

use super::token::{AccessToken, header_secret};
use super::{Configured, NotConfigured, Settings, Site, Source, Strategy, oauth};
use crate::error::Error;
use crate::error::Kind;
use crate::http::protects_secrets;
use crate::settings::attributes::Attribute::{
    ClientId, Host, IdTokenRequestToken, IdTokenRequestUrl, OidcTokenEnv, OidcTokenFilepath,
    TokenAudience,
};
use crate::settings::setting::{Setting, quoted};

pub(super) static ENV: Strategy = Strategy {
    name: "env-oidc",
    attributes: &[Host, ClientId, OidcTokenEnv],
    advice: ADVICE,
    configure: configure_env,
};

pub(super) static FILE: Strategy = Strategy {
    name: "file-oidc",
    attributes: &[Host, ClientId, OidcTokenFilepath],
    advice: ADVICE,
    configure: configure_file,
};

pub(super) static GITHUB: Strategy = Strategy {
    name: "github-oidc",
    attributes: &[
        Host,
        ClientId,
        TokenAudience,
        IdTokenRequestUrl,
        IdTokenRequestToken,
    ],
    advice: ADVICE,
    configure: configure_github,
};

const ADVICE: &str = "Check the federation policy: issuer, audience and subject must be those of the identity token; a policy of the whole account must have no client id";
const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const DEFAULT_VARIABLE: &str = "DATABRICKS_OIDC_TOKEN";
/// Far more than the size of an identity token.
const LARGEST_FILE: u64 = 64 * 1024;
const FILE_LIMIT: Duration = Duration::from_secs(5);
const PERMISSION: &str = "the workflow needs `permissions: id-token: write`";

pub(super) struct Federation {
    id_token: IdToken,
    pub(super) client_id: Option<String>,
}

/// Source of identity tokens.
enum IdToken {
    Variable(SecretString),
    File(Setting),
    /// URL of the job's service, and the token for it.
    GitHub(Url, SecretString),
}

fn federation(id_token: IdToken, settings: &Settings) -> Configured {
    settings.required_host()?;
    Ok(Source::Federation(Federation {
        id_token,
        client_id: settings.owned(ClientId),
    }))
}

fn configure_env(settings: &Settings) -> Configured {
    let named = settings.get(OidcTokenEnv);
    if let Some(named) = named.filter(|named| !is_variable_name(&named.value)) {
        let text = format!("{} is not the name of a variable", named.from);
        let hint = "It names the variable that holds the identity token";
        return Err(Error::config(text).with_hint(hint).into());
    }
    let name = named.map_or(DEFAULT_VARIABLE, |name| name.value.as_str());
    let token = settings.vars.get(name).map(|token| token.trim());
    match (token, named) {
        (Some(token), _) if !token.is_empty() => {
            federation(IdToken::Variable(token.into()), settings)
        }
        (_, Some(Setting { from, .. })) => Err(NotConfigured::Incomplete(format!(
            "the variable {} that {from} names is not set or empty",
            quoted(name)
        ))),
        (_, None) if settings.is_forced() => Err(NotConfigured::Incomplete(format!(
            "{name} is not set or empty"
        ))),
        (_, None) => Err(NotConfigured::Unused),
    }
}

/// Rejects a token in place of the name.
fn is_variable_name(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !text.starts_with(|c: char| c.is_ascii_digit())
}

fn configure_file(settings: &Settings) -> Configured {
    let path = settings.main(OidcTokenFilepath)?;
    federation(IdToken::File(path.clone()), settings)
}

fn configure_github(settings: &Settings) -> Configured {
    if !settings.is_forced() {
        let has_permission = settings.is_any_set(&[IdTokenRequestUrl, IdTokenRequestToken]);
        let in_actions = settings
            .vars
            .get("GITHUB_ACTIONS")
            .is_some_and(|yes| yes == "true");
        if !has_permission && in_actions && settings.is_id_alone() {
            return Err(NotConfigured::Incomplete(format!(
                "the job has no permission to get identity tokens; {PERMISSION}"
            )));
        }
        // A job may have the permission for another purpose.
        if !has_permission || !settings.is_any_set(&[ClientId]) {
            return Err(NotConfigured::Unused);
        }
    }
    let required = |attribute| {
        settings.get(attribute).ok_or_else(|| {
            let missing = settings.missing(attribute);
            NotConfigured::Incomplete(format!("{missing}; {PERMISSION}"))
        })
    };
    let url = required(IdTokenRequestUrl)?;
    let token = required(IdTokenRequestToken)?;
    settings.required_host()?;
    let parsed = Url::parse(&url.value).ok().filter(protects_secrets);
    let service = parsed.ok_or_else(|| url.wrong("an https URL"))?;
    federation(IdToken::GitHub(service, header_secret(token)?), settings)
}

impl Federation {
    pub(super) async fn token(&self, site: &Site) -> Result<AccessToken, Error> {
        let subject = match &self.id_token {
            IdToken::Variable(token) => token.clone(),
            IdToken::File(path) => from_file(path).await?,
            IdToken::GitHub(service, token) => from_github(site, service, token).await?,
        };
        let mut fields = vec![
            ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
            ("subject_token", subject.expose_secret()),
        ];
        fields.extend(self.client_id.as_deref().map(|id| ("client_id", id)));
        oauth::token(site, GRANT, None, &fields, ADVICE).await
    }
}

async fn from_file(path: &Setting) -> Result<SecretString, Error> {
    let wrong = |what: &str| {
        Error::config(format!("{}: file {} {what}", path.from, path.value))
            .with_hint("Mount the identity token there, or correct the path")
    };
    match tokio::time::timeout(FILE_LIMIT, read(&path.value)).await {
        Ok(Ok(text)) => match text.trim() {
            "" => Err(wrong("is empty")),
            token => Ok(SecretString::from(token)),
        },
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Err(wrong("does not exist")),
        Ok(Err(error)) => Err(wrong("cannot be read").with_source(error)),
        Err(_) => Err(wrong("cannot be read in time").with_transient(true)),
    }
}

/// Rejects devices and pipes, which may be endless.
async fn read(path: &str) -> io::Result<String> {
    if !metadata(path).await?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut text = String::new();
    let file = File::open(path).await?;
    file.take(LARGEST_FILE).read_to_string(&mut text).await?;
    Ok(text)
}

async fn from_github(
    site: &Site,
    service: &Url,
    token: &SecretString,
) -> Result<SecretString, Error> {
    let audience = match site.token_audience().await {
        Some(audience) => audience,
        None => site.token_endpoint().await?.to_string(),
    };
    let mut url = service.clone();
    url.query_pairs_mut().append_pair("audience", &audience);
    let token = token.expose_secret();
    let request = site.http.get(url).await?.bearer_auth(token);
    let what = "GitHub returned no identity token";
    let hint = "The workflow needs `permissions: id-token: write`";
    let reply = site.send(request, &[token], what, hint).await?;
    match reply.json()?.get("value").and_then(Value::as_str) {
        Some(token) if !token.is_empty() => Ok(SecretString::from(token)),
        _ => Err(reply.error(
            Kind::Platform,
            "GitHub's reply contains no identity token (`value`)",
        )),
    }
}
