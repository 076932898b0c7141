//! `azure-client-secret`: a service principal of Entra ID.

use std::fmt;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::azure::{self, Azure, EntraToken, EntraTokens};
use super::{Configured, Refusal, Settings, Site};
use crate::credential::remembered::Remembered;
use crate::error::Error;
use crate::settings::attributes::Attribute;

const ADVICE: &str = "Check tenant, client id and secret of the service principal, and that it was added to the workspace";

struct EntraPrincipal {
    login: String,
    tenant: Option<String>,
    found_tenant: Remembered<String>,
    client_id: String,
    client_secret: SecretString,
}

pub(super) fn configure(settings: &Settings) -> Configured {
    // A client id alone may also choose a managed identity.
    let is_meant = settings.is_any_set(&[Attribute::AzureClientSecret])
        || (settings.is_any_set(&[Attribute::AzureClientId])
            && !settings.is_true(Attribute::AzureUseMsi)?);
    if !is_meant {
        return Err(settings.absent(Attribute::AzureClientSecret));
    }
    let id = settings.required(Attribute::AzureClientId)?;
    let secret = settings.required(Attribute::AzureClientSecret)?;
    azure::require_workspace(settings)?;
    if settings.host.is_none() {
        // Only a workspace could be asked for it.
        settings.required(Attribute::AzureTenantId)?;
    }
    // Other workspaces have no use for tokens of Entra ID, and must not see them.
    azure::require_azure(settings)?;
    settings.refuse_group("azure-client-secret")?;
    let cloud = settings.azure_cloud()?;
    Ok(Box::new(Azure {
        resource_id: azure::resource_id(settings)?,
        tokens: EntraPrincipal {
            login: cloud.endpoints.login.clone(),
            tenant: settings.owned(Attribute::AzureTenantId),
            found_tenant: Remembered::default(),
            client_id: id.value.clone(),
            client_secret: SecretString::from(secret.value.clone()),
        },
        cloud,
    }))
}

impl EntraPrincipal {
    async fn tenant(&self, site: &Site) -> Result<String, Error> {
        match &self.tenant {
            Some(tenant) => Ok(tenant.clone()),
            None => {
                let find = find_tenant(site, &self.login);
                self.found_tenant.get_or_find(find).await
            }
        }
    }
}

impl EntraTokens for EntraPrincipal {
    fn name(&self) -> &'static str {
        "azure-client-secret"
    }

    fn token<'a>(
        &'a self,
        site: &'a Site,
        resource: &'a str,
    ) -> BoxFuture<'a, Result<EntraToken, Refusal>> {
        async move {
            let tenant = self.tenant(site).await?;
            let url = format!("{}/{tenant}/oauth2/token", self.login.trim_end_matches('/'));
            let url = Url::parse(&url)
                .map_err(|error| Error::config("ARM_TENANT_ID is no tenant").with_source(error))?;
            let secret = self.client_secret.expose_secret();
            let form = [
                ("grant_type", "client_credentials"),
                ("resource", resource),
                ("client_id", &self.client_id),
                ("client_secret", secret),
            ];
            let request = site.http.post(url).await?.form(&form);
            let reply = site.http.send(request, &[secret]).await?;
            if !reply.is_success() {
                return Err(reply
                    .failure("Entra ID refused the service principal")
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
            Attribute::AzureTenantId,
            Attribute::AzureClientId,
            Attribute::AzureClientSecret,
        ]
    }

    fn advice(&self) -> &'static str {
        ADVICE
    }
}

/// The workspace sends browsers to its tenant's login page.
async fn find_tenant(site: &Site, login: &str) -> Result<String, Error> {
    let url = site.url("/aad/auth")?;
    let reply = site.http.send(site.http.get(url).await?, &[]).await?;
    if reply.status == 429 || reply.status >= 500 {
        return Err(reply.failure("the workspace does not tell its tenant"));
    }
    let tenant = reply
        .location()
        .filter(|_| (300..400).contains(&reply.status));
    let tenant = tenant
        .and_then(|location| location.strip_prefix(login.trim_end_matches('/')))
        .and_then(|path| path.trim_start_matches('/').split(['/', '?']).next())
        .filter(|tenant| !tenant.is_empty());
    tenant.map(str::to_owned).ok_or_else(|| {
        Error::config("ARM_TENANT_ID is not set, and the workspace does not tell its tenant")
            .with_hint("Set ARM_TENANT_ID to the id of the Entra tenant")
    })
}

impl fmt::Debug for EntraPrincipal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} as {}", self.name(), self.client_id)
    }
}
