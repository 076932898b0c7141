//! Host metadata and its use.

use crate::stub::{Answer, CREDENTIALS, DISCOVERY, METADATA, Seen, Stub, TOKEN};
use crate::{Pairs, configured, handle};

const M2M: Pairs<'static> = &[("client_id", "a"), ("client_secret", "b")];

/// A workspace with this host metadata, in which `{url}` is its own URL.
async fn with_metadata(text: &'static str) -> Stub {
    Stub::start(move |seen: &Seen| {
        let own = |path: &str| format!("{{\"token_endpoint\": \"{}{path}\"}}", seen.url);
        match seen.path.as_str() {
            METADATA => Some(Answer::json(text.replace("{url}", &seen.url))),
            "/oidc/accounts/acct/.well-known/oauth-authorization-server" => {
                Some(Answer::json(own("/account-token")))
            }
            "/elsewhere" => Some(Answer::json(own("/other-token"))),
            "/account-token" | "/other-token" => Some(Answer::json(crate::stub::token(1, 3600))),
            "/github" => Some(Answer::json("{\"value\": \"jwt\"}")),
            _ => None,
        }
    })
    .await
}

async fn authenticate(stub: &Stub, explicit: Pairs<'_>) {
    let mut all = vec![("host", stub.url.as_str())];
    all.extend(explicit);
    handle(&all, &[]).credential().await.expect("a credential");
}

#[tokio::test]
async fn host_metadata_names_the_oauth_document_and_the_workspace() {
    let text = r#"{"oidc_endpoint": "{url}/oidc/accounts/acct/", "account_id": "acct", "workspace_id": "77", "cloud": "AWS"}"#;
    let stub = with_metadata(text).await;
    authenticate(&stub, M2M).await;
    let document = "/oidc/accounts/acct/.well-known/oauth-authorization-server";
    // The default document is fetched at the same time, as most hosts name no other.
    let mut paths = stub.paths();
    paths[..2].sort_unstable();
    let expected = [METADATA, DISCOVERY, document, "/account-token", CREDENTIALS];
    assert_eq!(paths, expected);
    assert_eq!(
        stub.last(CREDENTIALS).header("x-databricks-workspace-id"),
        "77"
    );
}

#[tokio::test]
async fn the_host_metadata_may_contain_a_placeholder_for_the_account() {
    let text = r#"{"oidc_endpoint": "{url}/oidc/accounts/{account_id}", "workspace_id": "77"}"#;
    let stub = with_metadata(text).await;
    let mut explicit = M2M.to_vec();
    explicit.push(("account_id", "acct"));
    authenticate(&stub, &explicit).await;
    stub.last("/account-token");
    // Without an account id, the workspace's own document is used.
    authenticate(&stub, M2M).await;
    stub.last(TOKEN);
}

#[tokio::test]
async fn configured_values_override_the_host_metadata() {
    let text = r#"{"oidc_endpoint": "{url}/oidc/accounts/{account_id}", "account_id": "other", "workspace_id": "77"}"#;
    let stub = with_metadata(text).await;
    let mut explicit = M2M.to_vec();
    explicit.extend([("workspace_id", "1"), ("account_id", "acct")]);
    authenticate(&stub, &explicit).await;
    stub.last(METADATA);
    stub.last("/account-token");
    let sent = stub.last(CREDENTIALS);
    assert_eq!(sent.header("x-databricks-workspace-id"), "1");
    let elsewhere = format!("{}/elsewhere", stub.url);
    let mut explicit = M2M.to_vec();
    explicit.push(("discovery_url", elsewhere.as_str()));
    authenticate(&stub, &explicit).await;
    stub.last("/other-token");
}

#[tokio::test]
async fn host_metadata_that_could_not_be_read_is_requested_again() {
    let stub = Stub::start(|seen| match (seen.path.as_str(), seen.count) {
        (METADATA, 1) => Some(Answer::new(503, "")),
        (METADATA, _) => Some(Answer::json(format!(
            "{{\"oidc_endpoint\": \"{}/other\"}}",
            seen.url
        ))),
        ("/other/.well-known/oauth-authorization-server", _) => Some(Answer::json(format!(
            "{{\"token_endpoint\": \"{}/other-token\"}}",
            seen.url
        ))),
        // The first workspace token is accepted once.
        (CREDENTIALS, 2) => Some(Answer::new(401, "")),
        ("/other-token", _) => Some(Answer::json(crate::stub::token(1, 3600))),
        _ => None,
    })
    .await;
    let mut explicit = vec![("host", stub.url.as_str())];
    explicit.extend(M2M);
    let lakebase = handle(&explicit, &[]);
    let held = lakebase.credential().await.expect("a credential");
    stub.last(TOKEN);
    lakebase_core::adapter::reject(&lakebase, &held);
    lakebase.credential().await.expect("a credential");
    stub.last("/other-token");
}

#[tokio::test]
async fn host_metadata_may_be_empty_or_missing_or_invalid() {
    for answer in [
        Answer::json("{\"workspace_id\": \"77\"}"),
        Answer::new(500, "oops"),
        Answer::new(404, ""),
        Answer::new(200, "<html>sign in</html>").with("content-type", "text/html"),
    ] {
        let shown = format!("{answer:?}");
        let stub = Stub::start(move |seen| (seen.path == METADATA).then(|| answer.clone())).await;
        authenticate(&stub, M2M).await;
        assert_eq!(stub.seen(TOKEN).len(), 1, "{shown}");
    }
}

#[tokio::test]
async fn no_token_is_sent_to_an_endpoint_without_tls() {
    let stub = with_metadata(r#"{"oidc_endpoint": "http://example.com/oidc"}"#).await;
    authenticate(&stub, M2M).await;
    stub.last(TOKEN);
}

/// The audience in the request to GitHub.
async fn audience(stub: &Stub, explicit: Pairs<'_>) -> String {
    let url = format!("{}/github", stub.url);
    let mut all = vec![
        ("client_id", "a"),
        ("actions_id_token_request_url", url.as_str()),
        ("actions_id_token_request_token", "t"),
    ];
    all.extend(explicit);
    authenticate(stub, &all).await;
    stub.last("/github").field("audience").expect("an audience")
}

#[tokio::test]
async fn the_audience_of_identity_tokens_has_a_fixed_precedence_of_sources() {
    let account: Pairs<'_> = &[("account_id", "acct")];
    let own = |stub: &Stub| format!("{}{TOKEN}", stub.url);

    let stub = with_metadata("{}").await;
    assert_eq!(audience(&stub, account).await, "acct");
    assert_eq!(audience(&stub, &[]).await, own(&stub), "no account");

    let stub = with_metadata(r#"{"workspace_id": "77"}"#).await;
    assert_eq!(audience(&stub, account).await, own(&stub));

    let stub = with_metadata(
        r#"{"token_federation_default_oidc_audiences": ["told", "second"], "account_id": "acct"}"#,
    )
    .await;
    assert_eq!(audience(&stub, &[]).await, "told");
    assert_eq!(
        audience(&stub, &[("token_audience", "mine & yours")]).await,
        "mine & yours",
    );
    assert_eq!(
        audience(&stub, &[("audience", "go")]).await,
        "go",
        "the Go name"
    );

    let stub =
        Stub::start(|seen| (seen.path == "/github").then(|| Answer::json("{\"value\": \"jwt\"}")))
            .await;
    assert_eq!(
        audience(&stub, account).await,
        own(&stub),
        "no description at all"
    );
}

#[test]
fn the_cloud_follows_from_the_resource_id_the_setting_or_the_host_name() {
    let msi = |explicit: Pairs<'_>| {
        let mut all = vec![("auth_type", "azure-msi"), ("azure_use_msi", "true")];
        all.extend(explicit);
        configured(&all, &[]).is_ok()
    };
    let aws = ("host", "https://dbc-1.cloud.databricks.com");
    let resource = ("azure_workspace_resource_id", "/a/b/c");
    assert!(msi(&[aws, ("cloud", "AZURE")]));
    assert!(msi(&[aws, ("cloud", "azure")]));
    assert!(msi(&[aws, resource, ("cloud", "AWS")]));
    assert!(!msi(&[aws]));
    assert!(!msi(&[
        ("host", "https://adb-1.azuredatabricks.net"),
        ("cloud", "AWS")
    ]));
    assert!(msi(&[
        ("host", "https://adb-1.azuredatabricks.net"),
        ("cloud", "moon")
    ]));
    for name in [
        "adb-1.azuredatabricks.net",
        "adb-1.databricks.azure.us",
        "adb-1.databricks.azure.cn",
    ] {
        assert!(msi(&[("host", name)]), "{name}");
    }
}

#[tokio::test]
async fn a_strategy_that_does_not_need_the_metadata_does_not_request_it() {
    let stub = with_metadata(r#"{"workspace_id": "77"}"#).await;
    authenticate(&stub, &[("token", "dapi")]).await;
    authenticate(&stub, &[("username", "u"), ("password", "p")]).await;
    assert_eq!(stub.paths(), [CREDENTIALS, CREDENTIALS]);
    let sent = stub.last(CREDENTIALS);
    assert_eq!(sent.header("x-databricks-workspace-id"), "");
    authenticate(&stub, &[("token", "dapi"), ("workspace_id", "1")]).await;
    assert_eq!(
        stub.last(CREDENTIALS).header("x-databricks-workspace-id"),
        "1",
    );
}
