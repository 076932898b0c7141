//! Runs diesel migrations in their own schema, and prints the progress. Several copies may run at once.

use diesel_migrations::{EmbeddedMigrations, embed_migrations};
use lakebase_diesel::migrations::{Migrations, Progress};
use lakebase_examples::{Example, Result, SCHEMA};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");

#[tokio::main]
async fn main() -> Result<()> {
    // In your program: `let lakebase = Lakebase::from_env()?;`
    let example = Example::start().await?;

    let migrations = Migrations::new(&example.lakebase)
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
    if example.local.is_some() {
        // Only locally, as this drops the tables.
        migrations.redo(MIGRATIONS, 1).await?;
    }
    let pending = migrations.pending(MIGRATIONS).await?;
    println!("{} are pending now", pending.len());

    example.stop().await;
    Ok(())
}
