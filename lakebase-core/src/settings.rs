//! Values with their sources, the attributes and profiles of the Databricks clients, and rules for names.

pub(crate) mod attributes;
pub(crate) mod azure_endpoints;
pub(crate) mod host_name;
pub(crate) mod name;
pub(crate) mod profile;
pub(crate) mod resolved;
pub(crate) mod setting;
pub(crate) mod workspace_host;
