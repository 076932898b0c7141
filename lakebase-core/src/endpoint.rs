//! Names of Lakebase endpoints and hosts.

use std::fmt;
use std::str::FromStr;

use crate::Error;
use crate::config::setting::quoted;

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

/// Hosts of the built-in PgBouncer carry `-pooler` at the end of their first label.
pub(crate) fn is_pooled_host(host: &str) -> bool {
    first_label(host).to_ascii_lowercase().ends_with("-pooler")
}

/// The direct host next to a pooled one. `host` is pooled.
pub(crate) fn direct_host(host: &str) -> String {
    let label = first_label(host);
    let direct = &label[..label.len() - "-pooler".len()];
    format!("{direct}{}", &host[label.len()..])
}

/// `localhost` and loopback addresses. Names below `localhost` may be asked from DNS, so they do not
/// count.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = host.trim_start_matches('[').trim_end_matches(']');
    match name.parse::<std::net::IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => name.eq_ignore_ascii_case("localhost"),
    }
}

/// A host name or an address, and nothing else.
pub(crate) fn is_host_name(name: &str) -> bool {
    let is_host_char = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    !name.is_empty()
        && name.chars().all(is_host_char)
        && (!name.contains(':') || name.parse::<std::net::IpAddr>().is_ok())
}

fn first_label(host: &str) -> &str {
    host.split('.').next().unwrap_or(host)
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

    #[test]
    fn pooled_hosts_are_told_by_the_first_label() {
        for (host, pooled) in [
            ("ep-1-pooler.database.us-east-1.cloud.databricks.com", true),
            (
                "ep-1-ro-pooler.database.us-east-1.cloud.databricks.com",
                true,
            ),
            ("ep-1.database.us-east-1.cloud.databricks.com", false),
            ("ep-1.my-pooler.example.com", false),
        ] {
            assert_eq!(is_pooled_host(host), pooled, "{host}");
        }
        assert_eq!(direct_host("ep-1-pooler.db.example"), "ep-1.db.example");
    }

    #[test]
    fn loopback_is_an_address_or_a_name_that_can_only_be_loopback() {
        for (host, loopback) in [
            ("localhost", true),
            ("LOCALHOST", true),
            ("ep-1.localhost", false),
            ("127.8.8.8", true),
            ("::1", true),
            ("[::1]", true),
            ("localhost.example.com", false),
            ("10.0.0.1", false),
        ] {
            assert_eq!(is_loopback(host), loopback, "{host}");
        }
    }
}
