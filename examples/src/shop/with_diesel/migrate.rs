use diesel_async::pooled_connection::bb8::Pool;
use diesel_async::{AsyncMigrationHarness, AsyncPgConnection, SimpleAsyncConnection as _};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};

use crate::shop::Result;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("src/shop/with_diesel/migrations");

/// Replicas that start together wait for the first one. The history goes where the tables are: an app may
/// have no rights on `public`.
const BEFORE: &str = "\
    SELECT pg_advisory_lock(7467111112); \
    CREATE SCHEMA IF NOT EXISTS shop; \
    SET search_path TO shop";

/// Brings the tables up to date. Needs a runtime with several threads, as diesel-async's harness does.
pub async fn migrate(pool: &Pool<AsyncPgConnection>) -> Result<()> {
    // Lock and search path end with it.
    let mut connection = pool.dedicated_connection().await?;
    connection.batch_execute(BEFORE).await?;
    AsyncMigrationHarness::new(connection).run_pending_migrations(MIGRATIONS)?;
    Ok(())
}
