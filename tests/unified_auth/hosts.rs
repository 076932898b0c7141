//! Hosts, scopes and aliases.

use std::ops::RangeInclusive;

use crate::home::{Home, M};
use crate::stub::{Stub, TOKEN};
use crate::{Pairs, configured, handle, setting};

pub(crate) const VECTORS: &[RangeInclusive<u16>] = &[42..=48, 50..=56];

#[test]
fn hosts_are_normalised_and_their_queries_fill_what_is_unset() {
    let cases: &[(u16, &str, Pairs<'_>, &str, Pairs<'_>)] = &[
        (42, "https://abc.def.ghi", &[], "https://abc.def.ghi", &[]),
        (42, "https://abc.def.ghi/", &[], "https://abc.def.ghi", &[]),
        (42, "abc.def.ghi", &[], "https://abc.def.ghi", &[]),
        (42, "abc.def.ghi/", &[], "https://abc.def.ghi", &[]),
        (
            42,
            "https://abc.def.ghi:443",
            &[],
            "https://abc.def.ghi",
            &[],
        ),
        (42, "abc.def.ghi:443", &[], "https://abc.def.ghi", &[]),
        (
            42,
            "https://abc.def:8443/",
            &[],
            "https://abc.def:8443",
            &[],
        ),
        (
            42,
            "http://localhost:8080/",
            &[],
            "http://localhost:8080",
            &[],
        ),
        (
            42,
            "https://abc.def/some/path/",
            &[],
            "https://abc.def",
            &[],
        ),
        (
            43,
            "https://a.net/?o=12345",
            &[],
            "https://a.net",
            &[("workspace_id", "12345")],
        ),
        (
            44,
            "https://a.net/?workspace_id=12345",
            &[],
            "https://a.net",
            &[("workspace_id", "12345")],
        ),
        (
            44,
            "https://a.net/?a=abc",
            &[],
            "https://a.net",
            &[("account_id", "abc")],
        ),
        (
            44,
            "https://a.net/?account_id=abc",
            &[],
            "https://a.net",
            &[("account_id", "abc")],
        ),
        (
            44,
            "https://a.net/?o=12345&a=abc",
            &[],
            "https://a.net",
            &[("workspace_id", "12345"), ("account_id", "abc")],
        ),
        (
            45,
            "https://a.net/?o=12345",
            &[("workspace_id", "99999")],
            "https://a.net",
            &[("workspace_id", "99999")],
        ),
        (
            46,
            "https://a.net/?o=notanumber",
            &[],
            "https://a.net",
            &[("workspace_id", "")],
        ),
        (
            47,
            "https://a.net/?w=7a99b43c-b46c-432b-b0a7-814217701909",
            &[],
            "https://a.net",
            &[("workspace_id", "7a99b43c-b46c-432b-b0a7-814217701909")],
        ),
        (
            47,
            "https://a.net/?w=12345&o=99999",
            &[],
            "https://a.net",
            &[("workspace_id", "12345")],
        ),
    ];
    for (number, host, explicit, expected, settings) in cases {
        let vars = [("DATABRICKS_HOST", *host), ("DATABRICKS_TOKEN", "t")];
        let config = configured(explicit, &vars).unwrap_or_else(|error| panic!("{host}: {error}"));
        assert_eq!(
            setting(&config, "host").as_deref(),
            Some(*expected),
            "{number}"
        );
        for (name, value) in *settings {
            let found = setting(&config, name).unwrap_or_default();
            assert_eq!(found, *value, "{number}: {host}");
        }
    }
}

#[test]
fn a_host_that_cannot_be_one_is_refused() {
    for (host, expected) in [
        ("https://:443", "no host configured"),
        ("https://accounts.cloud.databricks.com", "account console"),
        (
            "https://accounts-dod.cloud.databricks.us",
            "account console",
        ),
        ("http://abc.def", "in clear"),
        ("https://u:p@abc.def", "holds a user or password"),
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
fn none_is_no_workspace_id() {
    let vars = [
        ("DATABRICKS_HOST", "https://x"),
        ("DATABRICKS_TOKEN", "t"),
        ("DATABRICKS_WORKSPACE_ID", "none"),
    ];
    let config = configured(&[], &vars).expect("a configuration");
    assert_eq!(setting(&config, "workspace_id"), None);
}

#[tokio::test]
async fn scopes_are_sorted_once_each_and_all_of_the_api_by_default() {
    let stub = Stub::workspace().await;
    for (number, scopes, expected) in [
        (50, "jobs,clusters,mlflow", "clusters jobs mlflow"),
        (51, "clusters,jobs,clusters", "clusters jobs"),
        (
            51,
            "clusters, jobs  mlflow,pipelines",
            "clusters jobs mlflow pipelines",
        ),
        (52, "", "all-apis"),
        (52, "   ", "all-apis"),
        (52, ",", "all-apis"),
        (
            54,
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
        assert_eq!(sent.as_deref(), Some(expected), "{number}");
    }
}

#[tokio::test]
async fn vectors_52_and_53_scopes_of_a_profile() {
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
fn the_file_of_an_identity_token_has_two_names_and_code_beats_both() {
    let host = ("DATABRICKS_HOST", "https://x");
    let (path, alias) = (
        ("DATABRICKS_OIDC_TOKEN_FILEPATH", "/p"),
        ("DATABRICKS_OIDC_TOKEN_FILE", "/a"),
    );
    for (number, explicit, vars, expected) in [
        (55, &[][..], &[host, alias][..], "/a"),
        (56, &[], &[host, alias, path], "/p"),
        (
            56,
            &[("oidc_token_filepath", "/e")],
            &[host, alias, path],
            "/e",
        ),
    ] {
        let config = configured(explicit, vars).expect("a configuration");
        let found = setting(&config, "oidc_token_filepath");
        assert_eq!(found.as_deref(), Some(expected), "{number}");
        assert_eq!(config.auth_type(), Some("file-oidc"));
    }
}
