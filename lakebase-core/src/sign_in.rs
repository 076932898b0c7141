//! How calls are authenticated at the workspace: Databricks' unified authentication.
//!
//! A file holds a strategy, or a family of them: their names, the settings that configure them, and
//! how they fetch a token. `choose` holds their order.

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

/// One way to authenticate, as Databricks documents it.
struct Strategy {
    /// What `auth_type` may force.
    name: &'static str,
    /// The attributes it uses. Errors name their sources.
    attributes: &'static [Attribute],
    /// What to do if the workspace rejects its tokens.
    advice: &'static str,
    configure: fn(&Settings) -> Configured,
}

type Configured = Result<Source, NotConfigured>;

/// Why a strategy cannot be used with the given settings.
enum NotConfigured {
    /// No setting asks for it.
    Unused,
    /// A setting asks for it, and this is missing.
    Incomplete(String),
    Invalid(Error),
}

impl From<Error> for NotConfigured {
    fn from(error: Error) -> Self {
        Self::Invalid(error)
    }
}

/// Where a configured strategy gets its tokens from.
enum Source {
    /// The scheme of the `Authorization` header, and the secret behind it.
    Fixed(&'static str, SecretString),
    ServicePrincipal(oauth::ServicePrincipal),
    Federation(oidc::Federation),
    Entra(azure::Entra),
    MetadataService(metadata_service::MetadataService),
    DatabricksCli(databricks_cli::DatabricksCli),
    Forwarded(forwarded::ForwardedToken),
}

/// Why there is no token.
#[derive(Debug)]
enum Refusal {
    /// The tool has no login, so another strategy may be used.
    Declined(String),
    Failed(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// A configured strategy. It holds no token: a `TokenCache` does.
struct Candidate {
    strategy: &'static Strategy,
    source: Source,
}

impl Candidate {
    async fn fetch(&self, site: &Site) -> Result<Token, Refusal> {
        Ok(match &self.source {
            Source::Fixed(scheme, secret) => Token::new(scheme, secret.expose_secret(), None),
            Source::ServicePrincipal(principal) => principal.token(site).await?.into(),
            Source::Federation(federation) => federation.token(site).await?.into(),
            Source::Entra(entra) => entra.token(site).await?,
            Source::MetadataService(service) => service.token(site).await?.into(),
            Source::DatabricksCli(cli) => cli.token(site).await?.into(),
            Source::Forwarded(token) => token.token(),
        })
    }

    async fn find_host(&self, site: &Site) -> Result<Url, Refusal> {
        match &self.source {
            Source::Entra(entra) => entra.find_host(site).await,
            _ => Err(Error::config("DATABRICKS_HOST is not set").into()),
        }
    }

    fn error(&self, refusal: Refusal) -> Error {
        let error = match refusal {
            Refusal::Failed(error) => error,
            Refusal::Declined(reason) => {
                Error::new(Kind::SignIn, reason).with_hint(self.strategy.advice)
            }
        };
        error.with_setting(self.strategy.name)
    }
}

/// How a configuration authenticates: by one strategy, or by the first login of a command-line tool
/// that works. The first one that was used is kept, so that the identity never changes.
pub(crate) struct SignIn {
    /// Never empty.
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

    /// With a user's token that a proxy forwards, and nothing else.
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

    /// What to do if the workspace rejects a token.
    pub(crate) fn advice(&self) -> &'static str {
        self.current().strategy.advice
    }

    /// The Postgres role of this identity, if the settings name it.
    pub(crate) fn postgres_role(&self) -> Option<&str> {
        match &self.current().source {
            Source::ServicePrincipal(principal) => Some(&principal.client_id),
            Source::Federation(federation) => federation.client_id.as_deref(),
            _ => None,
        }
    }

    /// Whether another token can be fetched in place of this rejected one.
    pub(crate) fn can_renew(&self, rejected: &Token) -> bool {
        match &self.current().source {
            Source::Fixed(..) => false,
            Source::Forwarded(newest) => !newest.is_in(rejected),
            _ => true,
        }
    }

    /// Fetches a token, at every call.
    async fn fetch(&self, site: &Site) -> Result<Token, Error> {
        self.first(site, |candidate| candidate.fetch(site)).await
    }

    /// Finds the workspace's URL where no setting names it.
    async fn find_host(&self, site: &Site) -> Result<Url, Error> {
        self.first(site, |candidate| candidate.find_host(site))
            .await
    }

    /// Asks the kept candidate, or each one until one does not decline. After a failure no other
    /// one is asked: it may be another identity.
    async fn first<'a, T, F>(
        &'a self,
        site: &Site,
        ask: impl Fn(&'a Candidate) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Refusal>>,
    {
        if self.kept.get().is_some() {
            let kept = self.current();
            return ask(kept).await.map_err(|refusal| kept.error(refusal));
        }
        let mut reasons = Vec::new();
        for (index, candidate) in self.candidates.iter().enumerate() {
            let Strategy { name, advice, .. } = candidate.strategy;
            match ask(candidate).await {
                Err(Refusal::Declined(reason)) => {
                    tracing::debug!(name: "lakebase.sign_in.declined", target: "lakebase::sign_in", strategy = name, reason, "declined");
                    reasons.push(format!("{name}: {reason}. {advice}"));
                }
                outcome => {
                    let _ = self.kept.set(index);
                    return outcome.map_err(|refusal| candidate.error(refusal));
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
