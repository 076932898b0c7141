//! `metadata-service`: another program on this machine, such as an editor, shares its tokens.

use std::time::Duration;

use url::Url;

use super::token::AccessToken;
use super::{Configured, Settings, Site, Source, Strategy};
use crate::error::Error;
use crate::settings::attributes::Attribute::{Host, MetadataServiceUrl};
use crate::settings::host_name::is_loopback;

pub(super) static STRATEGY: Strategy = Strategy {
    name: "metadata-service",
    attributes: &[Host, MetadataServiceUrl],
    advice: "Authenticate again in the program behind DATABRICKS_METADATA_SERVICE_URL: the workspace does not accept its token",
    configure,
};

const LIMIT: Duration = Duration::from_secs(10);

/// The URL contains a key, so errors do not contain it.
pub(super) struct MetadataService(Url);

fn configure(settings: &Settings) -> Configured {
    let setting = settings.main(MetadataServiceUrl)?;
    settings.required_host()?;
    settings.reject_group(STRATEGY.name)?;
    let url = Url::parse(&setting.value).ok();
    let on_loopback = |url: &Url| url.host_str().is_some_and(is_loopback);
    let url = url.filter(on_loopback).ok_or_else(|| {
        Error::config(format!("{}: only localhost URLs are allowed", setting.from))
    })?;
    Ok(Source::MetadataService(MetadataService(url)))
}

impl MetadataService {
    pub(super) async fn token(&self, site: &Site) -> Result<AccessToken, Error> {
        let host = site.host()?.as_str().trim_end_matches('/');
        let get = site.http.get(self.0.clone()).await?;
        let request = get
            .header("X-Databricks-Metadata-Version", "1")
            .header("X-Databricks-Host", host)
            .timeout(LIMIT);
        // A page or a redirect may repeat the key.
        let segments = self.0.path().split('/').filter(|part| part.len() > 3);
        let secrets: Vec<&str> = segments.chain(self.0.query()).collect();
        let what = "the metadata service rejected the request";
        let reply = site.send(request, &secrets, what, STRATEGY.advice).await;
        AccessToken::from_reply(&reply.map_err(|error| match error.status() {
            Some(_) => error,
            None => error.with_hint(
                "Check that the program behind DATABRICKS_METADATA_SERVICE_URL is running",
            ),
        })?)
    }
}
