//! The workspace as a sign-in needs it: its URL, what it says of itself, its token endpoint.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use url::Url;

use super::{Refusal, Settings, SignIn};
use crate::credential::remembered::Remembered;
use crate::error::Error;
use crate::error::Kind;
use crate::http::{Http, Reply};
use crate::settings::attributes::Attribute;
use crate::settings::host_name::is_loopback;

/// The host's description of itself is a convenience; nobody waits long for it.
const METADATA_LIMIT: Duration = Duration::from_secs(5);
const OAUTH_DOCUMENT: &str = ".well-known/oauth-authorization-server";
/// Where every workspace has it.
const USUAL_ENDPOINT: &str = "/oidc/v1/token";

pub(crate) struct Site {
    pub(crate) http: Http,
    settings: Settings,
    found_host: Remembered<Url>,
    metadata: Remembered<Metadata>,
    token_endpoint: Remembered<Url>,
    /// The usual token endpoint is not there, though the host is one of Databricks' own.
    is_unusual: AtomicBool,
}

/// `/.well-known/databricks-config`, as far as it matters here.
#[derive(Clone, Default)]
struct Metadata {
    oidc_endpoint: Option<String>,
    account_id: Option<String>,
    workspace_id: Option<String>,
    audience: Option<String>,
    /// There is such a document.
    exists: bool,
}

impl Site {
    pub(crate) fn new(http: Http, settings: Settings) -> Self {
        Self {
            http,
            settings,
            found_host: Remembered::default(),
            metadata: Remembered::default(),
            token_endpoint: Remembered::default(),
            is_unusual: AtomicBool::new(false),
        }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The workspace's URL, as configured or found.
    pub(crate) fn host(&self) -> Result<Url, Error> {
        self.known_host()
            .ok_or_else(|| Error::config(self.settings.missing(Attribute::Host)))
    }

    pub(crate) fn known_host(&self) -> Option<Url> {
        self.settings.host.clone().or_else(|| self.found_host.get())
    }

    /// The same, after asking the sign-in if nobody has told.
    pub(crate) async fn find_host(&self, sign_in: &dyn SignIn) -> Result<Url, Error> {
        if let Some(host) = &self.settings.host {
            return Ok(host.clone());
        }
        let find = async {
            let name = |error: Error| error.with_setting(sign_in.name());
            let found = sign_in.find_host(self).await;
            found.map_err(Refusal::into_error).map_err(name)
        };
        self.found_host.get_or_find(find).await
    }

    pub(crate) fn url(&self, path: &str) -> Result<Url, Error> {
        let host = self.host()?;
        host.join(path).map_err(|error| {
            Error::config(format!("cannot build a URL below {host}")).with_source(error)
        })
    }

    /// The id that goes into the routing header: configured, or told by the host if it was asked.
    pub(crate) fn workspace_id(&self) -> Option<String> {
        let told = || self.metadata.get()?.workspace_id;
        self.settings.owned(Attribute::WorkspaceId).or_else(told)
    }

    /// Asked once; a failure is no more than a pity, and asked again at the next sign-in.
    async fn metadata(&self) -> Option<Metadata> {
        let found = self.metadata.get_or_find(self.ask_metadata()).await;
        if let Err(error) = &found {
            tracing::warn!(error = %error.chain(), "the workspace does not describe itself");
        }
        found.ok()
    }

    async fn ask_metadata(&self) -> Result<Metadata, Error> {
        let url = self.url("/.well-known/databricks-config")?;
        let request = self.http.get(url).await?.timeout(METADATA_LIMIT);
        let reply = self.http.send(request, &[]).await?;
        if reply.status == 404 {
            return Ok(Metadata::default());
        }
        if !reply.is_success() {
            return Err(reply.failure("its description cannot be read"));
        }
        let answer = reply.json()?;
        let text = |name: &str| match answer.get(name) {
            Some(Value::String(text)) if !text.is_empty() => Some(text.clone()),
            Some(Value::Number(number)) => Some(number.to_string()),
            _ => None,
        };
        Ok(Metadata {
            oidc_endpoint: text("oidc_endpoint"),
            account_id: text("account_id"),
            workspace_id: text("workspace_id"),
            audience: answer
                .pointer("/token_federation_default_oidc_audiences/0")
                .and_then(Value::as_str)
                .map(str::to_owned),
            exists: true,
        })
    }

    /// Whom an identity token must be for, unless it is the token endpoint.
    pub(super) async fn token_audience(&self) -> Option<String> {
        if let Some(audience) = self.settings.owned(Attribute::TokenAudience) {
            return Some(audience);
        }
        let metadata = self.metadata().await?;
        if metadata.audience.is_some() {
            return metadata.audience;
        }
        // A host of no workspace in particular: policies there default to the account.
        if !metadata.exists || metadata.workspace_id.is_some() {
            return None;
        }
        self.settings
            .owned(Attribute::AccountId)
            .or(metadata.account_id)
    }

    /// Documented for Databricks' own hosts; else from the OAuth document: the configured one, the one
    /// that the host names, or the usual one.
    pub(super) async fn token_endpoint(&self) -> Result<Url, Error> {
        if let Some(found) = self.token_endpoint.get() {
            return Ok(found);
        }
        if let Some(configured) = self.settings.get(Attribute::DiscoveryUrl) {
            let document = self.protected(&configured.value);
            let document = document.ok_or_else(|| configured.wrong("an https URL"))?;
            let found = self.endpoint_in(&self.fetch(document).await?)?;
            return Ok(self.token_endpoint.keep(found));
        }
        let usual = self.url(USUAL_ENDPOINT)?;
        if is_databricks_own(&self.host()?) && !self.is_unusual.load(Ordering::Relaxed) {
            return Ok(usual);
        }
        let document = self.url(&format!("/oidc/{OAUTH_DOCUMENT}"))?;
        // The usual document is the right one for most hosts: both are asked together.
        let (metadata, reply) = tokio::join!(self.metadata(), self.fetch(document.clone()));
        let named = metadata
            .as_ref()
            .and_then(|metadata| self.named_document(metadata));
        let reply = match named {
            Some(named) if named != document => self.fetch(named).await,
            _ => reply,
        };
        let found = self.endpoint_in(&reply?)?;
        // A host that could not describe itself may name another document next time.
        Ok(match metadata {
            Some(_) => self.token_endpoint.keep(found),
            None => found,
        })
    }

    /// After a 404 at the documented endpoint: whether another one may be discovered.
    pub(super) fn forget_assumed_endpoint(&self) -> bool {
        let is_assumed = self.token_endpoint.get().is_none();
        is_assumed && !self.is_unusual.swap(true, Ordering::Relaxed)
    }

    async fn fetch(&self, document: Url) -> Result<Reply, Error> {
        self.http.send(self.http.get(document).await?, &[]).await
    }

    /// What an OAuth document names.
    fn endpoint_in(&self, reply: &Reply) -> Result<Url, Error> {
        let usual = self.url(USUAL_ENDPOINT)?;
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

    /// The OAuth document that the host names.
    fn named_document(&self, metadata: &Metadata) -> Option<Url> {
        let endpoint = metadata.oidc_endpoint.as_ref()?;
        let account = self
            .settings
            .owned(Attribute::AccountId)
            .or_else(|| metadata.account_id.clone());
        let endpoint = match (endpoint.contains("{account_id}"), account) {
            (false, _) => endpoint.clone(),
            (true, Some(account)) => endpoint.replace("{account_id}", &account),
            (true, None) => {
                tracing::warn!(
                    "account_id is required to resolve the OAuth document that the host names; using the workspace's instead"
                );
                return None;
            }
        };
        self.protected(&format!(
            "{}/{OAUTH_DOCUMENT}",
            endpoint.trim_end_matches('/')
        ))
    }

    /// A URL that may be sent secrets.
    fn protected(&self, text: &str) -> Option<Url> {
        Url::parse(text)
            .ok()
            .filter(|url| self.may_have_secrets(url))
    }

    /// https; plain http only where the workspace itself is a stand-in on loopback.
    fn may_have_secrets(&self, url: &Url) -> bool {
        let is_stand_in = self
            .known_host()
            .is_some_and(|host| host.scheme() == "http");
        match url.scheme() {
            "https" => true,
            "http" => is_stand_in && url.host_str().is_some_and(is_loopback),
            _ => false,
        }
    }
}

/// Workspaces on Databricks' own domains, by the shape of their names. Hosts that serve many workspaces
/// have other names.
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
    fn databricks_own_workspaces_are_told_by_the_shape_of_their_names() {
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
