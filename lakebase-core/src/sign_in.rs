//! Authentication at the workspace, with the strategies of the official Databricks clients.
//!
//! Each file has one strategy or a family of strategies: names, attributes, configuration and the fetch of a token.
//! `choose` has their order.

pub(crate) mod access;
mod azure;
mod azure_cli;
mod azure_client_secret;
mod azure_cloud;
mod azure_msi;
mod choose;
mod command;
mod databricks_cli;
mod fixed;
pub(crate) mod forwarded;
mod jwt;
mod metadata_service;
mod oauth;
mod oidc;
mod settings;
mod site;
mod token;
pub(crate) mod token_cache;

use std::fmt;
use std::sync::OnceLock;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

pub(crate) use choose::choose;
pub(crate) use site::Site;
pub(crate) use token::{Token, is_header_safe};

use crate::error::Error;
use crate::error::Kind;
use crate::settings::attributes::Attribute;
use crate::settings::resolved::Settings;

/// A strategy to authenticate.
struct Strategy {
    /// Its value of `auth_type`.
    name: &'static str,
    /// The attributes that it uses. Errors name their sources.
    attributes: &'static [Attribute],
    /// Hint of the error if the workspace rejects its tokens.
    advice: &'static str,
    configure: fn(&Settings) -> Configured,
}

type Configured = Result<Source, NotConfigured>;

/// Why the settings do not configure a strategy.
enum NotConfigured {
    /// None of its settings is set.
    Unused,
    /// This is missing.
    Incomplete(String),
    Invalid(Error),
}

impl From<Error> for NotConfigured {
    fn from(error: Error) -> Self {
        Self::Invalid(error)
    }
}

/// Where a configured strategy fetches its tokens.
enum Source {
    /// Scheme and secret of the `Authorization` header.
    Fixed(&'static str, SecretString),
    ServicePrincipal(oauth::ServicePrincipal),
    Federation(oidc::Federation),
    AzureClientSecret(azure::Entra<azure_client_secret::EntraPrincipal>),
    AzureMsi(azure::Entra<azure_msi::ManagedIdentity>),
    AzureCli(azure::Entra<azure_cli::AzureCli>),
    MetadataService(metadata_service::MetadataService),
    DatabricksCli(databricks_cli::DatabricksCli),
    Forwarded(forwarded::ForwardedToken),
}

/// Why a strategy has no token.
#[derive(Debug)]
enum Failure {
    /// The tool is not logged in, so another strategy may be used.
    Declined(String),
    Failed(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// A configured strategy. Its tokens are in a `TokenCache`.
struct Candidate {
    strategy: &'static Strategy,
    source: Source,
}

impl Candidate {
    async fn fetch(&self, site: &Site) -> Result<Token, Failure> {
        Ok(match &self.source {
            Source::Fixed(scheme, secret) => Token::new(scheme, secret.expose_secret(), None),
            Source::ServicePrincipal(principal) => principal.token(site).await?.into(),
            Source::Federation(federation) => federation.token(site).await?.into(),
            Source::AzureClientSecret(entra) => entra.token(site).await?,
            Source::AzureMsi(entra) => entra.token(site).await?,
            Source::AzureCli(entra) => entra.token(site).await?,
            Source::MetadataService(service) => service.token(site).await?.into(),
            Source::DatabricksCli(cli) => cli.token(site).await?.into(),
            Source::Forwarded(token) => token.token(),
        })
    }

    async fn find_host(&self, site: &Site) -> Result<Url, Failure> {
        match &self.source {
            Source::AzureClientSecret(entra) => entra.find_host(site).await,
            Source::AzureMsi(entra) => entra.find_host(site).await,
            Source::AzureCli(entra) => entra.find_host(site).await,
            _ => Err(Error::config("DATABRICKS_HOST is not set").into()),
        }
    }

    fn error(&self, failure: Failure) -> Error {
        let error = match failure {
            Failure::Failed(error) => error,
            Failure::Declined(reason) => {
                Error::new(Kind::SignIn, reason).with_hint(self.strategy.advice)
            }
        };
        error.with_setting(self.strategy.name)
    }
}

/// The authentication of a configuration: one strategy, or the first command-line tool with a login. The first strategy
/// that was used is kept, so that the identity never changes.
pub(crate) struct SignIn {
    /// At least one.
    candidates: Vec<Candidate>,
    kept: OnceLock<usize>,
}

impl SignIn {
    fn only(candidate: Candidate) -> Self {
        Self {
            candidates: vec![candidate],
            kept: OnceLock::from(0),
        }
    }

    /// Authenticates with a user's forwarded token.
    pub(crate) fn on_behalf_of(token: forwarded::ForwardedToken) -> Self {
        Self::only(Candidate {
            strategy: &forwarded::STRATEGY,
            source: Source::Forwarded(token),
        })
    }

    fn first_of(candidates: Vec<Candidate>) -> Self {
        Self {
            candidates,
            kept: OnceLock::new(),
        }
    }

    fn current(&self) -> &Candidate {
        &self.candidates[self.kept.get().copied().unwrap_or_default()]
    }

    /// The name of the strategy.
    pub(crate) fn name(&self) -> &'static str {
        self.current().strategy.name
    }

    /// The attributes that the strategy uses.
    pub(crate) fn attributes(&self) -> &'static [Attribute] {
        self.current().strategy.attributes
    }

    /// Hint of the error if the workspace rejects a token.
    pub(crate) fn advice(&self) -> &'static str {
        self.current().strategy.advice
    }

    /// The Postgres role of the identity, if the settings name it.
    pub(crate) fn postgres_role(&self) -> Option<&str> {
        match &self.current().source {
            Source::ServicePrincipal(principal) => Some(&principal.client_id),
            Source::Federation(federation) => federation.client_id.as_deref(),
            _ => None,
        }
    }

    /// Whether a fetch can return another token than this rejected one.
    pub(crate) fn can_renew(&self, rejected: &Token) -> bool {
        match &self.current().source {
            Source::Fixed(..) => false,
            Source::Forwarded(newest) => !newest.is_in(rejected),
            _ => true,
        }
    }

    /// Fetches a token. Does not cache.
    async fn fetch(&self, site: &Site) -> Result<Token, Error> {
        self.first(site, |candidate| candidate.fetch(site)).await
    }

    /// Looks up the URL of the workspace if it is not configured.
    async fn find_host(&self, site: &Site) -> Result<Url, Error> {
        self.first(site, |candidate| candidate.find_host(site))
            .await
    }

    /// Runs `request` for the kept candidate, or for each candidate until one does not decline. After an error, no other
    /// candidate is used: it may be another identity.
    async fn first<'a, T, F>(
        &'a self,
        site: &Site,
        request: impl Fn(&'a Candidate) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        if self.kept.get().is_some() {
            let kept = self.current();
            return request(kept).await.map_err(|failure| kept.error(failure));
        }
        let mut reasons = Vec::new();
        for (index, candidate) in self.candidates.iter().enumerate() {
            let Strategy { name, advice, .. } = candidate.strategy;
            match request(candidate).await {
                Err(Failure::Declined(reason)) => {
                    tracing::debug!(name: "lakebase.sign_in.declined", target: "lakebase::sign_in", strategy = name, reason, "declined");
                    reasons.push(format!("{name}: {reason}. {advice}"));
                }
                outcome => {
                    let _ = self.kept.set(index);
                    return outcome.map_err(|failure| candidate.error(failure));
                }
            }
        }
        let nothing = site.settings().nothing_configured();
        Err(nothing
            .with_hint(reasons.join(". "))
            .with_setting(self.name()))
    }
}

impl fmt::Debug for SignIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.postgres_role() {
            Some(id) => write!(f, "{} as {id}", self.name()),
            None => f.write_str(self.name()),
        }
    }
}
