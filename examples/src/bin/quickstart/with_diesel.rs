//! The diesel half: customers and their orders.

use diesel::prelude::*;
use diesel::sql_types::Text;
use diesel_async::{AsyncConnection, RunQueryDsl};
use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use lakebase_diesel::Lakebase;
use lakebase_diesel::bb8::Pool;
use lakebase_examples::Result;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");

diesel::table! {
    lakebase_examples.customers (id) {
        id -> BigInt,
        name -> Text,
    }
}

diesel::table! {
    lakebase_examples.orders (id) {
        id -> BigInt,
        customer_id -> BigInt,
        cents -> BigInt,
    }
}

diesel::joinable!(orders -> customers (customer_id));
diesel::allow_tables_to_appear_in_same_query!(customers, orders);

#[derive(Insertable)]
#[diesel(table_name = customers)]
struct NewCustomer<'a> {
    name: &'a str,
}

#[derive(Insertable)]
#[diesel(table_name = orders)]
struct NewOrder {
    customer_id: i64,
    cents: i64,
}

#[derive(QueryableByName)]
struct Version {
    #[diesel(sql_type = Text)]
    server_version: String,
}

pub(crate) async fn server_version(pool: &Pool) -> Result<String> {
    let mut connection = pool.get().await?;
    let row: Version = diesel::sql_query("SHOW server_version")
        .get_result(&mut connection)
        .await?;
    Ok(row.server_version)
}

pub(crate) async fn create_schema(pool: &Pool, schema: &str) -> Result<()> {
    let sql = format!("CREATE SCHEMA IF NOT EXISTS {schema}");
    diesel::sql_query(sql)
        .execute(&mut pool.get().await?)
        .await?;
    Ok(())
}

pub(crate) async fn migrate(lakebase: &Lakebase) -> Result<usize> {
    let ran = lakebase_diesel::migrations::run_pending(lakebase, MIGRATIONS).await?;
    Ok(ran.len())
}

/// Inserts two customers with three orders in one transaction. Returns an order to ship.
pub(crate) async fn place_orders(pool: &Pool) -> Result<i64> {
    let mut connection = pool.get().await?;
    let order = connection
        .transaction(async |connection| {
            let names = [NewCustomer { name: "Ada" }, NewCustomer { name: "Grace" }];
            let ids: Vec<i64> = diesel::insert_into(customers::table)
                .values(&names)
                .returning(customers::id)
                .get_results(connection)
                .await?;
            let new: Vec<_> = [(ids[0], 1_200), (ids[1], 3_400), (ids[1], 500)]
                .map(|(customer_id, cents)| NewOrder { customer_id, cents })
                .into();
            let orders: Vec<i64> = diesel::insert_into(orders::table)
                .values(&new)
                .returning(orders::id)
                .get_results(connection)
                .await?;
            Ok::<_, diesel::result::Error>(orders[1])
        })
        .await?;
    Ok(order)
}

pub(crate) async fn biggest_customer(pool: &Pool) -> Result<String> {
    let (name, cents): (String, i64) = orders::table
        .inner_join(customers::table)
        .order(orders::cents.desc())
        .select((customers::name, orders::cents))
        .first(&mut pool.get().await?)
        .await?;
    Ok(format!("{name} placed the biggest order, {cents} cents"))
}

/// Opens a new connection outside the pool.
pub(crate) async fn log_in(pool: &Pool) -> Result<()> {
    let mut connection = pool.dedicated_connection().await?;
    let count: i64 = orders::table.count().get_result(&mut connection).await?;
    match count {
        0 => Err("the orders are missing".into()),
        _ => Ok(()),
    }
}
