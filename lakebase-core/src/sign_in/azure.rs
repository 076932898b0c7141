//! Shared parts of the Azure strategies: the two tokens of a request, and the look-up of a workspace by its resource id.

use secrecy::ExposeSecret;
use url::Url;

use super::azure_cloud::{Cloud, is_azure};
use super::token::{AccessToken, Token, is_header_safe};
use super::{Failure, NotConfigured, Settings, Site, jwt};
use crate::error::Error;
use crate::error::Kind;
use crate::http::protects_secrets;
use crate::settings::attributes::Attribute::{AzureWorkspaceResourceId, Host};

/// Authenticates with tokens of Entra ID.
pub(super) struct Entra<I> {
    identity: I,
    cloud: Cloud,
    resource_id: Option<String>,
}

/// The identity that the tokens are for.
pub(super) trait Identity {
    /// Whether it may be a person, or lack privileges in Azure.
    const IS_CLI: bool = false;

    /// Fetches a token for a resource.
    async fn token(
        &self,
        site: &Site,
        cloud: &Cloud,
        resource: &str,
    ) -> Result<AccessToken, Failure>;
}

/// Whether a token is for a person.
fn is_person(token: &AccessToken) -> bool {
    jwt::claims(token.secret.expose_secret()).is_some_and(|claims| claims.get("upn").is_some())
}

/// Rejects a workspace that is not known to be on Azure: others must not get tokens of Entra ID.
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

impl<I: Identity> Entra<I> {
    pub(super) fn new(identity: I, settings: &Settings) -> Result<Self, NotConfigured> {
        let resource_id = settings.get(AzureWorkspaceResourceId);
        // A header contains it.
        if let Some(id) = resource_id.filter(|id| !is_header_safe(&id.value)) {
            let expected = "a resource id such as /subscriptions/../workspaces/..";
            return Err(id.wrong(expected).into());
        }
        Ok(Self {
            identity,
            resource_id: resource_id.map(|id| id.value.clone()),
            cloud: Cloud::of(settings)?,
        })
    }

    pub(super) async fn token(&self, site: &Site) -> Result<Token, Failure> {
        let (identity, cloud) = (&self.identity, &self.cloud);
        let first = identity.token(site, cloud, cloud.application).await?;
        let second = self.management_token(site, &first).await?;
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

    /// Fetches the token that makes Azure's own privileges count in the workspace. A person has none, and an identity of
    /// the Azure CLI may do without.
    async fn management_token(
        &self,
        site: &Site,
        first: &AccessToken,
    ) -> Result<Option<AccessToken>, Failure> {
        if I::IS_CLI && is_person(first) {
            return Ok(None);
        }
        let resource = &self.cloud.endpoints.service_management;
        match self.identity.token(site, &self.cloud, resource).await {
            Err(failure) if I::IS_CLI => {
                tracing::debug!(name: "lakebase.sign_in.no_management_token", target: "lakebase::sign_in", ?failure, "no service-management token");
                Ok(None)
            }
            token => token.map(Some),
        }
    }

    /// Looks up the workspace of the resource id in Azure Resource Manager.
    pub(super) async fn find_host(&self, site: &Site) -> Result<Url, Failure> {
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
            Error::config("DATABRICKS_AZURE_RESOURCE_ID cannot be part of a URL").with_source(error)
        })?;
        let request = site.http.get(url).await?.bearer_auth(secret);
        let what = "Azure rejected the request";
        let hint = "Check DATABRICKS_AZURE_RESOURCE_ID and the identity's privilege to read it, or set DATABRICKS_HOST";
        let resolve = async {
            let reply = site.send(request, &[secret], what, hint).await?;
            let answer = reply.json()?;
            let name = answer["properties"]["workspaceUrl"].as_str();
            let url = name.and_then(|name| workspace_url(name, manager));
            url.ok_or_else(|| {
                let what = "`properties.workspaceUrl` is missing or not a host name";
                reply.error(Kind::Platform, what)
            })
        };
        let resolved = resolve.await.map_err(|error: Error| {
            error.with_setting("cannot resolve the Azure Databricks workspace")
        });
        Ok(resolved?)
    }
}

/// Resource Manager returns the host without a scheme. A fake on loopback may return a URL.
fn workspace_url(name: &str, manager: &str) -> Option<Url> {
    let text = match name.contains("://") && manager.starts_with("http://") {
        true => name.to_owned(),
        false => format!("https://{name}"),
    };
    let url = Url::parse(&text).ok()?;
    (protects_secrets(&url) && url.path() == "/").then_some(url)
}
