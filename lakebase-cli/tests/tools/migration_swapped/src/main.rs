//! The same after the swap: one line is another.

use shelf_migration::Migrator;

#[tokio::main]
async fn main() {
    lakebase_seaorm::migrations::run_cli(Migrator).await;
}
