//! Rules for host names.

/// The first label of a host of the built-in PgBouncer ends with `-pooler`.
pub(crate) fn is_pooled_host(host: &str) -> bool {
    first_label(host).to_ascii_lowercase().ends_with("-pooler")
}

/// The direct host of a pooled one.
pub(crate) fn direct_host(host: &str) -> String {
    let label = first_label(host);
    let direct = &label[..label.len() - "-pooler".len()];
    format!("{direct}{}", &host[label.len()..])
}

/// `localhost` and loopback addresses. DNS may resolve names below `localhost`, so these do not count.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = host.trim_start_matches('[').trim_end_matches(']');
    match name.parse::<std::net::IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => name.eq_ignore_ascii_case("localhost"),
    }
}

/// A host name or an IP address.
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
    fn a_pooled_host_is_recognised_by_its_first_label() {
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
    fn loopback_addresses_and_localhost_are_loopback() {
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
