//! Runs diesel migrations in their own schema, and prints the progress. Several copies may run at once.

use std::error::Error;
use std::time::Duration;

use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use lakebase_diesel::migrations::{Migrations, Progress};
use lakebase_examples::{SCHEMA, place};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    // In your program: `let lakebase = Lakebase::from_env()?;`
    let place = place(Duration::from_secs(3600), None).await?;

    let migrations = Migrations::new(&place.lakebase)
        .schema(SCHEMA)
        .create_schema(true)
        .on_progress(|progress| match progress {
            Progress::Waiting => println!("another replica is migrating; waiting for it"),
            Progress::Ran {
                migration, took, ..
            } => println!("ran {migration} in {took:?}"),
            Progress::Reverted {
                migration, took, ..
            } => println!("reverted {migration} in {took:?}"),
            _ => {}
        });
    let ran = migrations.run(MIGRATIONS).await?;
    println!("{} migrations were pending", ran.len());
    if place.local.is_some() {
        // Only locally, as this drops the tables.
        migrations.redo(MIGRATIONS, 1).await?;
    }
    let pending = migrations.pending(MIGRATIONS).await?;
    println!("{} are pending now", pending.len());

    place.leave().await;
    Ok(())
}
