//! A migration crate of SeaORM that rehearses: it runs what is pending on a copy of the branch, prints what happened there, and
//! runs it on the database itself if no lock blocked other sessions for a second.
//!
//! ```sh
//! LAKEBASE_SCHEMA=app lakebase local -- cargo run --bin migration
//! ```

use std::error::Error;
use std::time::Duration;

use lakebase_seaorm::Lakebase;
use lakebase_seaorm::migrations::{Migrations, Rehearsal};
use migration::Migrator;
use sea_orm_migration::MigrationStatus;

const LONGEST_LOCK: Duration = Duration::from_secs(1);

/// The report has the migrations that failed, too: nothing is run then, whatever this returns.
fn accept(report: &Rehearsal) -> bool {
    println!("{report}");
    report.blocking_locks(LONGEST_LOCK).next().is_none()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let lakebase = Lakebase::from_env()?;
    let migrations = Migrations::new(&lakebase).create_schema(true);

    // A rehearsal makes a branch, which takes a while.
    let status = migrations.status::<Migrator>().await?;
    if status
        .iter()
        .all(|(_, status)| *status == MigrationStatus::Applied)
    {
        println!("nothing is pending");
        return Ok(());
    }
    let names = migrations.run_after_rehearsal::<Migrator>(accept).await?;
    println!("ran {names:?} on {}", lakebase.target().await?);
    Ok(())
}
