//! The shop on each kind of pool. Each pool has its own handle, so that its logins and queries have its name.

use std::time::Duration;

use axum::Router;
use diesel_async::RunQueryDsl as _;
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use lakebase_core::opentelemetry::{Observation, Observer};
use lakebase_core::{Config, Lakebase};
use lakebase_diesel::PoolExt as _;
use lakebase_diesel::migrations::Migrations;
use lakebase_examples::Result;
use lakebase_examples::shop::{with_diesel, with_seaorm};
use lakebase_local::{LocalLakebase, LoginFault};
use lakebase_seaorm::PoolExt as _;
use tokio::net::TcpListener;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("src/shop/with_diesel/migrations");

/// How long callers wait in the pool with one connection.
const TIMEOUT: Duration = Duration::from_secs(1);

/// A parameter of statements.
pub(crate) const CUSTOMER: &str = "Ann of Telemetry";

/// A pool whose handle is observed until this is dropped.
pub(crate) struct Observed {
    pub(crate) lakebase: Lakebase,
    _observations: Vec<Observation>,
}

fn handle(local: &LocalLakebase) -> Result<Lakebase> {
    Ok(Lakebase::new(Config::from_vars(local.env())?)?)
}

pub(crate) async fn bb8(local: &LocalLakebase) -> Result<Observed> {
    let lakebase = handle(local)?;
    let builder = lakebase_diesel::bb8::Builder::new().max_size(1);
    let pool = builder.connection_timeout(TIMEOUT).build_lazy(&lakebase);
    let observed = pool.clone();
    let observation = Observer::new("bb8")
        .lakebase(&lakebase)
        .pool(move || observed.stats())
        .node_driver_names(true)
        .start();

    local.fail_logins(1, LoginFault::refuse("3D000", "no such database"));
    let failed = lakebase_diesel::connect(&lakebase).await;
    failed.err().ok_or("the login did not fail")?;

    let migrations = Migrations::new(&lakebase)
        .schema("shop")
        .create_schema(true);
    migrations.run(MIGRATIONS).await?;
    visit(with_diesel::routes((*pool).clone())).await?;

    let held = pool.get().await?;
    let late = pool.get().await;
    late.err().ok_or("the pool has a second connection")?;
    drop(held);
    Ok(Observed {
        lakebase,
        _observations: vec![observation],
    })
}

pub(crate) async fn deadpool(local: &LocalLakebase) -> Result<Observed> {
    let lakebase = handle(local)?;
    let pool = lakebase_diesel::deadpool::Builder::new().build_lazy(&lakebase)?;
    let customers = pool.clone();
    let observation = Observer::new("deadpool")
        .lakebase(&lakebase)
        .pool(move || pool.stats())
        .start();
    let mut connection = customers.get().await?;
    let order =
        "INSERT INTO shop.orders (user_id, item, cents) SELECT id, 'cake', 450 FROM shop.users";
    diesel::sql_query(order).execute(&mut connection).await?;
    let same_names = diesel::sql_query("INSERT INTO shop.users (name) SELECT name FROM shop.users");
    let failed = same_names.execute(&mut connection).await;
    failed.err().ok_or("two users have the same name")?;
    Ok(Observed {
        lakebase,
        _observations: vec![observation],
    })
}

pub(crate) async fn seaorm(local: &LocalLakebase) -> Result<Observed> {
    let lakebase = handle(local)?;
    // The handle is observed before `connect` logs in.
    let logins = Observer::new("seaorm").lakebase(&lakebase).start();
    let db = lakebase_seaorm::connect(&lakebase).await?;
    let observed = db.clone();
    let connections = Observer::new("seaorm")
        .pool(move || observed.stats())
        .start();
    with_seaorm::migrate(&db).await?;
    visit(with_seaorm::routes(db)).await?;
    Ok(Observed {
        lakebase,
        _observations: vec![logins, connections],
    })
}

#[cfg(feature = "r2d2")]
pub(crate) fn r2d2(local: &LocalLakebase) -> Result<Observed> {
    use diesel::connection::{Connection as _, get_default_instrumentation};
    use lakebase_diesel::opentelemetry::instrumentation;

    let lakebase = handle(local)?;
    let logins = Observer::new("r2d2").lakebase(&lakebase).start();
    let pool = lakebase_diesel::r2d2::connect(&lakebase)?;
    let observed = pool.clone();
    let connections = Observer::new("r2d2").pool(move || observed.stats()).start();
    let mut connection = pool.get()?;
    connection.set_instrumentation(instrumentation(&lakebase, get_default_instrumentation()));
    let raise = diesel::sql_query("UPDATE shop.orders SET cents = cents + 1");
    diesel::RunQueryDsl::execute(raise, &mut *connection)?;
    Ok(Observed {
        lakebase,
        _observations: vec![logins, connections],
    })
}

/// Sends a customer's requests. Creating a second user of the same name fails.
async fn visit(shop: Router) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let server = tokio::spawn(async move { axum::serve(listener, shop).await });
    let client = reqwest::Client::new();
    let name = serde_json::json!({ "name": CUSTOMER });
    for _ in 0..2 {
        client
            .post(format!("{url}/api/users"))
            .json(&name)
            .send()
            .await?;
    }
    let order = [("name", CUSTOMER), ("item", "tea"), ("price", "2.50")];
    let page = client.post(&url).form(&order).send().await?;
    page.error_for_status()?;
    let orders = client.get(format!("{url}/api/orders")).send().await?;
    orders.error_for_status()?;
    server.abort();
    Ok(())
}
