//! Entra ID: service principals, managed identities, the Azure CLI.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use lakebase_core::Lakebase;
use lakebase_core::config::AzureEndpoints;

use crate::home::{AZ, Home};
use crate::stub::{Answer, CREDENTIALS, Seen, Stub};
use crate::{Pairs, builder, configured, handle};

const APPLICATION: &str = "2ff814a6-3304-4ab8-85cb-cd0e6f879c1d";

fn endpoints(url: &str) -> AzureEndpoints {
    let [login, manager, management] = ["login", "arm", "sm"].map(|path| format!("{url}/{path}/"));
    let mut endpoints = AzureEndpoints::new(login, manager, management);
    endpoints.instance_metadata = format!("{url}/imds/");
    endpoints
}

/// A workspace with Entra ID, Resource Manager and the metadata service. It redirects `/aad/auth` to `location`.
async fn azure(location: Option<&'static str>, status: u16) -> Stub {
    Stub::start(move |seen: &Seen| {
        let resource = seen.field("resource").unwrap_or_default();
        let kind = match resource.as_str() {
            APPLICATION => "cde",
            other if other.ends_with("/sm/") => "def",
            _ => "arm",
        };
        let token = format!("{{\"access_token\":\"{kind}\",\"token_type\":\"bearer\",\"expires_on\":\"4102444800\"}}");
        match seen.path.as_str() {
            "/aad/auth" => {
                let answer = Answer::new(status, "");
                let to = location.map(|to| to.replace("{url}", &seen.url));
                Some(match to {
                    Some(to) => answer.with("location", to),
                    None => answer,
                })
            }
            "/metadata/identity/oauth2/token" => Some(Answer::json(token)),
            path if path.starts_with("/login/") => Some(Answer::json(token)),
            "/arm/a/b/c" => Some(Answer::json(format!(
                "{{\"properties\":{{\"workspaceUrl\":\"{}\"}}}}",
                seen.url
            ))),
            _ => None,
        }
    })
    .await
}

fn lakebase(stub: &Stub, explicit: Pairs<'_>) -> Lakebase {
    let builder = builder(explicit, &[]).azure_endpoints(endpoints(&stub.url));
    Lakebase::new(builder.build().expect("a configuration")).expect("a handle")
}

#[tokio::test]
async fn the_tenant_comes_from_the_login_page_that_the_workspace_redirects_to() {
    for (location, status, tenant) in [
        (None, 404, None),
        (None, 302, None),
        (Some("https://unexpected-location"), 302, None),
        (
            Some("{url}/login/tenant-id/oauth2/authorize?x=1"),
            302,
            Some("tenant-id"),
        ),
    ] {
        let stub = azure(location, status).await;
        let explicit = [
            ("host", stub.url.as_str()),
            ("cloud", "AZURE"),
            ("azure_client_id", "id"),
            ("azure_client_secret", "hush"),
        ];
        let outcome = lakebase(&stub, &explicit).credential().await;
        match tenant {
            Some(tenant) => {
                outcome.expect("a credential");
                let path = format!("/login/{tenant}/oauth2/token");
                let requests = stub.seen(&path);
                assert_eq!(requests.len(), 2, "{location:?}");
                assert_eq!(requests[0].field("resource").as_deref(), Some(APPLICATION));
                assert_eq!(requests[0].field("client_secret").as_deref(), Some("hush"));
                assert_eq!(requests[0].field("scope"), None);
                assert_eq!(
                    requests[1].field("resource"),
                    Some(format!("{}/sm/", stub.url))
                );
            }
            None => {
                let error = outcome.expect_err("no tenant").to_string();
                assert!(
                    error.contains("ARM_TENANT_ID is not set"),
                    "{location:?}: {error}"
                );
                assert_eq!(stub.seen("/aad/auth").len(), 1, "{location:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_call_carries_both_tokens_and_the_resource_id() {
    let stub = azure(None, 404).await;
    let explicit = [
        ("host", stub.url.as_str()),
        ("azure_tenant_id", "t"),
        ("azure_client_id", "id"),
        ("azure_client_secret", "hush"),
        ("azure_workspace_resource_id", "/a/b/c"),
    ];
    lakebase(&stub, &explicit)
        .credential()
        .await
        .expect("a credential");
    let sent = stub.last(CREDENTIALS);
    assert_eq!(sent.header("authorization"), "Bearer cde");
    assert_eq!(sent.header("x-databricks-azure-sp-management-token"), "def");
    assert_eq!(
        sent.header("x-databricks-azure-workspace-resource-id"),
        "/a/b/c"
    );
    assert!(stub.seen("/aad/auth").is_empty(), "the tenant is known");
}

#[tokio::test]
async fn a_managed_identity_finds_the_workspace_by_its_resource_id() {
    let stub = azure(None, 404).await;
    let explicit = [
        ("azure_use_msi", "true"),
        ("azure_workspace_resource_id", "/a/b/c"),
        ("azure_client_id", "mine"),
    ];
    lakebase(&stub, &explicit)
        .credential()
        .await
        .expect("a credential");
    let requests = stub.seen("/metadata/identity/oauth2/token");
    let resources: Vec<String> = requests
        .iter()
        .filter_map(|seen| seen.field("resource"))
        .collect();
    let (arm, management) = (format!("{}/arm/", stub.url), format!("{}/sm/", stub.url));
    assert_eq!(resources, [arm, APPLICATION.to_owned(), management]);
    for seen in &requests {
        assert_eq!(seen.header("metadata"), "true");
        assert_eq!(seen.field("api-version").as_deref(), Some("2018-02-01"));
        assert_eq!(seen.field("client_id").as_deref(), Some("mine"));
    }
    let found = stub.last("/arm/a/b/c");
    assert_eq!(found.header("authorization"), "Bearer arm");
    assert_eq!(found.field("api-version").as_deref(), Some("2018-04-01"));
    let sent = stub.last(CREDENTIALS);
    assert_eq!(sent.header("authorization"), "Bearer cde");
    assert_eq!(sent.header("x-databricks-azure-sp-management-token"), "def");
    assert_eq!(
        sent.header("x-databricks-azure-workspace-resource-id"),
        "/a/b/c"
    );
}

/// Authenticates with a fake Azure CLI. Returns its command lines and the last mint.
async fn with_az(stub: &Stub, explicit: Pairs<'_>, vars: Pairs<'_>) -> (Vec<String>, Seen) {
    let home = Home::new();
    let path = home.program("az", AZ);
    let mut all = vec![("HOME", home.as_str()), ("PATH", path.as_str())];
    all.extend(vars);
    let mut settings = vec![("host", stub.url.as_str()), ("cloud", "AZURE")];
    settings.extend(explicit);
    handle(&settings, &all)
        .credential()
        .await
        .expect("a credential");
    let commands = home.read("az.log").lines().map(str::to_owned).collect();
    (commands, stub.last(CREDENTIALS))
}

fn jwt(claims: &str) -> String {
    format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims))
}

#[tokio::test]
async fn the_azure_cli_authenticates_users_and_service_principals() {
    let stub = Stub::workspace().await;
    let resource: Pairs<'_> = &[("azure_workspace_resource_id", "/subscriptions/sub/ws")];
    let management = "https://management.core.windows.net/";

    let (commands, sent) = with_az(&stub, resource, &[]).await;
    assert_eq!(
        sent.header("x-databricks-azure-workspace-resource-id"),
        "/subscriptions/sub/ws",
    );
    assert_eq!(sent.header("x-databricks-azure-sp-management-token"), "aad");
    assert_eq!(
        commands,
        [
            format!(
                "account get-access-token --resource {APPLICATION} --output json --subscription sub"
            ),
            format!(
                "account get-access-token --resource {management} --output json --subscription sub"
            ),
        ]
    );

    let human = jwt(r#"{"upn": "ana@example.com"}"#);
    let (_, sent) = with_az(&stub, resource, &[("AZ_TOKEN", &human)]).await;
    assert_eq!(sent.header("x-databricks-azure-sp-management-token"), "");
    assert_eq!(sent.header("authorization"), format!("Bearer {human}"));
    let machine = jwt(r#"{"appid": "x"}"#);
    let (_, sent) = with_az(&stub, resource, &[("AZ_TOKEN", &machine)]).await;
    assert_eq!(
        sent.header("x-databricks-azure-sp-management-token"),
        machine,
    );

    let (_, sent) = with_az(&stub, resource, &[("FAIL_IF", management)]).await;
    assert_eq!(sent.header("x-databricks-azure-sp-management-token"), "");

    let (commands, _) = with_az(&stub, resource, &[("FAIL_IF", "sub")]).await;
    let expected = format!("account get-access-token --resource {APPLICATION} --output json");
    assert_eq!(commands[0], expected);
}

#[tokio::test]
async fn the_azure_cli_keeps_the_first_arguments_that_succeeded() {
    // With and without a subscription, the tool may be logged in as different identities.
    let stub = Stub::start(|seen| {
        (seen.path == CREDENTIALS && seen.count == 2).then(|| Answer::new(401, ""))
    })
    .await;
    let home = Home::new();
    let script = format!("[ -e \"$HOME/gone\" ] && FAIL_IF=sub\n{AZ}");
    let path = home.program("az", &script);
    let vars = [("HOME", home.as_str()), ("PATH", path.as_str())];
    let explicit = [
        ("host", stub.url.as_str()),
        ("azure_workspace_resource_id", "/subscriptions/sub/ws"),
    ];
    let lakebase = handle(&explicit, &vars);
    let held = lakebase.credential().await.expect("a credential");
    std::fs::write(home.path().join("gone"), "").expect("a file");
    lakebase_core::adapter::reject(&lakebase, &held);
    let error = lakebase
        .credential()
        .await
        .expect_err("the subscription is gone");
    assert!(error.to_string().contains("refused sub"), "{error}");
}

#[test]
fn entra_tokens_go_to_azure_only() {
    let explicit = [
        ("host", "https://dbc-1.cloud.databricks.com"),
        ("azure_client_id", "id"),
        ("azure_client_secret", "s"),
        ("azure_tenant_id", "t"),
    ];
    let error = configured(&explicit, &[]).expect_err("AWS").to_string();
    assert!(
        error.contains("azure-client-secret") && error.contains("DATABRICKS_CLOUD"),
        "{error}"
    );
}

#[tokio::test]
async fn the_tenant_is_omitted_for_a_managed_identity() {
    let stub = Stub::workspace().await;
    let tenant: Pairs<'_> = &[("azure_tenant_id", "mine")];
    for (kind, name, has_tenant) in [
        ("user", "ana", true),
        ("servicePrincipal", "app", true),
        ("servicePrincipal", "systemAssignedIdentity", false),
        ("servicePrincipal", "userAssignedIdentity", false),
    ] {
        let (commands, _) = with_az(&stub, tenant, &[("AZ_TYPE", kind), ("AZ_NAME", name)]).await;
        assert_eq!(commands[0], "account show --output json");
        assert_eq!(
            commands[1].ends_with("--tenant mine"),
            has_tenant,
            "{commands:?}"
        );
    }
}

#[tokio::test]
async fn the_environment_names_the_cloud_without_a_host() {
    for (name, login) in [
        ("public", "https://management.azure.com/"),
        ("AzurePublicCloud", "https://management.azure.com/"),
        ("usgovernment", "https://management.usgovcloudapi.net/"),
        ("AzureUSGovernment", "https://management.usgovcloudapi.net/"),
        ("china", "https://management.chinacloudapi.cn/"),
        ("AzureChinaCloud", "https://management.chinacloudapi.cn/"),
    ] {
        let home = Home::new();
        let path = home.program("az", AZ);
        // The tool refuses a token for Resource Manager, so no request is sent.
        let vars = [
            ("HOME", home.as_str()),
            ("PATH", path.as_str()),
            ("FAIL_IF", login),
        ];
        let explicit = [
            ("azure_workspace_resource_id", "/a/b/c"),
            ("azure_environment", name),
            ("auth_type", "azure-cli"),
        ];
        let error = handle(&explicit, &vars)
            .credential()
            .await
            .expect_err("refused");
        let expected = format!("refused {login}");
        assert!(error.to_string().contains(&expected), "{name}: {error}");
    }
    let explicit = [
        ("azure_use_msi", "true"),
        ("azure_workspace_resource_id", "/a/b/c"),
        ("azure_environment", "moon"),
    ];
    let error = configured(&explicit, &[])
        .expect_err("no such cloud")
        .to_string();
    assert!(
        error.contains("moon") && error.contains("azure_environment"),
        "{error}"
    );
}

#[tokio::test]
async fn an_unreadable_reply_is_an_error_and_no_other_identity_is_used() {
    for (answer, expected) in [
        ("{accessToken: ..corrupt", "cannot unmarshal CLI result"),
        (
            "{\"accessToken\": \"x\", \"expiresOn\": \"\"}",
            "cannot parse expiry",
        ),
    ] {
        let home = Home::new();
        let path = home.program("az", &format!("echo '{answer}'"));
        let vars = [("PATH", path.as_str())];
        let explicit = [("host", "https://adb-1.azuredatabricks.net")];
        let error = handle(&explicit, &vars)
            .credential()
            .await
            .expect_err(answer);
        let text = error.to_string();
        assert!(
            text.contains(expected) && text.contains("azure-cli"),
            "{text}"
        );
    }
}
