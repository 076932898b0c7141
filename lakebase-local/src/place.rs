//! The names of a branch and of its endpoints.

use std::net::Ipv4Addr;

use uuid::Uuid;

const PROJECT: &str = "local";
const PRODUCTION: &str = "production";
const ENDPOINT: &str = "primary";

#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) branch: String,
    pub(crate) uid: String,
    /// First part of the host names. The gateway recognises the kind of a host by the TLS server name.
    pub(crate) endpoint_uid: String,
    pub(crate) host: String,
    pub(crate) pooled_host: String,
    pub(crate) read_only_host: String,
    pub(crate) read_only_pooled_host: String,
}

impl Place {
    /// The names of the production branch.
    pub(crate) fn production(ip: Ipv4Addr) -> Self {
        // Every resolver knows this name.
        let host = match ip {
            Ipv4Addr::LOCALHOST => "localhost".to_owned(),
            other => other.to_string(),
        };
        Self::new(PRODUCTION, "local", host)
    }

    /// The names of another branch, whose host is an address.
    pub(crate) fn of_branch(id: &str, ip: Ipv4Addr) -> Self {
        let random = format!("local-{:08x}", Uuid::new_v4().as_fields().0);
        Self::new(id, &random, ip.to_string())
    }

    fn new(branch: &str, name: &str, host: String) -> Self {
        Self {
            branch: branch.to_owned(),
            uid: format!("br-{name}"),
            endpoint_uid: format!("ep-{name}"),
            host,
            pooled_host: format!("ep-{name}-pooler.localhost"),
            read_only_host: format!("ep-{name}-ro.localhost"),
            read_only_pooled_host: format!("ep-{name}-ro-pooler.localhost"),
        }
    }

    pub(crate) fn project_path() -> String {
        format!("projects/{PROJECT}")
    }

    pub(crate) fn is_production(&self) -> bool {
        self.branch == PRODUCTION
    }

    pub(crate) fn branch_path(&self) -> String {
        format!("{}/branches/{}", Self::project_path(), self.branch)
    }

    pub(crate) fn endpoint_path(&self) -> String {
        format!("{}/endpoints/{ENDPOINT}", self.branch_path())
    }

    /// The read replica of the same branch.
    pub(crate) fn replica_path(&self) -> String {
        format!("{}/endpoints/replica", self.branch_path())
    }

    /// Names in the certificate.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names = vec![
            self.host.clone(),
            format!("{}.localhost", self.endpoint_uid),
            self.pooled_host.clone(),
            self.read_only_host.clone(),
            self.read_only_pooled_host.clone(),
        ];
        if self.is_production() {
            names.push("127.0.0.1".to_owned());
        }
        names
    }

    /// Returns whether `host`, a TLS server name, belongs to another branch. The client has resolved it to the wrong address.
    pub(crate) fn is_elsewhere(&self, host: &str) -> bool {
        let label = host.split('.').next().unwrap_or_default();
        let kinds = ["", "-pooler", "-ro", "-ro-pooler"];
        label.starts_with("ep-")
            && host.ends_with(".localhost")
            && !kinds
                .iter()
                .any(|kind| label.strip_suffix(kind) == Some(&*self.endpoint_uid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_host_names_of_other_branches_are_elsewhere() {
        let place = Place::of_branch("b", Ipv4Addr::LOCALHOST);
        for host in [
            "localhost",
            "127.0.0.1",
            "ep-other.example.com",
            &place.pooled_host,
            &place.read_only_host,
            &place.read_only_pooled_host,
            &format!("{}.localhost", place.endpoint_uid),
        ] {
            assert!(!place.is_elsewhere(host), "{host}");
        }
        for host in ["ep-local.localhost", "ep-local-ro-pooler.localhost"] {
            assert!(place.is_elsewhere(host), "{host}");
        }
    }
}
