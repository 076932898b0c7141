//! What the Azure strategies share: clouds, the pair of tokens that a call needs, and the look-up of a
//! workspace by its resource id.

use std::fmt;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;

use super::token::{Token, is_header_safe};
use super::{Refusal, Settings, SignIn, Site};
use crate::credential::refresh::Validity;
use crate::error::Error;
use crate::error::Kind;
use crate::http::protects_secrets;
use crate::settings::attributes::Attribute;

/// Addresses of a Microsoft cloud, for other than the known ones, or for stand-ins in tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AzureEndpoints {
    /// Where tokens of Entra ID are issued, for example `https://login.microsoftonline.com/`.
    pub login: String,
    /// Azure Resource Manager, for example `https://management.azure.com/`.
    pub resource_manager: String,
    /// The service-management API, for example `https://management.core.windows.net/`.
    pub service_management: String,
    /// The instance metadata service, `http://169.254.169.254/`.
    pub instance_metadata: String,
}

impl AzureEndpoints {
    fn known(login: &str, resource_manager: &str, service_management: &str) -> Self {
        Self {
            login: login.to_owned(),
            resource_manager: resource_manager.to_owned(),
            service_management: service_management.to_owned(),
            instance_metadata: "http://169.254.169.254/".to_owned(),
        }
    }

    fn public() -> Self {
        Self::known(
            "https://login.microsoftonline.com/",
            "https://management.azure.com/",
            "https://management.core.windows.net/",
        )
    }

    fn us_government() -> Self {
        Self::known(
            "https://login.microsoftonline.us/",
            "https://management.usgovcloudapi.net/",
            "https://management.core.usgovcloudapi.net/",
        )
    }

    fn china() -> Self {
        Self::known(
            "https://login.chinacloudapi.cn/",
            "https://management.chinacloudapi.cn/",
            "https://management.core.chinacloudapi.cn/",
        )
    }
}

/// The cloud that a workspace is in, and its application there.
#[derive(Clone, Debug)]
pub(super) struct Cloud {
    pub(super) endpoints: AzureEndpoints,
    /// The Entra application of Azure Databricks: the audience of tokens for it.
    pub(super) application: &'static str,
}

/// What the name of a workspace tells.
struct Suffix {
    name: &'static str,
    application: &'static str,
    endpoints: fn() -> AzureEndpoints,
}

impl Suffix {
    const fn new(
        name: &'static str,
        application: &'static str,
        endpoints: fn() -> AzureEndpoints,
    ) -> Self {
        Self {
            name,
            application,
            endpoints,
        }
    }
}

/// The first that fits counts.
const SUFFIXES: &[Suffix] = &[
    Suffix::new(
        ".dev.azuredatabricks.net",
        "62a912ac-b58e-4c1d-89ea-b2dbfc7358fc",
        AzureEndpoints::public,
    ),
    Suffix::new(
        ".staging.azuredatabricks.net",
        "4a67d088-db5c-48f1-9ff2-0aace800ae68",
        AzureEndpoints::public,
    ),
    Suffix::new(".azuredatabricks.net", APPLICATION, AzureEndpoints::public),
    Suffix::new(
        ".databricks.azure.us",
        APPLICATION,
        AzureEndpoints::us_government,
    ),
    Suffix::new(".databricks.azure.cn", APPLICATION, AzureEndpoints::china),
];
const APPLICATION: &str = "2ff814a6-3304-4ab8-85cb-cd0e6f879c1d";

impl Settings {
    /// Whether the workspace is on Azure: by its resource id, by what was said, or by its name.
    pub(super) fn is_azure(&self) -> bool {
        if self.attributes.is_set(Attribute::AzureWorkspaceResourceId) {
            return true;
        }
        match self.value(Attribute::Cloud).map(str::to_ascii_uppercase) {
            Some(cloud) if matches!(cloud.as_str(), "AWS" | "AZURE" | "GCP") => cloud == "AZURE",
            _ => self.azure_suffix().is_some(),
        }
    }

    fn azure_suffix(&self) -> Option<&'static Suffix> {
        let name = self.host.as_ref()?.host_str()?;
        SUFFIXES.iter().find(|suffix| name.ends_with(suffix.name))
    }

    pub(super) fn azure_cloud(&self) -> Result<Cloud, Error> {
        let (application, endpoints) = match self.azure_suffix() {
            Some(suffix) => (suffix.application, (suffix.endpoints)()),
            None => (APPLICATION, self.azure_environment()?),
        };
        Ok(Cloud {
            application,
            endpoints: match &self.azure_endpoints {
                Some(other) => checked(other)?,
                None => endpoints,
            },
        })
    }

    /// By name, where no host tells.
    fn azure_environment(&self) -> Result<AzureEndpoints, Error> {
        let Some(name) = self.get(Attribute::AzureEnvironment) else {
            return Ok(AzureEndpoints::public());
        };
        match name.value.to_ascii_lowercase().as_str() {
            "public" | "azurepubliccloud" => Ok(AzureEndpoints::public()),
            "usgovernment" | "azureusgovernment" => Ok(AzureEndpoints::us_government()),
            "china" | "azurechinacloud" => Ok(AzureEndpoints::china()),
            _ => Err(name.wrong("an Azure cloud: public, usgovernment or china")),
        }
    }
}

fn checked(endpoints: &AzureEndpoints) -> Result<AzureEndpoints, Error> {
    let secret = [
        &endpoints.login,
        &endpoints.resource_manager,
        &endpoints.service_management,
    ];
    for address in secret {
        if !Url::parse(address).is_ok_and(|url| protects_secrets(&url)) {
            return Err(Error::config(format!(
                "azure_endpoints: {address:?} is not an https URL"
            )));
        }
    }
    Ok(endpoints.clone())
}

/// A token of Entra ID.
pub(super) struct EntraToken {
    pub(super) kind: String,
    pub(super) secret: SecretString,
    pub(super) validity: Validity,
}

/// Who hands out tokens of Entra ID, by resource.
pub(super) trait EntraTokens: fmt::Debug + Send + Sync + 'static {
    fn name(&self) -> &'static str;
    fn token<'a>(
        &'a self,
        site: &'a Site,
        resource: &'a str,
    ) -> BoxFuture<'a, Result<EntraToken, Refusal>>;
    fn made_of(&self) -> &'static [Attribute];
    fn advice(&self) -> &'static str;

    /// The token that lets Azure's own rights count in the workspace. People need none.
    fn management_token<'a>(
        &'a self,
        site: &'a Site,
        resource: &'a str,
        _first: &'a EntraToken,
    ) -> BoxFuture<'a, Result<Option<EntraToken>, Refusal>> {
        async move { Ok(Some(self.token(site, resource).await?)) }.boxed()
    }
}

/// A sign-in by tokens of Entra ID.
#[derive(Debug)]
pub(super) struct Azure<T> {
    pub(super) tokens: T,
    pub(super) cloud: Cloud,
    pub(super) resource_id: Option<String>,
}

impl<T: EntraTokens> SignIn for Azure<T> {
    fn name(&self) -> &'static str {
        self.tokens.name()
    }

    fn fetch<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<Token, Refusal>> {
        async {
            let first = self.tokens.token(site, self.cloud.application).await?;
            let management = &self.cloud.endpoints.service_management;
            let second = self
                .tokens
                .management_token(site, management, &first)
                .await?;
            let validity = match &second {
                Some(second) => first.validity.ending_first(second.validity),
                None => first.validity,
            };
            let mut token = Token::new(&first.kind, first.secret.expose_secret(), Some(validity));
            if let Some(second) = second {
                token = token.with_header("x-databricks-azure-sp-management-token", second.secret);
            }
            if let Some(id) = &self.resource_id {
                token = token.with_header("x-databricks-azure-workspace-resource-id", id.as_str());
            }
            Ok(token)
        }
        .boxed()
    }

    fn made_of(&self) -> &'static [Attribute] {
        self.tokens.made_of()
    }

    fn advice(&self) -> &'static str {
        self.tokens.advice()
    }

    /// Azure Resource Manager knows the workspace behind a resource id.
    fn find_host<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<Url, Refusal>> {
        async {
            let manager = &self.cloud.endpoints.resource_manager;
            let id = self.resource_id.as_deref().unwrap_or_default();
            let token = self.tokens.token(site, manager).await?;
            let secret = token.secret.expose_secret();
            let unresolved = |error: Error| error.with_setting("cannot resolve the Azure Databricks workspace");
            let url = format!("{}/{}?api-version=2018-04-01", manager.trim_end_matches('/'), id.trim_start_matches('/'));
            let url = Url::parse(&url).map_err(|error| {
                Error::config("DATABRICKS_AZURE_RESOURCE_ID does not go into a URL").with_source(error)
            })?;
            let request = site.http.get(url).await?.bearer_auth(secret);
            let reply = site.http.send(request, &[secret]).await.map_err(unresolved)?;
            if !reply.is_success() {
                return Err(unresolved(reply.failure("Azure refused"))
                    .with_hint("Check DATABRICKS_AZURE_RESOURCE_ID and the identity's right to read it, or set DATABRICKS_HOST")
                    .into());
            }
            let answer = reply.json().map_err(unresolved)?;
            let name = answer.pointer("/properties/workspaceUrl").and_then(Value::as_str);
            let url = name.and_then(|name| workspace_url(name, manager));
            Ok(url.ok_or_else(|| {
                unresolved(reply.error(Kind::Platform, "`properties.workspaceUrl` is missing or no host name"))
            })?)
        }
        .boxed()
    }
}

/// Resource Manager names the host without a scheme. One on loopback (a stand-in) may name a whole URL.
fn workspace_url(name: &str, manager: &str) -> Option<Url> {
    let plain_manager = manager.starts_with("http://");
    let text = if name.contains("://") && plain_manager {
        name.to_owned()
    } else {
        format!("https://{name}")
    };
    let url = Url::parse(&text).ok()?;
    (protects_secrets(&url) && url.path() == "/").then_some(url)
}

/// A reply of Entra ID or of the instance metadata service.
pub(super) fn read(reply: &crate::http::Reply) -> Result<EntraToken, Error> {
    use super::oauth;

    let answer = reply.json()?;
    let (secret, kind) = oauth::secret(reply, &answer)?;
    let validity = match (answer.get("expires_on"), answer.get("expires_in")) {
        (Some(at), _) => {
            let at = oauth::number(Some(at))
                .and_then(epoch)
                .ok_or_else(|| oauth::unusable(reply, "expires_on", "is not a time"))?;
            Validity::measure(at, reply.date, reply.sent, reply.received)
                .ok_or_else(|| oauth::unusable(reply, "expires_on", "has passed already"))?
        }
        (None, seconds) => oauth::number(seconds)
            .filter(|seconds| *seconds > 0.0)
            .and_then(|seconds| std::time::Duration::try_from_secs_f64(seconds).ok())
            .map(|lifetime| Validity::starting(reply.sent, lifetime))
            .ok_or_else(|| oauth::unusable(reply, "expires_in", "is not a number of seconds"))?,
    };
    Ok(EntraToken {
        kind: kind.to_owned(),
        secret: SecretString::from(secret),
        validity,
    })
}

/// Seconds since 1970.
pub(super) fn epoch(seconds: f64) -> Option<std::time::SystemTime> {
    let since = std::time::Duration::try_from_secs_f64(seconds).ok()?;
    std::time::SystemTime::UNIX_EPOCH.checked_add(since)
}

/// What goes into a header as it is.
pub(super) fn resource_id(settings: &Settings) -> Result<Option<String>, Error> {
    match settings.get(Attribute::AzureWorkspaceResourceId) {
        None => Ok(None),
        Some(id) if is_header_safe(&id.value) => Ok(Some(id.value.clone())),
        Some(id) => Err(id.wrong("a resource id such as /subscriptions/../workspaces/..")),
    }
}

/// On Azure, and known to be.
pub(super) fn require_azure(settings: &Settings) -> Result<(), super::Not> {
    match settings.get(Attribute::Host) {
        Some(host) if !settings.is_azure() => Err(host
            .wrong("known to be a workspace on Azure")
            .with_hint("Set DATABRICKS_AZURE_RESOURCE_ID to its resource id, or DATABRICKS_CLOUD to AZURE, if it is one")
            .into()),
        _ => Ok(()),
    }
}

/// Either names the workspace.
pub(super) fn require_workspace(settings: &Settings) -> Result<(), super::Not> {
    if settings
        .attributes
        .is_set(Attribute::AzureWorkspaceResourceId)
    {
        return Ok(());
    }
    settings.required_host().map(drop)
}
