//! Values with their sources, Databricks' attributes and profiles, and the names that a value may be.

pub(crate) mod attributes;
pub(crate) mod azure_endpoints;
pub(crate) mod host_name;
pub(crate) mod name;
pub(crate) mod profile;
pub(crate) mod resolved;
pub(crate) mod setting;
pub(crate) mod workspace_host;
