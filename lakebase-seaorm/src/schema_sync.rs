//! SeaORM's entity-first schema sync: `db.get_schema_builder().register(..).sync(&db)`.

use async_trait::async_trait;
use sea_orm::sea_query::SelectStatement;
use sea_schema::Connection;
use sea_schema::sqlx_types::SqlxRow;
use sqlx::Error;

use crate::LakebaseConnection;

/// What discovers the tables that are there.
#[async_trait]
impl Connection for LakebaseConnection {
    async fn query_all(&self, select: SelectStatement) -> Result<Vec<SqlxRow>, Error> {
        self.make_sure().await.map_err(unable)?;
        Connection::query_all(&**self, select).await
    }

    async fn query_all_raw(&self, sql: String) -> Result<Vec<SqlxRow>, Error> {
        self.make_sure().await.map_err(unable)?;
        Connection::query_all_raw(&**self, sql).await
    }
}

fn unable(error: sea_orm::DbErr) -> Error {
    Error::Configuration(Box::new(error))
}
