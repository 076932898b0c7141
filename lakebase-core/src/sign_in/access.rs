//! Resolves the settings of the authentication from code, environment and profile.

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

/// The workspace and the authentication there.
#[derive(Clone)]
pub(crate) struct Access {
    pub(crate) settings: Settings,
    pub(crate) sign_in: Arc<SignIn>,
    pub(crate) agent: UserAgent,
}

/// Settings of the authentication in code.
#[derive(Clone, Default)]
pub(crate) struct Explicit {
    /// Each with its name.
    pub(crate) attributes: Vec<(String, Setting)>,
    pub(crate) azure_endpoints: Option<AzureEndpoints>,
    pub(crate) product: Option<(String, String)>,
    pub(crate) extras: Vec<(String, String)>,
}

/// Reads the profile file if it is needed, which blocks.
pub(crate) fn resolve(explicit: Explicit, vars: &Arc<Vars>) -> Result<Access, Error> {
    let agent = UserAgent::new(explicit.product.as_ref(), &explicit.extras, vars)?;
    let mut settings = Settings::new(Arc::clone(vars));
    settings.azure_endpoints = explicit.azure_endpoints;
    // The last value of an attribute counts.
    for (name, setting) in explicit.attributes.into_iter().rev() {
        let attribute = Attribute::named(&name).ok_or_else(|| {
            Error::config(format!(
                "attribute: {name:?} is not an attribute of any authentication strategy"
            ))
            .with_hint("Examples are client_id, profile and azure_tenant_id")
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
