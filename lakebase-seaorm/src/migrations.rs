//! SeaORM migrations, safe from many replicas.

use lakebase_core::MIGRATION_LOCK;
use sea_orm::DbErr;
use sea_orm_migration::MigratorTrait;

use crate::connection::LakebaseConnection;
use crate::error::to_db_err;

/// Runs what is pending of `M` under a Postgres advisory lock, so that replicas that start together
/// run each migration once; the others wait and find nothing to do.
///
/// The lock is held on a connection of its own, which is closed at the end, whatever happens.
///
/// # Errors
///
/// If there is no connection or no lock, or a migration fails.
pub async fn up<M: MigratorTrait>(db: &LakebaseConnection) -> Result<(), DbErr> {
    let (client, connection) = db.lakebase().connect().await.map_err(to_db_err)?;
    let session = tokio::spawn(connection);
    let locked = client
        .execute("SELECT pg_advisory_lock($1)", &[&MIGRATION_LOCK])
        .await;
    if let Err(error) = locked {
        return Err(DbErr::Migration(format!(
            "cannot take the advisory lock: {error}"
        )));
    }
    let outcome = M::up(db, None).await;
    drop(client);
    // Until the goodbye is sent.
    let _ = session.await;
    outcome
}
