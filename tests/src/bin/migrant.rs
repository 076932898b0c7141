//! A replica that migrates the folder of its argument. Tests kill it during a migration.

use diesel_migrations::FileBasedMigrations;
use lakebase_core::Lakebase;

fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let folder = std::env::args().nth(1).unwrap_or_default();
    let migrations = FileBasedMigrations::from_path(folder)?;
    let lakebase = Lakebase::from_env()?;
    lakebase_diesel::migrations::Migrations::new(&lakebase)
        .blocking()
        .run(migrations)?;
    Ok(())
}
