//! What the Azure strategies share: the pair of tokens that a call needs, and the look-up of a
//! workspace by its resource id.

use futures_util::future::BoxFuture;
use secrecy::ExposeSecret;
use url::Url;

use super::azure_cloud::{Cloud, is_azure};
use super::token::{AccessToken, Token, is_header_safe};
use super::{Configured, NotConfigured, Refusal, Settings, Site, Source};
use crate::error::Error;
use crate::error::Kind;
use crate::http::protects_secrets;
use crate::settings::attributes::Attribute::{AzureWorkspaceResourceId, Host};

/// Authenticates with tokens of Entra ID.
pub(super) struct Entra {
    identity: Box<dyn Identity>,
    cloud: Cloud,
    resource_id: Option<String>,
}

/// Whom the tokens are for.
pub(super) trait Identity: Send + Sync {
    /// Fetches a token for a resource.
    fn token<'a>(
        &'a self,
        site: &'a Site,
        cloud: &'a Cloud,
        resource: &'a str,
    ) -> BoxFuture<'a, Result<AccessToken, Refusal>>;

    /// Fetches the token that makes Azure's own privileges count in the workspace, if the owner of the first
    /// token has one.
    fn management_token<'a>(
        &'a self,
        site: &'a Site,
        cloud: &'a Cloud,
        _first: &'a AccessToken,
    ) -> BoxFuture<'a, Result<Option<AccessToken>, Refusal>> {
        let token = self.token(site, cloud, &cloud.endpoints.service_management);
        Box::pin(async { token.await.map(Some) })
    }
}

/// The workspace is named, by URL or resource id, and is known to be on Azure: others have no use for
/// tokens of Entra ID, and must not see them.
pub(super) fn check(settings: &Settings, strategy: &str) -> Result<(), NotConfigured> {
    if !settings.is_any_set(&[AzureWorkspaceResourceId]) {
        settings.required_host()?;
    }
    if let Some(host) = settings.get(Host).filter(|_| !is_azure(settings)) {
        return Err(host
            .wrong("known to be a workspace on Azure")
            .with_hint("Set DATABRICKS_AZURE_RESOURCE_ID to its resource id, or DATABRICKS_CLOUD to AZURE, if it is one")
            .into());
    }
    settings.reject_group(strategy)
}

impl Entra {
    pub(super) fn source(identity: impl Identity + 'static, settings: &Settings) -> Configured {
        let resource_id = settings.get(AzureWorkspaceResourceId);
        // It goes into a header as it is.
        if let Some(id) = resource_id.filter(|id| !is_header_safe(&id.value)) {
            let expected = "a resource id such as /subscriptions/../workspaces/..";
            return Err(id.wrong(expected).into());
        }
        Ok(Source::Entra(Self {
            identity: Box::new(identity),
            resource_id: resource_id.map(|id| id.value.clone()),
            cloud: Cloud::of(settings)?,
        }))
    }

    pub(super) async fn token(&self, site: &Site) -> Result<Token, Refusal> {
        let (identity, cloud) = (&self.identity, &self.cloud);
        let first = identity.token(site, cloud, cloud.application).await?;
        let second = identity.management_token(site, cloud, &first).await?;
        let mut token = Token::from(first);
        if let Some(second) = second {
            token.validity = token
                .validity
                .map(|first| first.ending_first(second.validity));
            let header = "x-databricks-azure-sp-management-token";
            token.headers.push((header, second.secret));
        }
        if let Some(id) = &self.resource_id {
            let header = "x-databricks-azure-workspace-resource-id";
            token.headers.push((header, id.as_str().into()));
        }
        Ok(token)
    }

    /// Asks Azure Resource Manager for the workspace behind the resource id.
    pub(super) async fn find_host(&self, site: &Site) -> Result<Url, Refusal> {
        let manager = &self.cloud.endpoints.resource_manager;
        let token = self.identity.token(site, &self.cloud, manager).await?;
        let secret = token.secret.expose_secret();
        let id = self.resource_id.as_deref().unwrap_or_default();
        let url = format!(
            "{}/{}?api-version=2018-04-01",
            manager.trim_end_matches('/'),
            id.trim_start_matches('/')
        );
        let url = Url::parse(&url).map_err(|error| {
            Error::config("DATABRICKS_AZURE_RESOURCE_ID does not go into a URL").with_source(error)
        })?;
        let request = site.http.get(url).await?.bearer_auth(secret);
        let what = "Azure refused";
        let hint = "Check DATABRICKS_AZURE_RESOURCE_ID and the identity's privilege to read it, or set DATABRICKS_HOST";
        let resolve = async {
            let reply = site.ask(request, &[secret], what, hint).await?;
            let answer = reply.json()?;
            let name = answer["properties"]["workspaceUrl"].as_str();
            let url = name.and_then(|name| workspace_url(name, manager));
            url.ok_or_else(|| {
                let what = "`properties.workspaceUrl` is missing or no host name";
                reply.error(Kind::Platform, what)
            })
        };
        let resolved = resolve.await.map_err(|error: Error| {
            error.with_setting("cannot resolve the Azure Databricks workspace")
        });
        Ok(resolved?)
    }
}

/// Resource Manager names the host without a scheme. One on loopback (a stand-in) may name a whole URL.
fn workspace_url(name: &str, manager: &str) -> Option<Url> {
    let text = match name.contains("://") && manager.starts_with("http://") {
        true => name.to_owned(),
        false => format!("https://{name}"),
    };
    let url = Url::parse(&text).ok()?;
    (protects_secrets(&url) && url.path() == "/").then_some(url)
}
