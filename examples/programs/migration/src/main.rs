//! A migration crate of SeaORM with a rehearsal: it runs the pending migrations on a copy of the branch, prints a report, and
//! runs them on the database itself if no lock blocked other sessions for a second.
//!
//! ```sh
//! LAKEBASE_SCHEMA=app lakebase local -- cargo run --bin migration
//! ```

use std::error::Error;
use std::time::Duration;

use lakebase_seaorm::Lakebase;
use lakebase_seaorm::migrations::{Migrations, Rehearsal};
use migration::Migrator;

const LONGEST_LOCK: Duration = Duration::from_secs(1);

/// Is called with failed migrations, too. Then nothing is run, whatever this returns.
fn accept(report: &Rehearsal) -> bool {
    println!("{report}");
    report.blocking_locks(LONGEST_LOCK).next().is_none()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let lakebase = Lakebase::from_env()?;
    let migrations = Migrations::new(&lakebase).create_schema(true);
    let names = migrations.run_after_rehearsal::<Migrator>(accept).await?;
    // Empty if none is pending: then there is no rehearsal.
    println!("ran {names:?} on {}", lakebase.target().await?);
    Ok(())
}
