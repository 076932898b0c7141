//! Every strategy logs in to Postgres and renews its tokens.

use lakebase_core::config::AzureEndpoints;
use lakebase_core::{Config, Lakebase};
use lakebase_local::{EventKind, LocalLakebase, SignIn};
use lakebase_tests::{local, soon};

pub(crate) fn azure(local: &LocalLakebase) -> AzureEndpoints {
    let mut endpoints = AzureEndpoints::new(
        local.azure_login_url(),
        local.azure_resource_manager_url(),
        local.azure_service_management_url(),
    );
    endpoints.instance_metadata = local.azure_instance_metadata_url();
    endpoints
}

fn lakebase(local: &LocalLakebase, way: SignIn) -> Lakebase {
    let builder = Config::builder()
        .vars(local.env_for(way))
        .azure_endpoints(azure(local));
    let config = builder
        .build()
        .unwrap_or_else(|error| panic!("{way}: {error}"));
    assert_eq!(config.auth_type(), Some(way.name()));
    Lakebase::new(config).expect("a handle")
}

async fn user(lakebase: &Lakebase, way: SignIn) -> String {
    let login = soon(lakebase.connect()).await;
    let (client, connection) = login.unwrap_or_else(|error| panic!("{way}: {error:?}"));
    let task = tokio::spawn(connection);
    let row = client.query_one("SELECT current_user::text", &[]).await;
    let user = row.expect("an answer").get(0);
    task.abort();
    user
}

#[tokio::test]
async fn every_strategy_logs_in_as_its_identity_and_renews_its_tokens() {
    let local = local().await;
    for way in SignIn::ALL {
        let (minted, events) = (local.counters().minted, local.events().len());
        let lakebase = lakebase(&local, way);
        let expected = match way.is_service_principal() {
            true => local.client_id(),
            false => local.user(),
        };
        for renewals in 0..=2 {
            assert_eq!(user(&lakebase, way).await, expected, "{way}");
            assert_eq!(local.counters().minted - minted, renewals + 1, "{way}");
            // Both end: the workspace token and the database credential.
            local.expire_workspace_tokens();
            local.revoke_tokens();
        }
        let authentications = local.events();
        let authentications = authentications[events..]
            .iter()
            .filter(|event| matches!(event.kind, EventKind::WorkspaceToken { .. }))
            .count();
        let expected = match way {
            SignIn::Pat | SignIn::Basic => 0,
            // One token for the workspace and one for Azure's own API.
            SignIn::AzureClientSecret | SignIn::AzureMsi => 6,
            _ => 3,
        };
        assert_eq!(authentications, expected, "{way}");
    }
}

#[tokio::test]
async fn a_workspace_on_azure_is_found_by_its_resource_id_alone() {
    let local = local().await;
    for way in [
        SignIn::AzureClientSecret,
        SignIn::AzureMsi,
        SignIn::AzureCli,
    ] {
        let mut vars = local.env_for(way);
        vars.retain(|(name, _)| name != "DATABRICKS_HOST");
        vars.push(("ARM_TENANT_ID".to_owned(), "local-tenant".to_owned()));
        let builder = Config::builder().vars(vars).azure_endpoints(azure(&local));
        let lakebase = Lakebase::new(builder.build().expect("a configuration")).expect("a handle");
        user(&lakebase, way).await;
    }
}

#[tokio::test]
async fn an_identity_token_for_the_account_needs_no_client_id() {
    let local = local().await;
    let mut vars = local.env_for(SignIn::EnvOidc);
    vars.retain(|(name, _)| name != "DATABRICKS_CLIENT_ID");
    vars.push((
        "DATABRICKS_OIDC_TOKEN".to_owned(),
        local.id_token(local.user()),
    ));
    let config = Config::from_vars(vars).expect("a configuration");
    let lakebase = Lakebase::new(config).expect("a handle");
    assert_eq!(user(&lakebase, SignIn::EnvOidc).await, local.user());
}
