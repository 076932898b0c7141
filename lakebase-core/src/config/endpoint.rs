//! The compute: an endpoint, a branch whose endpoint is looked up, or a Provisioned instance; and the kinds of its hosts.

use std::fmt;

use crate::error::Error;
use crate::settings::setting::{Setting, quoted};

/// The path of an Autoscaling endpoint, `projects/{project}/branches/{branch}/endpoints/{endpoint}`.
pub(crate) fn endpoint_path(text: &str) -> Result<String, Error> {
    const SHAPE: &str = "projects/{project}/branches/{branch}/endpoints/{endpoint}";
    let segments: Vec<&str> = text.split('/').collect();
    if let [
        "projects",
        project,
        "branches",
        branch,
        "endpoints",
        endpoint,
    ] = segments.as_slice()
        && [project, branch, endpoint].into_iter().all(|id| is_id(id))
    {
        return Ok(text.to_owned());
    }
    let shown = quoted(text);
    if text.contains('.') && !text.contains('/') {
        return Err(Error::config(format!(
            "{shown} is a host name, not an endpoint path of the form {SHAPE}"
        ))
        .with_hint("For a Provisioned instance, unset LAKEBASE_ENDPOINT and set LAKEBASE_INSTANCE_NAME to its name. For an Autoscaling endpoint, copy its path, for example from `databricks postgres list-endpoints`"));
    }
    Err(Error::config(format!(
        "{shown} is not an endpoint path of the form {SHAPE}"
    ))
    .with_hint("Copy the endpoint's path, for example from `databricks postgres list-endpoints`, or set the path of a branch, projects/{project}/branches/{branch}"))
}

/// Accepts any id of the platform, and nothing that changes the path around it.
pub(crate) fn is_id(id: &str) -> bool {
    let is_id_char = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !id.is_empty() && !matches!(id, "." | "..") && id.chars().all(is_id_char)
}

/// The compute that credentials are minted for, and whose host is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Compute {
    /// `projects/{project}/branches/{branch}/endpoints/{endpoint}`.
    Endpoint(String),
    /// `projects/{project}/branches/{branch}`.
    Branch(String),
    /// Name of a Provisioned instance.
    Instance(String),
}

/// Host of a compute to log in at, for [`ConfigBuilder::host_kind`](super::ConfigBuilder::host_kind).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostKind {
    /// Direct host for reads and writes. The default.
    #[default]
    ReadWrite,
    /// Direct host for reads: of a readable secondary or a read replica.
    ReadOnly,
    /// Host of the built-in PgBouncer, which accepts native passwords only and pools transactions.
    Pooled,
    /// Host of the built-in PgBouncer for reads.
    ReadOnlyPooled,
}

impl HostKind {
    pub(crate) fn is_pooled(self) -> bool {
        matches!(self, Self::Pooled | Self::ReadOnlyPooled)
    }

    pub(crate) fn is_read_only(self) -> bool {
        matches!(self, Self::ReadOnly | Self::ReadOnlyPooled)
    }
}

impl Compute {
    /// Parses the path of an endpoint or of a branch.
    pub(crate) fn parse(setting: &Setting) -> Result<Self, Error> {
        let path = setting.value.trim();
        let segments: Vec<&str> = path.split('/').collect();
        if let ["projects", project, "branches", branch] = segments.as_slice()
            && is_id(project)
            && is_id(branch)
        {
            return Ok(Self::Branch(path.to_owned()));
        }
        endpoint_path(path)
            .map(Self::Endpoint)
            .map_err(|error| error.with_setting(&setting.from))
    }

    /// Parses the name of a Provisioned instance.
    pub(crate) fn instance(setting: &Setting) -> Result<Self, Error> {
        let name = setting.value.trim();
        if name.starts_with("projects/") {
            return Err(setting
                .wrong("the name of a Provisioned instance")
                .with_hint(
                    "Set LAKEBASE_ENDPOINT to the path of an Autoscaling endpoint or branch",
                ));
        }
        if name.contains('.') && is_id(name) {
            return Err(setting
                .wrong("the name of a Provisioned instance: it looks like a host")
                .with_hint(
                    "A host belongs in PGHOST, the name of the instance in LAKEBASE_INSTANCE_NAME",
                ));
        }
        if !is_id(name) {
            return Err(Error::config(format!(
                "{}: {} is not the name of a Provisioned instance",
                setting.from,
                quoted(name)
            )));
        }
        Ok(Self::Instance(name.to_owned()))
    }
}

impl fmt::Display for Compute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint(path) => write!(f, "endpoint {path}"),
            Self::Branch(path) => write!(f, "branch {path}"),
            Self::Instance(name) => write!(f, "instance {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_path_may_have_any_ids() {
        for path in [
            "projects/shop/branches/production/endpoints/primary",
            "projects/0f3e2d1c-1111-2222-3333-444455556666/branches/br-1/endpoints/ep-x",
        ] {
            assert_eq!(endpoint_path(path).expect(path), path);
        }
    }

    #[test]
    fn an_invalid_endpoint_path_is_rejected_with_the_valid_form() {
        for (text, expected) in [
            ("projects/shop/branches/production", "of the form projects/"),
            (
                "projects/shop/branches//endpoints/primary",
                "of the form projects/",
            ),
            (
                "projects/shop/branches/b/endpoints/e/x",
                "of the form projects/",
            ),
            (
                "projects/shop/branches/b/endpoints/e?x=1",
                "of the form projects/",
            ),
            ("primary", "of the form projects/"),
            (
                "projects/../branches/../endpoints/..",
                "of the form projects/",
            ),
            ("postgresql://u:secret@h/d", "not repeated"),
            (
                "instance-0f3e.database.cloud.databricks.com",
                "is a host name",
            ),
        ] {
            let error = endpoint_path(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
