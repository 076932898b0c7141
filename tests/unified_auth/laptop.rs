//! A laptop after `databricks auth login`: a profile and an endpoint.

use lakebase_core::{Config, Lakebase};
use lakebase_local::SignIn;
use lakebase_tests::{local, soon};

use crate::home::Home;

#[tokio::test]
async fn a_profile_of_the_cli_and_an_endpoint_or_a_branch_are_enough() {
    let local = local().await;
    let home = Home::with_profiles(&format!(
        "[__settings__]\ndefault_profile = dev\n\n[dev]\nhost      = {}\nauth_type = databricks-cli\n",
        local.workspace_url()
    ));
    let tools = local.env_for(SignIn::DatabricksCli);
    let tools = tools
        .iter()
        .find(|(name, _)| name == "PATH")
        .expect("tools")
        .1
        .clone();
    for endpoint in [local.endpoint(), local.branch()] {
        let vars = [
            ("HOME", home.as_str().to_owned()),
            ("PATH", tools.clone()),
            ("LAKEBASE_ENDPOINT", endpoint.clone()),
        ];
        // A real endpoint has port 5432 and a certificate with a public root.
        let builder = Config::builder()
            .vars(vars)
            .port(local.postgres_port())
            .root_certificates(local.ca_file());
        let config = builder.build().expect("a configuration");
        assert_eq!(config.auth_type(), Some("databricks-cli"));
        let lakebase = Lakebase::new(config).expect("a handle");
        let (client, connection) = soon(lakebase.connect()).await.expect(&endpoint);
        let task = tokio::spawn(connection);
        let row = client.query_one("SELECT current_user::text", &[]).await;
        assert_eq!(row.expect("an answer").get::<_, String>(0), local.user());
        task.abort();
    }
}
