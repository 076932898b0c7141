//! Rehearses two pending migrations on a temporary branch with 100,000 orders, prints the report, and runs them if their locks
//! do not block other sessions for long.

use std::time::Duration;

use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use lakebase_core::Lakebase;
use lakebase_diesel::migrations::Migrations;
use lakebase_examples::{Example, Result, SCHEMA};

const APPLIED: EmbeddedMigrations = embed_migrations!("migrations");
/// The first one is harmless. The second one rewrites the table of orders.
const PENDING: EmbeddedMigrations = embed_migrations!("pending");

/// No query of the shop may wait for longer.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

#[tokio::main]
async fn main() -> Result<()> {
    // In your program: `let lakebase = Lakebase::from_env()?;`
    let example = Example::start().await?;
    let migrations = Migrations::new(&example.lakebase)
        .schema(SCHEMA)
        .create_schema(true);
    migrations.run(APPLIED).await?;
    if example.local.is_some() {
        fill(&example.lakebase).await?;
    }

    let ran = migrations
        .run_after_rehearsal(
            || PENDING,
            |report| {
                println!("{report}");
                report.blocking_locks(LONGEST_WAIT).next().is_none()
            },
        )
        .await?;
    println!("ran {}", ran.join(", "));

    example.stop().await;
    Ok(())
}

async fn fill(lakebase: &Lakebase) -> Result<()> {
    let (client, connection) = lakebase.connect().await?;
    tokio::spawn(connection);
    let sql = "INSERT INTO customers (name) SELECT 'Customer ' || n FROM generate_series(1, 1000) n; \
               INSERT INTO orders (customer_id, cents) \
               SELECT n % 1000 + 1, n FROM generate_series(1, 100000) n";
    client.batch_execute(sql).await?;
    Ok(())
}
