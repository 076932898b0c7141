//! `metadata-service`: another program on this machine (an editor) signs in for us.

use std::fmt;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use url::Url;

use super::azure::epoch;
use super::oauth;
use super::token::Token;
use super::{Configured, Refusal, Settings, SignIn, Site};
use crate::credential::refresh::Validity;
use crate::error::Error;
use crate::settings::attributes::Attribute;
use crate::settings::host_name::is_loopback;

const LIMIT: Duration = Duration::from_secs(10);
const ADVICE: &str = "The program that signs in for us handed out a token that is not (or no longer) good for this workspace: sign in again there";

struct MetadataService {
    /// Holds a key, so it is never shown.
    url: Url,
}

pub(super) fn configure(settings: &Settings) -> Configured {
    let setting = settings
        .get(Attribute::MetadataServiceUrl)
        .ok_or_else(|| settings.absent(Attribute::MetadataServiceUrl))?;
    settings.required_host()?;
    settings.refuse_group("metadata-service")?;
    let on_loopback = |url: &Url| url.host_str().is_some_and(is_loopback);
    let url = Url::parse(&setting.value).ok().filter(on_loopback);
    let url = url.ok_or_else(|| {
        Error::config(format!("{}: only localhost URLs are allowed", setting.from))
    })?;
    Ok(Box::new(MetadataService { url }))
}

impl SignIn for MetadataService {
    fn name(&self) -> &'static str {
        "metadata-service"
    }

    fn fetch<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<Token, Refusal>> {
        async {
            let host = site.host()?;
            let request = site
                .http
                .get(self.url.clone())
                .await?
                .header("X-Databricks-Metadata-Version", "1")
                .header("X-Databricks-Host", host.as_str().trim_end_matches('/'))
                .timeout(LIMIT);
            // The key may come back in a page or in a redirect.
            let segments = self.url.path().split('/').filter(|part| part.len() > 3);
            let secrets: Vec<&str> = segments.chain(self.url.query()).collect();
            let reply = site.http.send(request, &secrets).await.map_err(|error| {
                error.with_hint("Is the program that signs in for us still running?")
            })?;
            if !reply.is_success() {
                return Err(reply
                    .failure("the metadata service refused")
                    .with_hint(ADVICE)
                    .into());
            }
            let answer = reply.json()?;
            let (secret, kind) = oauth::secret(&reply, &answer)?;
            let at = oauth::number(answer.get("expires_on"))
                .and_then(epoch)
                .ok_or_else(|| oauth::unusable(&reply, "expires_on", "is not a time"))?;
            let validity = Validity::measure(at, reply.date, reply.sent, reply.received)
                .ok_or_else(|| oauth::unusable(&reply, "expires_on", "has passed already"))?;
            Ok(Token::new(kind, secret, Some(validity)))
        }
        .boxed()
    }

    fn made_of(&self) -> &'static [Attribute] {
        &[Attribute::Host, Attribute::MetadataServiceUrl]
    }

    fn advice(&self) -> &'static str {
        ADVICE
    }
}

impl fmt::Debug for MetadataService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
