//! Authentication and the choice of the database. Most tables have the cases of the official Python and Go SDKs' own tests.
//!
//! Different from the SDKs: account consoles are rejected, because Lakebase has no API there. After an outage without
//! `Retry-After`, the pauses are our own. 500 and 502 are retried like 503, because mints and authentication are safe to
//! repeat. A missing OAuth document leads to the default token endpoint.

#![allow(clippy::expect_used, clippy::panic)] // tests fail by panicking

mod apps;
mod azure;
mod databricks_cli;
mod default_profile;
mod home;
mod host_metadata;
mod hosts;
mod http;
mod laptop;
mod mistakes;
mod moved_host;
mod oauth;
mod selection;
mod strategies;
mod stub;
mod targets;
mod token_cache;
mod user_agent;

use lakebase_core::config::ConfigBuilder;
use lakebase_core::{Config, Error, Lakebase};

pub(crate) const ENDPOINT: &str = "projects/shop/branches/production/endpoints/primary";

pub(crate) type Pairs<'a> = &'a [(&'a str, &'a str)];

/// A builder with an endpoint, explicit attributes, and an environment.
pub(crate) fn builder(explicit: Pairs<'_>, vars: Pairs<'_>) -> ConfigBuilder {
    let mut builder = Config::builder().endpoint(ENDPOINT);
    for (name, value) in explicit {
        builder = builder.attribute(name, *value);
    }
    builder.vars(vars.iter().copied())
}

pub(crate) fn configured(explicit: Pairs<'_>, vars: Pairs<'_>) -> Result<Config, Error> {
    builder(explicit, vars).build()
}

pub(crate) fn handle(explicit: Pairs<'_>, vars: Pairs<'_>) -> Lakebase {
    let config = configured(explicit, vars).expect("a configuration");
    Lakebase::new(config).expect("a handle")
}

/// The value of a resolved setting of the authentication.
pub(crate) fn setting(config: &Config, name: &str) -> Option<String> {
    let found = config.sign_in_settings();
    let found = found.into_iter().find(|setting| setting.name == name)?;
    Some(found.value)
}

/// The error if nothing is configured.
pub(crate) const E0: &str = "default auth: cannot configure default credentials, please check https://docs.databricks.com/en/dev-tools/auth.html#databricks-client-unified-authentication to configure credentials for your preferred authentication method";
/// The start of the error if more than one identity is configured.
pub(crate) const X: &str = "validate: more than one authorization method configured: ";
