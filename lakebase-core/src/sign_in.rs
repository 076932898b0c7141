//! How we sign in to the workspace: Databricks' unified authentication.
//!
//! One file per strategy. Each says whether it is configured, and is built only then; `choose` asks
//! them in their order.

pub(crate) mod access;
mod ambient;
mod azure;
mod azure_cli;
mod azure_client_secret;
mod azure_msi;
mod basic;
mod command;
mod databricks_cli;
mod env_oidc;
mod file_oidc;
mod github_oidc;
mod jwt;
mod metadata_service;
mod oauth;
mod oauth_m2m;
mod oidc;
mod pat;
mod settings;
mod site;
mod token;
pub(crate) mod token_cache;

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use url::Url;

pub use azure::AzureEndpoints;
pub(crate) use settings::Settings;
pub(crate) use site::Site;
pub(crate) use token::{Token, is_header_safe};

use crate::error::Error;
use crate::error::Kind;
use crate::settings::attributes::Attribute;
use crate::settings::setting::{Setting, quoted};

const DOCS: &str =
    "https://docs.databricks.com/en/dev-tools/auth.html#databricks-client-unified-authentication";

/// One configured way to sign in. Holds no token: those are cached by whoever asks.
pub(crate) trait SignIn: fmt::Debug + Send + Sync + 'static {
    /// The name Databricks documents for it.
    fn name(&self) -> &'static str;

    /// Fetches a token, every time.
    fn fetch<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<Token, Refusal>>;

    /// The attributes it is made of, to tell where they came from.
    fn made_of(&self) -> &'static [Attribute];

    /// The Postgres role that it stands for, where that can be told without asking.
    fn postgres_role(&self) -> Option<&str> {
        None
    }

    /// What to do if the workspace does not take its tokens.
    fn advice(&self) -> &'static str;

    /// Whether a refused token can be replaced by fetching another one.
    fn can_renew(&self) -> bool {
        true
    }

    /// The workspace's URL, where the sign-in can find it without being told.
    fn find_host<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<Url, Refusal>> {
        let _ = site;
        Box::pin(async { Err(Refusal::Failed(Error::config("DATABRICKS_HOST is not set"))) })
    }
}

/// Why there is no token.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// This sign-in is not in use here (nobody is logged in, say): another one may be.
    Declined(String),
    /// It is, but it failed.
    Failed(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl Refusal {
    /// As an error, once nobody else is asked.
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Failed(error) => error,
            Self::Declined(reason) => Error::new(Kind::SignIn, reason),
        }
    }
}

/// Why a strategy is not made of the given settings.
enum Not {
    /// Nothing asks for it.
    Meant,
    /// Some of it is there, and this is not.
    Complete(String),
    /// It is there, and wrong.
    Right(Error),
}

impl From<Error> for Not {
    fn from(error: Error) -> Self {
        Self::Right(error)
    }
}

type Configured = Result<Box<dyn SignIn>, Not>;
type Configure = fn(&Settings) -> Configured;

/// Explicit settings come before whatever the machine happens to offer, so that a server never runs
/// as a developer.
const EXPLICIT: &[(&str, Configure)] = &[
    ("pat", pat::configure),
    ("basic", basic::configure),
    ("oauth-m2m", oauth_m2m::configure),
    ("env-oidc", env_oidc::configure),
    ("file-oidc", file_oidc::configure),
    ("github-oidc", github_oidc::configure),
    ("azure-client-secret", azure_client_secret::configure),
    ("azure-msi", azure_msi::configure),
    ("metadata-service", metadata_service::configure),
];

/// Logins of the person at this machine. These may decline.
const AMBIENT: &[(&str, Configure)] = &[
    ("databricks-cli", databricks_cli::configure),
    ("azure-cli", azure_cli::configure),
];

/// May come before a strategy that has use for a client id alone.
const FEDERATED_BY_ID: &[&str] = &["oauth-m2m", "env-oidc", "file-oidc", "github-oidc"];

/// Known to official clients, and not to this crate.
const UNSUPPORTED: &[&str] = &[
    "azure-devops-oidc",
    "external-browser",
    "github-oidc-azure",
    "google-credentials",
    "google-id",
    "model-serving",
    "runtime",
    "runtime-oauth",
];

/// The strategy that the settings ask for.
///
/// Fails closed: one that is configured but incomplete or broken is an error, and nobody else is asked
/// instead. Only the logins of command-line tools, which nothing has asked for, may be passed over.
pub(crate) fn choose(settings: &Settings) -> Result<Arc<dyn SignIn>, Error> {
    if let Some(wanted) = settings.get(Attribute::AuthType) {
        return named(wanted, settings).map(Arc::from);
    }
    settings.check_conflicts()?;
    let mut incomplete = Vec::new();
    for (name, configure) in EXPLICIT {
        match configure(settings) {
            Ok(sign_in) => return Ok(Arc::from(sign_in)),
            Err(Not::Meant) => {}
            Err(Not::Complete(missing)) => {
                let hint = format!("{name} is incomplete: {missing}");
                // A client id alone may be for an identity token. Everything else ends the search.
                let may_go_on = settings.is_id_alone() && FEDERATED_BY_ID.contains(name);
                incomplete.push(hint);
                if !may_go_on {
                    break;
                }
            }
            Err(Not::Right(error)) => return Err(error.with_setting(name)),
        }
    }
    if !incomplete.is_empty() {
        let hint = incomplete.join("; ");
        return Err(settings.nothing_configured().with_hint(hint));
    }
    if settings.is_any_set(&[
        Attribute::GoogleServiceAccount,
        Attribute::GoogleCredentials,
    ]) {
        return Err(settings
            .nothing_configured()
            .with_hint("google-credentials and google-id are not supported by this crate"));
    }
    let mut candidates = Vec::new();
    let mut declined = Vec::new();
    for (name, configure) in AMBIENT {
        match configure(settings) {
            Ok(sign_in) => candidates.push(sign_in),
            Err(Not::Meant) => {}
            Err(Not::Complete(missing)) => declined.push(format!("{name}: {missing}")),
            Err(Not::Right(error)) => return Err(error.with_setting(name)),
        }
    }
    if candidates.is_empty() {
        declined.insert(0, "Set DATABRICKS_HOST, and DATABRICKS_CLIENT_ID and DATABRICKS_CLIENT_SECRET (service principal), or DATABRICKS_TOKEN, or log in with `databricks auth login`".to_owned());
        return Err(settings.nothing_configured().with_hint(declined.join(". ")));
    }
    let nothing = settings.nothing_configured();
    Ok(Arc::new(ambient::Ambient::new(candidates, nothing)))
}

/// The strategy that `auth_type` names, and no other.
fn named(wanted: &Setting, settings: &Settings) -> Result<Box<dyn SignIn>, Error> {
    let from = &wanted.from;
    let wanted = wanted.value.as_str();
    let all = || EXPLICIT.iter().chain(AMBIENT);
    let Some((name, configure)) = all().find(|(name, _)| *name == wanted) else {
        let known: Vec<&str> = all().map(|(name, _)| *name).collect();
        let what = if UNSUPPORTED.contains(&wanted) {
            "is not supported by this crate"
        } else {
            "not found"
        };
        let text = format!(
            "{from}: auth type {} {what}, please check {DOCS} for a list of supported auth types",
            quoted(wanted)
        );
        return Err(settings
            .explain(text)
            .with_hint(format!("Supported here are {}", known.join(", "))));
    };
    let unconfigured = |why: &str| {
        settings
            .explain(format!("{name} auth: not configured"))
            .with_hint(format!("{from} asks for {name}: {why}"))
    };
    configure(settings).map_err(|not| match not {
        Not::Meant => unconfigured("none of its settings is there"),
        Not::Complete(missing) => unconfigured(&missing),
        Not::Right(error) => error.with_setting(name),
    })
}
