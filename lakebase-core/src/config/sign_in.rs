//! From collected settings to a sign-in.

use std::sync::Arc;

use super::Workspace;
use super::attributes::{Attribute, Attributes, Vars};
use super::profile::Loaded;
use super::setting::Setting;
use super::{host, profile};
use crate::Error;
use crate::auth::{self, AzureEndpoints, Settings};
use crate::http::UserAgent;

/// What code has said about signing in.
#[derive(Clone, Default)]
pub(super) struct Explicit {
    /// By official name.
    pub(super) attributes: Vec<(String, Setting)>,
    pub(super) azure_endpoints: Option<AzureEndpoints>,
    pub(super) product: Option<(String, String)>,
    pub(super) extras: Vec<(String, String)>,
}

/// Reads the profile file if it is wanted, blocking.
pub(super) fn resolve(explicit: Explicit, vars: &Arc<Vars>) -> Result<Workspace, Error> {
    let agent = UserAgent::new(explicit.product.as_ref(), &explicit.extras, vars)?;
    let mut attributes = Attributes::default();
    // Of what was said twice, the last counts.
    for (name, setting) in explicit.attributes.into_iter().rev() {
        let attribute = Attribute::named(&name).ok_or_else(|| {
            Error::config(format!(
                "attribute: {name:?} is no attribute that a sign-in knows"
            ))
            .with_hint("Official names are, for example, client_id, profile or azure_tenant_id")
        })?;
        attributes.fill(attribute, setting);
    }
    attributes.fill_from(vars);
    let loaded = profile::load(&mut attributes, vars)?;
    let settings = Settings {
        host: host::normalise(&mut attributes)?,
        attributes,
        vars: Arc::clone(vars),
        azure_endpoints: explicit.azure_endpoints,
        remark: match loaded {
            Loaded::Quietly => None,
            Loaded::NoFile(path) => Some(format!("there is no file {}", path.display())),
        },
    };
    for attribute in [Attribute::ClientId, Attribute::AzureClientId] {
        settings
            .get(attribute)
            .map(Setting::no_secret)
            .transpose()?;
    }
    let sign_in = auth::choose(&settings)?;
    let sent = [
        Attribute::WorkspaceId,
        Attribute::AccountId,
        Attribute::GroupId,
        Attribute::Scopes,
    ];
    for &attribute in sign_in.made_of().iter().chain(&sent) {
        if let Some(setting) = settings.get(attribute) {
            setting.printable()?;
        }
    }
    Ok(Workspace {
        settings,
        sign_in,
        agent,
    })
}
