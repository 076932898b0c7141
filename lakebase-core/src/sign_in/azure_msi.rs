//! `azure-msi`: the managed identity of an Azure machine.

use std::time::Duration;

use url::Url;

use super::azure::{self, Entra, Identity};
use super::azure_cloud::Cloud;
use super::token::AccessToken;
use super::{Configured, Failure, Settings, Site, Source, Strategy};
use crate::error::Error;
use crate::settings::attributes::Attribute::{
    AzureClientId, AzureUseMsi, AzureWorkspaceResourceId, Host,
};

pub(super) static STRATEGY: Strategy = Strategy {
    name: "azure-msi",
    attributes: &[Host, AzureWorkspaceResourceId, AzureUseMsi, AzureClientId],
    advice: "Check that this machine has the managed identity (azure_client_id selects one) and that it was added to the workspace",
    configure,
};

const LIMIT: Duration = Duration::from_secs(10);

pub(super) struct ManagedIdentity {
    service: Url,
}

fn configure(settings: &Settings) -> Configured {
    if !settings.is_true(AzureUseMsi)? {
        return Err(settings.absent(AzureUseMsi));
    }
    azure::check(settings, STRATEGY.name)?;
    let address = Cloud::of(settings)?.endpoints.instance_metadata;
    let service = Url::parse(&address)
        .and_then(|base| base.join("/metadata/identity/oauth2/token"))
        .map_err(|error| {
            Error::config(format!("azure_endpoints: {address:?} is not a URL")).with_source(error)
        })?;
    let machine = ManagedIdentity { service };
    Ok(Source::AzureMsi(Entra::new(machine, settings)?))
}

impl Identity for ManagedIdentity {
    async fn token(&self, site: &Site, _: &Cloud, resource: &str) -> Result<AccessToken, Failure> {
        let mut url = self.service.clone();
        url.query_pairs_mut()
            .append_pair("api-version", "2018-02-01")
            .append_pair("resource", resource);
        if let Some(id) = site.settings().value(AzureClientId) {
            url.query_pairs_mut().append_pair("client_id", id);
        }
        let get = site.http.get(url).await?;
        let request = get.header("Metadata", "true").timeout(LIMIT);
        let what = "the instance metadata service rejected the request";
        let reply = site.send(request, &[], what, STRATEGY.advice).await;
        let reply = reply.map_err(|error| match error.status() {
            Some(_) => error,
            None => error.with_hint("Only Azure machines have managed identities"),
        })?;
        Ok(AccessToken::from_reply(&reply)?)
    }
}
