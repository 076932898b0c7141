//! From settings in code, environment and profile to a way to authenticate.

use std::sync::Arc;

use super::{SignIn, choose};
use crate::error::Error;
use crate::http::UserAgent;
use crate::settings::attributes::{Attribute, Vars};
use crate::settings::azure_endpoints::AzureEndpoints;
use crate::settings::profile;
use crate::settings::resolved::Settings;
use crate::settings::setting::Setting;
use crate::settings::workspace_host;

/// How to reach the workspace, and as whom.
#[derive(Clone)]
pub(crate) struct Access {
    pub(crate) settings: Settings,
    pub(crate) sign_in: Arc<SignIn>,
    pub(crate) agent: UserAgent,
}

/// What code has said about signing in.
#[derive(Clone, Default)]
pub(crate) struct Explicit {
    /// By official name.
    pub(crate) attributes: Vec<(String, Setting)>,
    pub(crate) azure_endpoints: Option<AzureEndpoints>,
    pub(crate) product: Option<(String, String)>,
    pub(crate) extras: Vec<(String, String)>,
}

/// Reads the profile file if it is wanted, blocking.
pub(crate) fn resolve(explicit: Explicit, vars: &Arc<Vars>) -> Result<Access, Error> {
    let agent = UserAgent::new(explicit.product.as_ref(), &explicit.extras, vars)?;
    let mut settings = Settings::new(Arc::clone(vars));
    settings.azure_endpoints = explicit.azure_endpoints;
    // Of what was said twice, the last counts.
    for (name, setting) in explicit.attributes.into_iter().rev() {
        let attribute = Attribute::named(&name).ok_or_else(|| {
            Error::config(format!(
                "attribute: {name:?} is not an attribute of any authentication strategy"
            ))
            .with_hint("Official names are, for example, client_id, profile or azure_tenant_id")
        })?;
        settings.fill(attribute, setting);
    }
    settings.fill_from_vars();
    profile::load(&mut settings)?;
    workspace_host::normalise(&mut settings)?;
    for attribute in [Attribute::ClientId, Attribute::AzureClientId] {
        if let Some(setting) = settings.get(attribute) {
            setting.no_secret()?;
        }
    }
    let sign_in = Arc::new(choose(&settings)?);
    let sent = [
        Attribute::WorkspaceId,
        Attribute::AccountId,
        Attribute::GroupId,
        Attribute::Scopes,
    ];
    for &attribute in sign_in.attributes().iter().chain(&sent) {
        if let Some(setting) = settings.get(attribute) {
            setting.printable()?;
        }
    }
    Ok(Access {
        settings,
        sign_in,
        agent,
    })
}
