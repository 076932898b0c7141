//! The host of the workspace: its URL, its metadata and its token endpoint.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::RequestBuilder;
use serde_json::Value;
use url::Url;

use super::{Settings, SignIn};
use crate::error::Error;
use crate::error::Kind;
use crate::http::{Http, Reply, protects_secrets};
use crate::settings::attributes::Attribute::{
    AccountId, DiscoveryUrl, Host, TokenAudience, WorkspaceId,
};

/// Authentication continues without the host metadata after this time.
const METADATA_LIMIT: Duration = Duration::from_secs(5);
const OAUTH_DOCUMENT: &str = ".well-known/oauth-authorization-server";
/// Path at a workspace.
const DEFAULT_ENDPOINT: &str = "/oidc/v1/token";

pub(crate) struct Site {
    pub(crate) http: Http,
    settings: Settings,
    found_host: OnceLock<Url>,
    metadata: OnceLock<Metadata>,
    token_endpoint: OnceLock<Url>,
    /// The default token endpoint returned 404, so the endpoint is discovered.
    has_other_endpoint: AtomicBool,
}

/// The host metadata, `/.well-known/databricks-config`.
#[derive(Default)]
struct Metadata {
    oidc_endpoint: Option<String>,
    account_id: Option<String>,
    workspace_id: Option<String>,
    audience: Option<String>,
    /// Whether the host has metadata.
    exists: bool,
}

impl Site {
    pub(crate) fn new(http: Http, settings: Settings) -> Self {
        Self {
            http,
            settings,
            found_host: OnceLock::new(),
            metadata: OnceLock::new(),
            token_endpoint: OnceLock::new(),
            has_other_endpoint: AtomicBool::new(false),
        }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The URL of the workspace, configured or looked up.
    pub(crate) fn host(&self) -> Result<&Url, Error> {
        self.known_host()
            .ok_or_else(|| Error::config(self.settings.missing(Host)))
    }

    pub(crate) fn known_host(&self) -> Option<&Url> {
        self.settings.host.as_ref().or(self.found_host.get())
    }

    /// Looks up the host if it is not known.
    pub(super) async fn find_host(&self, sign_in: &SignIn) -> Result<(), Error> {
        if self.known_host().is_none() {
            let _ = self.found_host.set(sign_in.find_host(self).await?);
        }
        Ok(())
    }

    pub(crate) fn url(&self, path: &str) -> Result<Url, Error> {
        let host = self.host()?;
        host.join(path).map_err(|error| {
            Error::config(format!("cannot build a URL below {host}")).with_source(error)
        })
    }

    /// Sends a request. An HTTP error becomes the error `what` with this hint.
    pub(super) async fn send(
        &self,
        request: RequestBuilder,
        secrets: &[&str],
        what: &str,
        hint: &str,
    ) -> Result<Reply, Error> {
        let reply = self.http.send(request, secrets).await?;
        match reply.is_success() {
            true => Ok(reply),
            false => Err(reply.failure(what).with_hint(hint)),
        }
    }

    /// The id for the routing header: configured, or from the host metadata if they were read.
    pub(crate) fn workspace_id(&self) -> Option<String> {
        let found = || self.metadata.get()?.workspace_id.clone();
        self.settings.owned(WorkspaceId).or_else(found)
    }

    /// The host metadata. If they cannot be read, authentication continues, and the next one requests them again.
    async fn metadata(&self) -> Option<&Metadata> {
        if self.metadata.get().is_none() {
            match self.fetch_metadata().await {
                Ok(found) => _ = self.metadata.set(found),
                Err(error) => {
                    tracing::warn!(name: "lakebase.workspace.not_described", target: "lakebase::workspace", error = %error.chain(), "cannot read the host metadata");
                }
            }
        }
        self.metadata.get()
    }

    async fn fetch_metadata(&self) -> Result<Metadata, Error> {
        let url = self.url("/.well-known/databricks-config")?;
        let request = self.http.get(url).await?.timeout(METADATA_LIMIT);
        let reply = self.http.send(request, &[]).await?;
        if reply.status == 404 {
            return Ok(Metadata::default());
        }
        if !reply.is_success() {
            return Err(reply.failure("cannot read the host metadata"));
        }
        let answer = reply.json()?;
        let text = |name: &str| match answer.get(name)? {
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let audience = answer["token_federation_default_oidc_audiences"][0].as_str();
        Ok(Metadata {
            oidc_endpoint: text("oidc_endpoint"),
            account_id: text("account_id"),
            workspace_id: text("workspace_id"),
            audience: audience.map(str::to_owned),
            exists: true,
        })
    }

    fn account_id(&self, metadata: &Metadata) -> Option<String> {
        let found = || metadata.account_id.clone();
        self.settings.owned(AccountId).or_else(found)
    }

    /// The audience of identity tokens, unless it is the token endpoint.
    pub(super) async fn token_audience(&self) -> Option<String> {
        if let Some(audience) = self.settings.owned(TokenAudience) {
            return Some(audience);
        }
        let metadata = self.metadata().await?;
        match &metadata.audience {
            Some(audience) => Some(audience.clone()),
            // A host without a workspace id is the account's, and so is the default audience of its policies.
            None if metadata.exists && metadata.workspace_id.is_none() => self.account_id(metadata),
            None => None,
        }
    }

    /// The token endpoint. Databricks documents it for its own hosts. For others, it is in the OAuth document: the
    /// configured one, the one that the host metadata name, or the default one.
    pub(super) async fn token_endpoint(&self) -> Result<Url, Error> {
        if let Some(found) = self.token_endpoint.get() {
            return Ok(found.clone());
        }
        if let Some(configured) = self.settings.get(DiscoveryUrl) {
            let document = self.protected(&configured.value);
            let document = document.ok_or_else(|| configured.wrong("an https URL"))?;
            let found = self.endpoint_in(&self.fetch(document).await?)?;
            return Ok(self.token_endpoint.get_or_init(|| found).clone());
        }
        if is_databricks_own(self.host()?) && !self.has_other_endpoint.load(Ordering::Relaxed) {
            return self.url(DEFAULT_ENDPOINT);
        }
        let document = self.url(&format!("/oidc/{OAUTH_DOCUMENT}"))?;
        // Fetched together, because most hosts have the default document.
        let (metadata, reply) = tokio::join!(self.metadata(), self.fetch(document.clone()));
        let named = metadata.and_then(|metadata| self.named_document(metadata));
        let reply = match named {
            Some(named) if named != document => self.fetch(named).await,
            _ => reply,
        };
        let found = self.endpoint_in(&reply?)?;
        // Without metadata, the next authentication may find another document.
        if metadata.is_some() {
            let _ = self.token_endpoint.set(found.clone());
        }
        Ok(found)
    }

    /// After a 404 at the token endpoint: switches from the default endpoint to discovery. Returns whether that is a change.
    pub(super) fn discover_endpoint(&self) -> bool {
        let is_default = self.token_endpoint.get().is_none();
        is_default && !self.has_other_endpoint.swap(true, Ordering::Relaxed)
    }

    async fn fetch(&self, document: Url) -> Result<Reply, Error> {
        self.http.send(self.http.get(document).await?, &[]).await
    }

    /// The token endpoint in an OAuth document.
    fn endpoint_in(&self, reply: &Reply) -> Result<Url, Error> {
        let usual = self.url(DEFAULT_ENDPOINT)?;
        if reply.status == 404 {
            return Ok(usual);
        }
        if !reply.is_success() {
            return Err(reply.failure("the workspace's OAuth document cannot be read"));
        }
        let answer = reply.json()?;
        let Some(endpoint) = answer.get("token_endpoint").and_then(Value::as_str) else {
            return Ok(usual);
        };
        self.protected(endpoint).ok_or_else(|| {
            reply.error(
                Kind::Platform,
                "the workspace's OAuth document names a `token_endpoint` that is not an https URL",
            )
        })
    }

    /// The OAuth document that the host metadata name.
    fn named_document(&self, metadata: &Metadata) -> Option<Url> {
        const ACCOUNT: &str = "{account_id}";
        let mut endpoint = metadata.oidc_endpoint.clone()?;
        if endpoint.contains(ACCOUNT) {
            let Some(account) = self.account_id(metadata) else {
                tracing::warn!(
                    name: "lakebase.workspace.no_account_id",
                    target: "lakebase::workspace",
                    "account_id is required to resolve the OAuth document that the host names; using the workspace's instead"
                );
                return None;
            };
            endpoint = endpoint.replace(ACCOUNT, &account);
        }
        let endpoint = endpoint.trim_end_matches('/');
        self.protected(&format!("{endpoint}/{OAUTH_DOCUMENT}"))
    }

    /// Parses a URL for requests with secrets: https, or http to loopback if the workspace itself is a fake on loopback.
    fn protected(&self, text: &str) -> Option<Url> {
        let url = Url::parse(text).ok()?;
        let is_fake = self
            .known_host()
            .is_some_and(|host| host.scheme() == "http");
        (protects_secrets(&url) && (url.scheme() == "https" || is_fake)).then_some(url)
    }
}

/// Whether a host is one workspace on a domain of Databricks. Hosts that serve many workspaces have names of another form.
fn is_databricks_own(host: &Url) -> bool {
    let name = host.host_str().unwrap_or_default().to_ascii_lowercase();
    let (label, _) = name.split_once('.').unwrap_or_default();
    let is_below = |domains: &[&str]| domains.iter().any(|domain| name.ends_with(domain));
    let is_number = !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_digit());
    host.scheme() == "https"
        && (label.starts_with("dbc-")
            && is_below(&[".cloud.databricks.com", ".cloud.databricks.us"])
            || label.starts_with("adb-")
                && is_below(&[
                    ".azuredatabricks.net",
                    ".databricks.azure.us",
                    ".databricks.azure.cn",
                ])
            || is_number && is_below(&[".gcp.databricks.com"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_of_databricks_is_recognised_by_the_form_of_its_name() {
        for (host, expected) in [
            ("https://dbc-a1b2c3d4-e5f6.cloud.databricks.com", true),
            ("https://DBC-a1b2c3d4-e5f6.cloud.databricks.com", true),
            ("https://dbc-a1b2c3d4-e5f6.cloud.databricks.us", true),
            ("https://adb-123.4.azuredatabricks.net", true),
            ("https://adb-123.4.databricks.azure.cn", true),
            ("https://123.4.gcp.databricks.com", true),
            ("https://acme.cloud.databricks.com", false),
            ("https://acme.databricks.com", false),
            ("https://dbc-1.cloud.databricks.com.evil.example", false),
            ("https://dbc-1.example.com", false),
            ("http://127.0.0.1:8080", false),
        ] {
            let url = Url::parse(host).expect(host);
            assert_eq!(is_databricks_own(&url), expected, "{host}");
        }
    }
}
