//! Hosts, scopes and aliases.

use crate::home::{Home, M};
use crate::stub::{Stub, TOKEN};
use crate::{Pairs, configured, handle, setting};

/// Asserts the resolved host and settings of each row, and lists every wrong row.
fn assert_resolved(rows: &[(&str, Pairs<'_>, &str, Pairs<'_>)]) {
    let wrong = rows
        .iter()
        .filter_map(|(host, explicit, expected, settings)| {
            let vars = [("DATABRICKS_HOST", *host), ("DATABRICKS_TOKEN", "t")];
            let config = match configured(explicit, &vars) {
                Ok(config) => config,
                Err(error) => return Some(format!("{host}: {error}")),
            };
            let expected = [("host", *expected)]
                .into_iter()
                .chain(settings.iter().copied());
            let mut found =
                expected.map(|(name, value)| (setting(&config, name).unwrap_or_default(), value));
            let (found, value) = found.find(|(found, value)| found != value)?;
            Some(format!("{host}: {found:?} instead of {value:?}"))
        });
    let wrong: Vec<_> = wrong.collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn hosts_are_normalised() {
    let rows = [
        ("https://abc.def.ghi", "https://abc.def.ghi"),
        ("https://abc.def.ghi/", "https://abc.def.ghi"),
        ("abc.def.ghi", "https://abc.def.ghi"),
        ("abc.def.ghi/", "https://abc.def.ghi"),
        ("https://abc.def.ghi:443", "https://abc.def.ghi"),
        ("abc.def.ghi:443", "https://abc.def.ghi"),
        ("https://abc.def:8443/", "https://abc.def:8443"),
        ("http://localhost:8080/", "http://localhost:8080"),
        ("https://abc.def/some/path/", "https://abc.def"),
    ];
    assert_resolved(&rows.map(|(host, expected)| (host, &[][..], expected, &[][..])));
}

#[test]
fn the_query_of_a_host_sets_the_ids_that_are_unset() {
    let (host, guid) = ("https://a.net", "7a99b43c-b46c-432b-b0a7-814217701909");
    let by_guid = format!("https://a.net/?w={guid}");
    assert_resolved(&[
        (
            "https://a.net/?o=12345",
            &[],
            host,
            &[("workspace_id", "12345")],
        ),
        (
            "https://a.net/?workspace_id=12345",
            &[],
            host,
            &[("workspace_id", "12345")],
        ),
        ("https://a.net/?a=abc", &[], host, &[("account_id", "abc")]),
        (
            "https://a.net/?account_id=abc",
            &[],
            host,
            &[("account_id", "abc")],
        ),
        (
            "https://a.net/?o=12345&a=abc",
            &[],
            host,
            &[("workspace_id", "12345"), ("account_id", "abc")],
        ),
        (
            "https://a.net/?o=notanumber",
            &[],
            host,
            &[("workspace_id", "")],
        ),
        (&by_guid, &[], host, &[("workspace_id", guid)]),
        (
            "https://a.net/?w=12345&o=99999",
            &[],
            host,
            &[("workspace_id", "12345")],
        ),
    ]);
}

#[test]
fn an_explicit_id_overrides_that_of_the_query() {
    let id = &[("workspace_id", "99999")];
    assert_resolved(&[("https://a.net/?o=12345", id, "https://a.net", id)]);
}

#[test]
fn an_invalid_host_is_rejected() {
    for (host, expected) in [
        ("https://:443", "no host configured"),
        ("https://accounts.cloud.databricks.com", "account console"),
        (
            "https://accounts-dod.cloud.databricks.us",
            "account console",
        ),
        ("http://abc.def", "in plaintext"),
        ("https://u:p@abc.def", "contains a user or password"),
    ] {
        let vars = [("DATABRICKS_HOST", host), ("DATABRICKS_TOKEN", "t")];
        let error = configured(&[], &vars).expect_err(host).to_string();
        assert!(
            error.contains(expected) && error.contains("DATABRICKS_HOST"),
            "{error}"
        );
    }
}

#[test]
fn the_workspace_id_none_counts_as_unset() {
    let vars = [
        ("DATABRICKS_HOST", "https://x"),
        ("DATABRICKS_TOKEN", "t"),
        ("DATABRICKS_WORKSPACE_ID", "none"),
    ];
    let config = configured(&[], &vars).expect("a configuration");
    assert_eq!(setting(&config, "workspace_id"), None);
}

#[tokio::test]
async fn scopes_are_sorted_without_duplicates_and_default_to_all_apis() {
    let stub = Stub::workspace().await;
    for (scopes, expected) in [
        ("jobs,clusters,mlflow", "clusters jobs mlflow"),
        ("clusters,jobs,clusters", "clusters jobs"),
        (
            "clusters, jobs  mlflow,pipelines",
            "clusters jobs mlflow pipelines",
        ),
        ("", "all-apis"),
        ("   ", "all-apis"),
        (",", "all-apis"),
        (
            "jobs:read, clusters, mlflow:read",
            "clusters jobs:read mlflow:read",
        ),
    ] {
        let explicit = [
            ("host", stub.url.as_str()),
            ("client_id", "a"),
            ("client_secret", "b"),
            ("scopes", scopes),
        ];
        handle(&explicit, &[])
            .credential()
            .await
            .expect("a credential");
        let sent = stub.last(TOKEN).field("scope");
        assert_eq!(sent.as_deref(), Some(expected), "{scopes}");
    }
}

#[tokio::test]
async fn scopes_come_from_a_profile() {
    let stub = Stub::workspace().await;
    let home = Home::with_profiles(M);
    for (profile, expected) in [
        ("scope-empty", "all-apis"),
        (
            "scope-multiple",
            "clusters files:read iam:read jobs mlflow model-serving:read pipelines",
        ),
    ] {
        let vars = [
            ("HOME", home.as_str()),
            ("DATABRICKS_CONFIG_PROFILE", profile),
            ("DATABRICKS_HOST", &stub.url),
        ];
        handle(&[], &vars).credential().await.expect("a credential");
        let sent = stub.last(TOKEN).field("scope");
        assert_eq!(sent.as_deref(), Some(expected), "{profile}");
    }
}

#[test]
fn the_file_of_an_identity_token_has_two_variables_and_code_overrides_both() {
    let host = ("DATABRICKS_HOST", "https://x");
    let (path, alias) = (
        ("DATABRICKS_OIDC_TOKEN_FILEPATH", "/p"),
        ("DATABRICKS_OIDC_TOKEN_FILE", "/a"),
    );
    for (explicit, vars, expected) in [
        (&[][..], &[host, alias][..], "/a"),
        (&[], &[host, alias, path], "/p"),
        (&[("oidc_token_filepath", "/e")], &[host, alias, path], "/e"),
    ] {
        let config = configured(explicit, vars).expect("a configuration");
        let found = setting(&config, "oidc_token_filepath");
        assert_eq!(found.as_deref(), Some(expected), "{vars:?}");
        assert_eq!(config.auth_type(), Some("file-oidc"));
    }
}
