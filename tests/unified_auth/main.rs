//! Signing in and finding the database like every official Databricks client.
//!
//! Most tables here go back to numbered vectors, which the official SDKs test themselves with. Each
//! module says in `VECTORS` which ones it plays; [`NOT_TAKEN`] says which ones do not apply, and why.

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
mod oauth;
mod selection;
mod strategies;
mod stub;
mod targets;
mod token_cache;
mod user_agent;

use std::ops::RangeInclusive;

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

/// A setting of the sign-in, as it was resolved.
pub(crate) fn setting(config: &Config, name: &str) -> Option<String> {
    let found = config.sign_in_settings();
    let found = found.into_iter().find(|setting| setting.name == name)?;
    Some(found.value)
}

/// The error that nothing is configured.
pub(crate) const E0: &str = "default auth: cannot configure default credentials, please check https://docs.databricks.com/en/dev-tools/auth.html#databricks-client-unified-authentication to configure credentials for your preferred authentication method";
/// The start of the error that too much is.
pub(crate) const X: &str = "validate: more than one authorization method configured: ";

/// Vectors that do not apply to this crate.
///
/// Three are played in part, with a rule of our own for the rest: an outage without `Retry-After` is waited
/// out with our own pauses, not for a second (126); 500 and 502 are retried like 503, since minting and
/// signing in are safe to repeat (128, 134).
const NOT_TAKEN: &[(u16, &str)] = &[
    (
        49,
        "an account console is refused: Lakebase has no API there",
    ),
    (57, "there is no log of requests to cut"),
    (
        60,
        "the Go rule is taken: a warning, and the workspace's own document",
    ),
    (
        70,
        "the user is asked from SCIM; its answer's workspace id is needed nowhere",
    ),
    (
        72,
        "an account console is refused: Lakebase has no API there",
    ),
    (
        73,
        "a missing OAuth document leads to the usual token endpoint",
    ),
    (
        77,
        "an account console is refused: Lakebase has no API there",
    ),
    (94, "github-oidc-azure is not supported"),
    (
        97,
        "an account console is refused: Lakebase has no API there",
    ),
    (
        101,
        "an account console is refused: Lakebase has no API there",
    ),
    (
        104,
        "a profile without a host is of no use: the calls need one",
    ),
    (108, "the version is asked as JSON, as Python does"),
    (133, "a quirk of the Python client: `None` in a message"),
    (140, "a connection string of another product"),
];

#[test]
fn every_vector_is_played_or_has_a_reason_not_to_be() {
    let played: Vec<RangeInclusive<u16>> = [
        selection::VECTORS,
        default_profile::VECTORS,
        hosts::VECTORS,
        host_metadata::VECTORS,
        oauth::VECTORS,
        azure::VECTORS,
        databricks_cli::VECTORS,
        token_cache::VECTORS,
        http::VECTORS,
        user_agent::VECTORS,
    ]
    .concat();
    for vector in 1..=140_u16 {
        let is_played = played.iter().any(|range| range.contains(&vector));
        let is_excused = NOT_TAKEN.iter().any(|(number, _)| *number == vector);
        assert!(is_played != is_excused, "vector {vector}");
    }
}
