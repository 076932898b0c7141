//! Unchanged: it knows nothing of Lakebase.

use sea_orm_migration::prelude::*;
use shelf_migration::Migrator;

#[tokio::main]
async fn main() {
    cli::run_cli(Migrator).await;
}
