//! The resolved attributes, which name the workspace and configure the authentication.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use url::Url;

use super::attributes::{Attribute, Vars};
use super::azure_endpoints::AzureEndpoints;
use super::setting::Setting;
use crate::error::Error;

/// The attributes that are set, each with its source, and the environment.
#[derive(Clone, Default)]
pub(crate) struct Settings {
    set: BTreeMap<Attribute, Setting>,
    pub(crate) vars: Arc<Vars>,
    /// The workspace, unless only its Azure resource id is set.
    pub(crate) host: Option<Url>,
    pub(crate) azure_endpoints: Option<AzureEndpoints>,
    /// The profile file, if a profile is configured and the file does not exist.
    pub(crate) missing_file: Option<PathBuf>,
}

impl Settings {
    /// No attributes; [`fill_from_vars`](Self::fill_from_vars) reads the environment.
    pub(crate) fn new(vars: Arc<Vars>) -> Self {
        Self {
            vars,
            ..Self::default()
        }
    }

    pub(crate) fn get(&self, attribute: Attribute) -> Option<&Setting> {
        self.set.get(&attribute)
    }

    pub(crate) fn value(&self, attribute: Attribute) -> Option<&str> {
        Some(self.get(attribute)?.value.as_str())
    }

    pub(crate) fn owned(&self, attribute: Attribute) -> Option<String> {
        self.value(attribute).map(str::to_owned)
    }

    pub(crate) fn is_any_set(&self, attributes: &[Attribute]) -> bool {
        attributes.iter().any(|&a| self.get(a).is_some())
    }

    /// Parses a boolean in the spellings of the official clients. Default: false.
    pub(crate) fn is_true(&self, attribute: Attribute) -> Result<bool, Error> {
        self.get(attribute).map_or(Ok(false), boolean)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Attribute, &Setting)> {
        self.set
            .iter()
            .map(|(&attribute, setting)| (attribute, setting))
    }

    pub(super) fn replace(&mut self, attribute: Attribute, setting: Setting) {
        self.set.insert(attribute, setting);
    }

    /// Sets an unset attribute. An empty value is ignored.
    pub(crate) fn fill(&mut self, attribute: Attribute, setting: Setting) {
        let is_ignored = match attribute {
            _ if setting.value.trim().is_empty() => true,
            // The Databricks CLI writes `none` for "no workspace".
            Attribute::WorkspaceId => setting.value == "none",
            // `false` selects no identity.
            Attribute::AzureUseMsi => boolean(&setting).is_ok_and(|yes| !yes),
            _ => false,
        };
        if !is_ignored {
            self.set.entry(attribute).or_insert(setting);
        }
    }

    /// Sets unset attributes from the environment.
    pub(crate) fn fill_from_vars(&mut self) {
        let vars = Arc::clone(&self.vars);
        for attribute in Attribute::all() {
            if let Some((name, value)) = attribute.find_in(&vars) {
                self.fill(attribute, Setting::new(value, name));
            }
        }
    }

    /// The families of the attributes that are set, sorted.
    pub(crate) fn families(&self) -> BTreeSet<&'static str> {
        self.set
            .keys()
            .filter_map(|a| a.definition().family)
            .collect()
    }

    /// Adds the attributes (secrets masked) and the variables to an error, as the official clients do, and the source of
    /// every other attribute.
    pub(crate) fn explain(&self, mut text: String) -> Error {
        let mut add = |title: &str, parts: Vec<String>| {
            if !parts.is_empty() {
                text.push_str(&format!(". {title}: {}", parts.join(", ")));
            }
        };
        let listed = self.iter().filter(|(attribute, _)| attribute.is_listed());
        let shown = |(attribute, setting): (Attribute, &Setting)| {
            format!("{}={}", attribute.name(), attribute.show(&setting.value))
        };
        add("Config", listed.map(shown).collect());
        let seen = Attribute::all().filter(|attribute| attribute.is_listed());
        let seen = seen.filter_map(|attribute| attribute.find_in(&self.vars));
        add("Env", seen.map(|(name, _)| name.to_owned()).collect());
        let elsewhere = self.iter().filter(|(attribute, setting)| {
            !attribute
                .definition()
                .variables
                .contains(&setting.from.as_str())
        });
        add("Set elsewhere", elsewhere.map(source).collect());
        Error::config(text)
    }

    /// The sources of these attributes, for errors at run time.
    pub(crate) fn sources(&self, attributes: &[Attribute]) -> String {
        let sources = attributes
            .iter()
            .filter_map(|&a| Some(source((a, self.get(a)?))));
        sources.collect::<Vec<_>>().join(", ")
    }
}

fn source((attribute, setting): (Attribute, &Setting)) -> String {
    format!("{} from {}", attribute.name(), setting.from)
}

fn boolean(setting: &Setting) -> Result<bool, Error> {
    match setting.value.trim() {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(setting.wrong("true or false")),
    }
}
