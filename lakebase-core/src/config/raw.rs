//! The settings of the database as texts, of one source or merged.

use std::collections::BTreeMap;

use crate::config::ResolvedSetting;
use crate::error::Error;
use crate::settings::attributes::Vars;
use crate::settings::setting::Setting;

macro_rules! fields {
    ($($field:ident $name:literal $variables:tt)*) => {
        /// One setting.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum Field { $($field),* }

        /// Name and variables of each field. The first variable that is not empty counts.
        pub(super) const FIELDS: &[(Field, &str, &[&str])] = &[$((Field::$field, $name, &$variables)),*];
    };
}

fields! {
    Endpoint "endpoint" ["LAKEBASE_ENDPOINT", "DATABRICKS_LAKEBASE_ENDPOINT", "ENDPOINT_NAME"]
    Instance "instance" ["LAKEBASE_INSTANCE_NAME"]
    Host "host" ["PGHOST"]
    Hostaddr "hostaddr" ["PGHOSTADDR"]
    Port "port" ["PGPORT"]
    Database "database" ["PGDATABASE"]
    User "user" ["PGUSER"]
    Password "password" ["PGPASSWORD"]
    Sslmode "sslmode" ["PGSSLMODE"]
    Sslrootcert "sslrootcert" ["PGSSLROOTCERT"]
    ApplicationName "application_name" ["PGAPPNAME"]
    Schema "schema" ["LAKEBASE_SCHEMA"]
    ConnectTimeout "connect_timeout" ["PGCONNECT_TIMEOUT"]
}

#[derive(Clone, Default)]
pub(super) struct Raw(BTreeMap<Field, Setting>);

impl Raw {
    pub(super) fn from_vars(vars: &Vars) -> Self {
        let first = |&(field, _, names): &(Field, _, &[&str])| {
            let setting = names.iter().find_map(|&name| variable(vars, name))?;
            Some((field, setting))
        };
        Self(FIELDS.iter().filter_map(first).collect())
    }

    pub(super) fn get(&self, field: Field) -> Option<&Setting> {
        self.0.get(&field)
    }

    pub(super) fn owned(&self, field: Field) -> Option<String> {
        Some(self.get(field)?.value.clone())
    }

    pub(super) fn parsed<T>(
        &self,
        field: Field,
        parse: impl FnOnce(&Setting) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        self.get(field).map(parse).transpose()
    }

    pub(super) fn set(&mut self, field: Field, setting: Setting) {
        self.0.insert(field, setting);
    }

    pub(super) fn remove(&mut self, fields: &[Field]) {
        self.0.retain(|field, _| !fields.contains(field));
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (Field, &Setting)> {
        self.0.iter().map(|(&field, setting)| (field, setting))
    }

    /// Adds unset fields from a source of lower precedence.
    pub(super) fn or(mut self, lower: Self) -> Self {
        for (field, setting) in lower.0 {
            self.0.entry(field).or_insert(setting);
        }
        self
    }

    /// Like [`or`](Self::or), but an endpoint here replaces a password there, and the other way round. With `looks_up`,
    /// both may be set: the endpoint is only for the look-up of the host.
    pub(super) fn over(self, mut lower: Self, looks_up: bool) -> Self {
        let names = |raw: &Self| (raw.owned(Field::Endpoint), raw.owned(Field::Instance));
        let (own, others) = (names(&self), names(&lower));
        let names_compute = own != (None, None);
        if names_compute && others != (None, None) && others != own {
            // The host belongs to the other compute.
            lower.remove(&[Field::Host, Field::Hostaddr]);
        }
        if names_compute || self.get(Field::Password).is_some() && !looks_up {
            lower.remove(&[Field::Endpoint, Field::Instance]);
        }
        if names_compute && !looks_up {
            lower.remove(&[Field::Password]);
        }
        self.or(lower)
    }

    /// All fields that are set or have a default, in their order, with secrets masked.
    pub(super) fn resolved(&self, defaults: &[(Field, String)]) -> Vec<ResolvedSetting> {
        let resolve = |&(field, name, _): &(Field, &'static str, _)| {
            let default = || defaults.iter().find(|(known, _)| *known == field);
            let (value, source) = match self.get(field) {
                Some(setting) if field == Field::Password => ("***", setting.from.as_str()),
                Some(setting) => (setting.value.as_str(), setting.from.as_str()),
                None => (default()?.1.as_str(), "default"),
            };
            Some(ResolvedSetting {
                name,
                value: value.to_owned(),
                source: source.to_owned(),
            })
        };
        FIELDS.iter().filter_map(resolve).collect()
    }
}

/// An empty variable counts as unset.
pub(super) fn variable(vars: &Vars, name: &str) -> Option<Setting> {
    let value = vars.get(name).filter(|value| !value.trim().is_empty())?;
    Some(Setting::new(value.as_str(), name))
}
