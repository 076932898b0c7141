//! A schema of one's own, on every connection.

use lakebase_core::Lakebase;
use lakebase_local::LocalLakebase;
use lakebase_tests::{
    ADAPTERS, Adapter, App, lakebase, lakebase_with, local, soon, through_every_adapter,
};

const IN_IT: &str = "DO $$ BEGIN ASSERT current_schema() = 'Shop One', current_setting('search_path'); \
                     PERFORM 1 FROM only_there; END $$";

async fn with_schema() -> LocalLakebase {
    let local = local().await;
    local
        .sql(
            "CREATE SCHEMA \"Shop One\"; GRANT USAGE ON SCHEMA \"Shop One\" TO PUBLIC; \
             CREATE TABLE \"Shop One\".only_there (); GRANT SELECT ON \"Shop One\".only_there TO PUBLIC",
        )
        .await
        .expect("a schema");
    local
        .create_native_role("native", "a-password")
        .await
        .expect("a role");
    local
}

fn pooled(local: &LocalLakebase, schema: &str) -> Lakebase {
    let changes = [
        ("LAKEBASE_ENDPOINT", ""),
        ("PGUSER", "native"),
        ("PGPASSWORD", "a-password"),
        ("PGHOST", local.pooled_host()),
        ("PGHOSTADDR", "127.0.0.1"),
        ("LAKEBASE_SCHEMA", schema),
    ];
    lakebase_with(local, &changes)
}

#[tokio::test]
async fn it_leads_the_search_path_of_every_connection() {
    let local = with_schema().await;
    through_every_adapter(|adapter| {
        let lakebase = lakebase_with(&local, &[("LAKEBASE_SCHEMA", "Shop One")]);
        async move {
            let app = App::start(adapter, &lakebase)
                .await
                .expect("an application");
            soon(app.run(IN_IT)).await.expect("in the schema");
            app.log_in().await.expect("another connection");
            soon(app.run(IN_IT)).await.expect("in the schema again");
        }
    })
    .await;
}

/// Not through SeaORM: its driver cannot connect to an address under another name, and nothing resolves
/// the name of the local pooler.
#[tokio::test]
async fn a_pooled_host_takes_no_search_path_so_the_role_has_it() {
    let local = with_schema().await;
    for adapter in ADAPTERS
        .into_iter()
        .filter(|&adapter| adapter != Adapter::SeaOrm)
    {
        let lakebase = pooled(&local, "Shop One");
        let app = App::start(adapter, &lakebase)
            .await
            .expect("an application");
        soon(app.run(IN_IT)).await.expect("in the schema");
    }
    // It was set once and found there afterwards; in this database only.
    let settings = "DO $$ BEGIN ASSERT (SELECT array_agg(setconfig::text) FROM pg_db_role_setting \
        WHERE setrole = 'native'::regrole AND setdatabase <> 0) \
        = ARRAY['{\"search_path=\\\"Shop One\\\", public\"}'], 'settings'; END $$";
    local.sql(settings).await.expect("the setting");
}

#[tokio::test]
async fn replicas_that_start_together_set_it_once() {
    let local = with_schema().await;
    let apps = (0..16).map(|_| async {
        let lakebase = pooled(&local, "Shop One");
        App::start(Adapter::DieselBb8, &lakebase)
            .await?
            .run(IN_IT)
            .await
    });
    for outcome in soon(futures_util::future::join_all(apps)).await {
        outcome.expect("in the schema");
    }
}

#[tokio::test]
async fn a_role_that_has_another_path_keeps_it_and_the_login_says_so() {
    let local = with_schema().await;
    local
        .sql("ALTER ROLE native SET search_path = other, public")
        .await
        .expect("a path");
    let lakebase = pooled(&local, "Shop One");
    let error = soon(lakebase.connect())
        .await
        .map(drop)
        .expect_err("refused");
    assert!(error.is_config(), "{error}");
    for word in ["schema", "\"native\"", "other, public", "role of its own"] {
        assert!(error.to_string().contains(word), "{word}: {error}");
    }
    // Its own choice is nobody's harm if it says the same.
    local
        .sql("ALTER ROLE native SET search_path = \"Shop One\"")
        .await
        .expect("a path");
    let app = App::start(Adapter::DieselBb8, &lakebase)
        .await
        .expect("an application");
    app.run(IN_IT).await.expect("in the schema");
}

#[tokio::test]
async fn without_one_a_pooled_host_is_left_alone() {
    let local = with_schema().await;
    let lakebase = pooled(&local, "");
    App::start(Adapter::TokioPostgres, &lakebase)
        .await
        .expect("an application");
    let nothing = "DO $$ BEGIN ASSERT NOT EXISTS (SELECT FROM pg_db_role_setting \
        WHERE setrole = 'native'::regrole), 'settings'; END $$";
    local.sql(nothing).await.expect("no setting");
    drop(self::lakebase(&local));
}
