//! Checks of settings that strategies share.

use super::NotConfigured;
use crate::error::Error;
use crate::settings::attributes::Attribute;
use crate::settings::resolved::Settings;
use crate::settings::setting::Setting;

pub(super) const DOCS: &str =
    "https://docs.databricks.com/en/dev-tools/auth.html#databricks-client-unified-authentication";

impl Settings {
    /// Whether `auth_type` names the strategy.
    pub(super) fn is_forced(&self) -> bool {
        self.is_any_set(&[Attribute::AuthType])
    }

    /// A client id without its secret.
    pub(super) fn is_id_alone(&self) -> bool {
        self.is_any_set(&[Attribute::ClientId]) && !self.is_any_set(&[Attribute::ClientSecret])
    }

    /// Error text for a missing setting, with the places where it can be set.
    pub(super) fn missing(&self, attribute: Attribute) -> String {
        let missing = attribute.missing(&self.vars);
        let name = attribute.name();
        match self.value(Attribute::Profile) {
            Some(profile) => format!("{missing}, and profile {profile} has no {name}"),
            None => missing,
        }
    }

    /// The setting that selects a strategy.
    pub(super) fn main(&self, attribute: Attribute) -> Result<&Setting, NotConfigured> {
        self.get(attribute).ok_or_else(|| self.absent(attribute))
    }

    /// The main setting of a strategy is missing: an error only if `auth_type` names the strategy.
    pub(super) fn absent(&self, attribute: Attribute) -> NotConfigured {
        match self.is_forced() {
            true => NotConfigured::Incomplete(self.missing(attribute)),
            false => NotConfigured::Unused,
        }
    }

    /// A setting that the strategy requires.
    pub(super) fn required(&self, attribute: Attribute) -> Result<&Setting, NotConfigured> {
        self.get(attribute)
            .ok_or_else(|| NotConfigured::Incomplete(self.missing(attribute)))
    }

    pub(super) fn required_host(&self) -> Result<(), NotConfigured> {
        self.required(Attribute::Host).map(drop)
    }

    /// Rejects a group's role, which needs a token of Databricks' own OAuth.
    pub(super) fn reject_group(&self, strategy: &str) -> Result<(), NotConfigured> {
        let Some(group) = self.get(Attribute::GroupId) else {
            return Ok(());
        };
        let text = format!("auth type {strategy:?} does not support group role assumption");
        let hint = format!(
            "Use Databricks OAuth authentication, or unset {}",
            group.from
        );
        Err(Error::config(text).with_hint(hint).into())
    }

    pub(super) fn check_conflicts(&self) -> Result<(), Error> {
        let families: Vec<&str> = self.families().into_iter().collect();
        if families.len() < 2 {
            return Ok(());
        }
        let text = format!(
            "validate: more than one authorization method configured: {}",
            families.join(" and ")
        );
        Err(self.explain(text).with_hint(
            "Unset all but one, or select one with DATABRICKS_AUTH_TYPE (in code: auth_type)",
        ))
    }

    pub(super) fn nothing_configured(&self) -> Error {
        let mut text = format!(
            "default auth: cannot configure default credentials, please check {DOCS} to configure credentials for your preferred authentication method"
        );
        if let Some(file) = &self.missing_file {
            text.push_str(&format!(" (there is no file {})", file.display()));
        }
        self.explain(text)
    }

    /// OAuth scopes, sorted and without duplicates. Default: `all-apis`.
    pub(super) fn scopes(&self) -> String {
        let configured = self.value(Attribute::Scopes).unwrap_or_default();
        let mut scopes: Vec<&str> = configured
            .split([',', ' '])
            .filter(|scope| !scope.is_empty())
            .collect();
        scopes.sort_unstable();
        scopes.dedup();
        match scopes.is_empty() {
            true => "all-apis".to_owned(),
            false => scopes.join(" "),
        }
    }
}
