//! `azure-client-secret`: a service principal of Entra ID.

use std::sync::OnceLock;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::azure::{self, Entra, Identity};
use super::azure_cloud::Cloud;
use super::token::AccessToken;
use super::{Configured, Failure, Settings, Site, Source, Strategy};
use crate::error::Error;
use crate::settings::attributes::Attribute::{
    AzureClientId, AzureClientSecret, AzureTenantId, AzureUseMsi, AzureWorkspaceResourceId, Host,
};

pub(super) static STRATEGY: Strategy = Strategy {
    name: "azure-client-secret",
    attributes: &[
        Host,
        AzureWorkspaceResourceId,
        AzureTenantId,
        AzureClientId,
        AzureClientSecret,
    ],
    advice: "Check tenant, client id and secret of the service principal, and that it was added to the workspace",
    configure,
};

pub(super) struct EntraPrincipal {
    client_id: String,
    client_secret: SecretString,
    /// Configured, or looked up.
    tenant: OnceLock<String>,
}

fn configure(settings: &Settings) -> Configured {
    // A client id alone may also select a managed identity.
    let is_used = settings.is_any_set(&[AzureClientSecret])
        || (settings.is_any_set(&[AzureClientId]) && !settings.is_true(AzureUseMsi)?);
    if !is_used {
        return Err(settings.absent(AzureClientSecret));
    }
    let id = settings.required(AzureClientId)?;
    let secret = settings.required(AzureClientSecret)?;
    azure::check(settings, STRATEGY.name)?;
    if settings.host.is_none() {
        // Without a host, the tenant cannot be looked up.
        settings.required(AzureTenantId)?;
    }
    let tenant = settings.owned(AzureTenantId);
    let principal = EntraPrincipal {
        client_id: id.value.clone(),
        client_secret: SecretString::from(secret.value.as_str()),
        tenant: tenant.map(OnceLock::from).unwrap_or_default(),
    };
    let entra = Entra::new(principal, settings)?;
    Ok(Source::AzureClientSecret(entra))
}

impl Identity for EntraPrincipal {
    async fn token(
        &self,
        site: &Site,
        cloud: &Cloud,
        resource: &str,
    ) -> Result<AccessToken, Failure> {
        let login = cloud.endpoints.login.trim_end_matches('/');
        let tenant = match self.tenant.get() {
            Some(tenant) => tenant,
            None => {
                let found = find_tenant(site, login).await?;
                self.tenant.get_or_init(|| found)
            }
        };
        let url = Url::parse(&format!("{login}/{tenant}/oauth2/token"))
            .map_err(|error| Error::config("ARM_TENANT_ID is not a tenant").with_source(error))?;
        let secret = self.client_secret.expose_secret();
        let form = [
            ("grant_type", "client_credentials"),
            ("resource", resource),
            ("client_id", &self.client_id),
            ("client_secret", secret),
        ];
        let request = site.http.post(url).await?.form(&form);
        let what = "Entra ID rejected the service principal";
        let reply = site.send(request, &[secret], what, STRATEGY.advice).await?;
        Ok(AccessToken::from_reply(&reply)?)
    }
}

/// The workspace redirects `/aad/auth` to the login page of its tenant.
async fn find_tenant(site: &Site, login: &str) -> Result<String, Error> {
    let url = site.url("/aad/auth")?;
    let reply = site.http.send(site.http.get(url).await?, &[]).await?;
    if reply.status == 429 || reply.status >= 500 {
        return Err(reply.failure("cannot look up the tenant in the workspace"));
    }
    reply
        .location()
        .filter(|_| (300..400).contains(&reply.status))
        .and_then(|location| location.strip_prefix(login))
        .and_then(|path| path.trim_start_matches('/').split(['/', '?']).next())
        .filter(|tenant| !tenant.is_empty())
        .map(str::to_owned)
        .ok_or_else(|| {
            Error::config("ARM_TENANT_ID is not set, and the workspace does not return its tenant")
                .with_hint("Set ARM_TENANT_ID to the id of the Entra tenant")
        })
}
