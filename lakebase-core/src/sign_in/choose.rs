//! The choice of the strategy.

use super::settings::DOCS;
use super::{
    Candidate, NotConfigured, Settings, SignIn, Strategy, azure_cli, azure_client_secret,
    azure_msi, databricks_cli, fixed, metadata_service, oauth, oidc,
};
use crate::error::Error;
use crate::settings::attributes::Attribute::{AuthType, GoogleCredentials, GoogleServiceAccount};
use crate::settings::setting::{Setting, quoted};

/// Strategies with settings, in their order. They come before command-line tools, so that a server never authenticates
/// as a developer.
const EXPLICIT: &[&Strategy] = &[
    &fixed::PAT,
    &fixed::BASIC,
    &oauth::M2M,
    &oidc::ENV,
    &oidc::FILE,
    &oidc::GITHUB,
    &azure_client_secret::STRATEGY,
    &azure_msi::STRATEGY,
    &metadata_service::STRATEGY,
];

/// Logins of this machine's user. Only these may decline.
const COMMAND_LINE_TOOLS: &[&Strategy] = &[&databricks_cli::STRATEGY, &azure_cli::STRATEGY];

/// A client id without a secret may configure any of these.
const USE_AN_ID_ALONE: &[&str] = &["oauth-m2m", "env-oidc", "file-oidc", "github-oidc"];

/// Strategies of the official clients that this crate does not support.
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

impl Strategy {
    fn candidate(&'static self, settings: &Settings) -> Result<Candidate, NotConfigured> {
        match (self.configure)(settings) {
            Ok(source) => Ok(Candidate {
                strategy: self,
                source,
            }),
            Err(NotConfigured::Invalid(error)) => Err(error.with_setting(self.name).into()),
            Err(other) => Err(other),
        }
    }
}

/// The configured strategy. An incomplete or invalid strategy is an error, and no other one is used instead. Only
/// command-line tools without a login are skipped.
pub(crate) fn choose(settings: &Settings) -> Result<SignIn, Error> {
    if let Some(auth_type) = settings.get(AuthType) {
        return forced(auth_type, settings);
    }
    settings.check_conflicts()?;
    let mut incomplete = Vec::new();
    for strategy in EXPLICIT {
        match strategy.candidate(settings) {
            Ok(candidate) => return Ok(SignIn::only(candidate)),
            Err(NotConfigured::Unused) => {}
            Err(NotConfigured::Incomplete(missing)) => {
                incomplete.push(format!("{} is incomplete: {missing}", strategy.name));
                if !(settings.is_id_alone() && USE_AN_ID_ALONE.contains(&strategy.name)) {
                    break;
                }
            }
            Err(NotConfigured::Invalid(error)) => return Err(error),
        }
    }
    let unconfigured = |hint: String| Err(settings.nothing_configured().with_hint(hint));
    if !incomplete.is_empty() {
        return unconfigured(incomplete.join("; "));
    }
    if settings.is_any_set(&[GoogleServiceAccount, GoogleCredentials]) {
        let hint = "google-credentials and google-id are not supported by this crate";
        return unconfigured(hint.to_owned());
    }
    let mut candidates = Vec::new();
    let mut hints = vec!["Set DATABRICKS_HOST, and DATABRICKS_CLIENT_ID and DATABRICKS_CLIENT_SECRET (service principal), or DATABRICKS_TOKEN, or log in with `databricks auth login`".to_owned()];
    for strategy in COMMAND_LINE_TOOLS {
        match strategy.candidate(settings) {
            Ok(candidate) => candidates.push(candidate),
            Err(NotConfigured::Unused) => {}
            Err(NotConfigured::Incomplete(missing)) => {
                hints.push(format!("{}: {missing}", strategy.name));
            }
            Err(NotConfigured::Invalid(error)) => return Err(error),
        }
    }
    match candidates.is_empty() {
        true => unconfigured(hints.join(". ")),
        false => Ok(SignIn::first_of(candidates)),
    }
}

/// The strategy that `auth_type` names.
fn forced(auth_type: &Setting, settings: &Settings) -> Result<SignIn, Error> {
    let (from, wanted) = (&auth_type.from, auth_type.value.as_str());
    let all = || EXPLICIT.iter().chain(COMMAND_LINE_TOOLS);
    let Some(strategy) = all().find(|strategy| strategy.name == wanted) else {
        let known: Vec<&str> = all().map(|strategy| strategy.name).collect();
        let what = match UNSUPPORTED.contains(&wanted) {
            true => "is not supported by this crate",
            false => "not found",
        };
        let text = format!(
            "{from}: auth type {} {what}, please check {DOCS} for a list of supported auth types",
            quoted(wanted)
        );
        return Err(settings
            .explain(text)
            .with_hint(format!("Supported here are {}", known.join(", "))));
    };
    let name = strategy.name;
    let unconfigured = |why: &str| {
        settings
            .explain(format!("{name} auth: not configured"))
            .with_hint(format!("{from} selects {name}: {why}"))
    };
    let candidate = strategy.candidate(settings).map_err(|why| match why {
        NotConfigured::Unused => unconfigured("none of its settings is set"),
        NotConfigured::Incomplete(missing) => unconfigured(&missing),
        NotConfigured::Invalid(error) => error,
    });
    candidate.map(SignIn::only)
}
