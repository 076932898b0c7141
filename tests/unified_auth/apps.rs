//! Databricks Apps: the variables that the platform injects, and no code.

use lakebase_core::{Config, Lakebase};
use lakebase_tests::{local, soon};

#[tokio::test]
async fn the_variables_of_databricks_apps_are_enough() {
    let local = local().await;
    let env = local.env();
    let given = |name: &str| {
        let found = env.iter().find(|(key, _)| key == name);
        found.expect(name).1.clone()
    };
    let vars = [
        // The platform sets it without a scheme, which means https.
        ("DATABRICKS_HOST", local.workspace_url()),
        ("DATABRICKS_CLIENT_ID", given("DATABRICKS_CLIENT_ID")),
        (
            "DATABRICKS_CLIENT_SECRET",
            given("DATABRICKS_CLIENT_SECRET"),
        ),
        ("DATABRICKS_WORKSPACE_ID", "1234567890123456".to_owned()),
        ("DATABRICKS_APP_NAME", "shop".to_owned()),
        ("DATABRICKS_APP_PORT", "8000".to_owned()),
        ("PGHOST", given("PGHOST")),
        ("PGPORT", given("PGPORT")),
        ("PGDATABASE", "databricks_postgres".to_owned()),
        ("PGUSER", given("DATABRICKS_CLIENT_ID")),
        ("PGSSLMODE", "require".to_owned()),
        ("PGAPPNAME", "shop".to_owned()),
        ("LAKEBASE_ENDPOINT", local.endpoint()),
        // The platform's certificates have a public root.
        ("PGSSLROOTCERT", given("PGSSLROOTCERT")),
    ];
    let lakebase = Lakebase::new(Config::from_vars(vars).expect("a configuration"));
    let lakebase = lakebase.expect("a handle");
    let (client, connection) = soon(lakebase.connect()).await.expect("a login");
    let task = tokio::spawn(connection);
    let row = client
        .query_one(
            "SELECT current_user::text, current_setting('application_name')",
            &[],
        )
        .await
        .expect("an answer");
    assert_eq!(row.get::<_, String>(0), local.client_id());
    assert_eq!(row.get::<_, String>(1), "shop");
    task.abort();
}
