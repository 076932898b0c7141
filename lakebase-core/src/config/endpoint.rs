//! What computes, by name: an endpoint, a branch whose endpoint is looked up, or a Provisioned instance; and which of its
//! hosts to log in at.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;
use crate::settings::setting::{Setting, quoted};

/// Full resource name of an Autoscaling endpoint:
/// `projects/{project}/branches/{branch}/endpoints/{endpoint}`.
///
/// Parsed loosely: ids are whatever the platform issued, including UUIDs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointPath(String);

impl EndpointPath {
    /// The name as the API takes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EndpointPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for EndpointPath {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let shown = quoted(text);
        const SHAPE: &str = "projects/{project}/branches/{branch}/endpoints/{endpoint}";
        let segments: Vec<&str> = text.split('/').collect();
        match segments.as_slice() {
            ["projects", project, "branches", branch, "endpoints", endpoint]
                if [project, branch, endpoint].into_iter().all(|id| is_id(id)) =>
            {
                Ok(Self(text.to_owned()))
            }
            ["projects", ..] => Err(Error::config(format!(
                "{shown} is not an endpoint path of the form {SHAPE}"
            ))
            .with_hint("Copy the endpoint's resource name, for example from `databricks postgres list-endpoints`")),
            _ if text.contains('.') && !text.contains('/') => Err(Error::config(format!(
                "{shown} is a host name, not an endpoint path of the form {SHAPE}"
            ))
            .with_hint("A Provisioned `database` resource yields a host: put it into PGHOST, and the path of an Autoscaling endpoint here")),
            _ => Err(Error::config(format!(
                "{shown} is not an endpoint path of the form {SHAPE}"
            ))),
        }
    }
}

/// Ids are whatever the platform issued; what would change the path around them is none.
pub(crate) fn is_id(id: &str) -> bool {
    let is_id_char = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !id.is_empty() && !matches!(id, "." | "..") && id.chars().all(is_id_char)
}

/// What a credential is minted for, and whose host is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Compute {
    Endpoint(EndpointPath),
    /// `projects/{project}/branches/{branch}`.
    Branch(String),
    Instance(String),
}

/// Which host of a compute to log in at. The workspace names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HostKind {
    /// The direct host for reading and writing. The default.
    #[default]
    ReadWrite,
    /// For sessions that only read: a readable secondary or a read replica.
    ReadOnly,
    /// The built-in PgBouncer. It takes native passwords only, and keeps nothing on a session.
    Pooled,
    /// The same in front of what only reads.
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
    /// A resource name: of an endpoint, or of a branch.
    pub(crate) fn parse(setting: &Setting) -> Result<Self, Error> {
        let path = setting.value.trim();
        let segments: Vec<&str> = path.split('/').collect();
        if let ["projects", project, "branches", branch] = segments.as_slice()
            && is_id(project)
            && is_id(branch)
        {
            return Ok(Self::Branch(path.to_owned()));
        }
        path.parse()
            .map(Self::Endpoint)
            .map_err(|error: Error| error.with_setting(&setting.from))
    }

    /// A Provisioned instance.
    pub(crate) fn instance(setting: &Setting) -> Result<Self, Error> {
        let name = setting.value.trim();
        if name.starts_with("projects/") {
            return Err(setting
                .wrong("the name of a Provisioned instance")
                .with_hint(
                    "A path of an Autoscaling endpoint or branch belongs into LAKEBASE_ENDPOINT",
                ));
        }
        if name.contains('.') && is_id(name) {
            return Err(setting
                .wrong("the name of a Provisioned instance: it looks like a host")
                .with_hint("A host belongs into PGHOST"));
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
    fn endpoint_paths_keep_whatever_ids_the_platform_issued() {
        for path in [
            "projects/shop/branches/production/endpoints/primary",
            "projects/0f3e2d1c-1111-2222-3333-444455556666/branches/br-1/endpoints/ep-x",
        ] {
            assert_eq!(path.parse::<EndpointPath>().expect(path).as_str(), path);
        }
    }

    #[test]
    fn anything_else_is_refused_and_the_error_shows_the_right_form() {
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
            let error = text.parse::<EndpointPath>().expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
