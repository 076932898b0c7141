//! Names of what computes: an endpoint, a branch whose endpoint is to be found, or a Provisioned
//! instance; and which of its hosts is wanted.

use std::fmt;

use crate::config::setting::{Setting, quoted};
use crate::endpoint::is_id;
use crate::{EndpointPath, Error};

/// What a credential is minted for and a host is asked of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Compute {
    Endpoint(EndpointPath),
    /// `projects/{project}/branches/{branch}`.
    Branch(String),
    Instance(String),
}

/// Which host of a compute to log in at. Asked from the workspace.
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
