use diesel_async::pooled_connection::bb8::Pool;
use diesel_async::{AsyncMigrationHarness, AsyncPgConnection, SimpleAsyncConnection as _};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};

use crate::Result;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("src/shop/with_diesel/migrations");

/// The lock makes replicas migrate one after another. The history is in the schema of the tables, as an app may have no
/// privileges in `public`.
const BEFORE: &str = "\
    SELECT pg_advisory_lock(7467111112); \
    CREATE SCHEMA IF NOT EXISTS shop; \
    SET search_path TO shop";

/// Runs the pending migrations. Needs a runtime with several threads, as diesel-async's harness does.
pub async fn migrate(pool: &Pool<AsyncPgConnection>) -> Result<()> {
    // Outside of the pool, so that its end releases the lock and the search path.
    let mut connection = pool.dedicated_connection().await?;
    connection.batch_execute(BEFORE).await?;
    AsyncMigrationHarness::new(connection).run_pending_migrations(MIGRATIONS)?;
    Ok(())
}
