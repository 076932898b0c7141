//! A replica that migrates and may be killed in the middle: `migrant FOLDER`, set up by its environment.

use std::process::ExitCode;

use diesel_migrations::FileBasedMigrations;
use lakebase_core::Lakebase;

fn main() -> ExitCode {
    let folder = std::env::args().nth(1).unwrap_or_default();
    let migrated = || -> Result<(), Box<dyn std::error::Error>> {
        let migrations = FileBasedMigrations::from_path(folder)?;
        let lakebase = Lakebase::from_env()?;
        let replica = lakebase_diesel::migrations::Migrations::new(&lakebase).blocking();
        replica.run(migrations)?;
        Ok(())
    };
    match migrated() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
