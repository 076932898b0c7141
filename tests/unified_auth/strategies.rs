//! Every way to sign in leads to Postgres, and goes on doing so.

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
async fn every_sign_in_logs_in_as_itself_and_renews_what_it_holds() {
    for way in SignIn::ALL {
        let local = local().await;
        let lakebase = lakebase(&local, way);
        let expected = match way.is_service_principal() {
            true => local.client_id(),
            false => local.user(),
        };
        for renewals in 0..=2 {
            assert_eq!(user(&lakebase, way).await, expected, "{way}");
            assert_eq!(local.counters().minted, renewals + 1, "{way}");
            // Both tokens are over: the one that minted, and the one that was minted.
            local.expire_workspace_tokens();
            local.revoke_tokens();
        }
        let sign_ins = local.events();
        let sign_ins = sign_ins
            .iter()
            .filter(|event| matches!(event.kind, EventKind::WorkspaceToken { .. }))
            .count();
        let expected = match way {
            SignIn::Pat | SignIn::Basic => 0,
            // One token for the workspace and one for Azure's own API each time; and one before, to
            // find the workspace, is not needed: the host is known.
            SignIn::AzureClientSecret | SignIn::AzureMsi => 6,
            _ => 3,
        };
        assert_eq!(sign_ins, expected, "{way}");
    }
}

#[tokio::test]
async fn a_workspace_on_azure_is_found_by_its_resource_id_alone() {
    for way in [
        SignIn::AzureClientSecret,
        SignIn::AzureMsi,
        SignIn::AzureCli,
    ] {
        let local = local().await;
        let mut vars = local.env_for(way);
        vars.retain(|(name, _)| name != "DATABRICKS_HOST");
        vars.push(("ARM_TENANT_ID".to_owned(), "local-tenant".to_owned()));
        let builder = Config::builder().vars(vars).azure_endpoints(azure(&local));
        let lakebase = Lakebase::new(builder.build().expect("a configuration")).expect("a handle");
        user(&lakebase, way).await;
    }
}

#[tokio::test]
async fn an_identity_of_the_whole_account_needs_no_client_id() {
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
