//! `azure-msi`: the managed identity of an Azure machine.

use std::fmt;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use url::Url;

use super::azure::{self, Azure, EntraToken, EntraTokens};
use super::{Configured, Refusal, Settings, Site};
use crate::error::Error;
use crate::settings::attributes::Attribute;

const LIMIT: Duration = Duration::from_secs(10);
const ADVICE: &str = "Check that this machine has a managed identity (which one: azure_client_id) and that it was added to the workspace";

struct ManagedIdentity {
    service: Url,
    client_id: Option<String>,
}

pub(super) fn configure(settings: &Settings) -> Configured {
    if !settings.is_true(Attribute::AzureUseMsi)? {
        return Err(settings.absent(Attribute::AzureUseMsi));
    }
    azure::require_workspace(settings)?;
    azure::require_azure(settings)?;
    settings.refuse_group("azure-msi")?;
    let cloud = settings.azure_cloud()?;
    let address = &cloud.endpoints.instance_metadata;
    let service = Url::parse(address)
        .and_then(|base| base.join("/metadata/identity/oauth2/token"))
        .map_err(|error| {
            Error::config(format!("azure_endpoints: {address:?} is not a URL")).with_source(error)
        })?;
    Ok(Box::new(Azure {
        resource_id: azure::resource_id(settings)?,
        tokens: ManagedIdentity {
            service,
            client_id: settings.owned(Attribute::AzureClientId),
        },
        cloud,
    }))
}

impl EntraTokens for ManagedIdentity {
    fn name(&self) -> &'static str {
        "azure-msi"
    }

    fn token<'a>(
        &'a self,
        site: &'a Site,
        resource: &'a str,
    ) -> BoxFuture<'a, Result<EntraToken, Refusal>> {
        async move {
            let mut url = self.service.clone();
            url.query_pairs_mut()
                .append_pair("api-version", "2018-02-01")
                .append_pair("resource", resource);
            if let Some(id) = &self.client_id {
                url.query_pairs_mut().append_pair("client_id", id);
            }
            let request = site
                .http
                .get(url)
                .await?
                .header("Metadata", "true")
                .timeout(LIMIT);
            let reply = site.http.send(request, &[]).await.map_err(|error| {
                error.with_hint("Managed identities exist on Azure machines only")
            })?;
            if !reply.is_success() {
                return Err(reply
                    .failure("the instance metadata service refused")
                    .with_hint(ADVICE)
                    .into());
            }
            Ok(azure::read(&reply)?)
        }
        .boxed()
    }

    fn made_of(&self) -> &'static [Attribute] {
        &[
            Attribute::Host,
            Attribute::AzureWorkspaceResourceId,
            Attribute::AzureUseMsi,
            Attribute::AzureClientId,
        ]
    }

    fn advice(&self) -> &'static str {
        ADVICE
    }
}

impl fmt::Debug for ManagedIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
