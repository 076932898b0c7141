//! SeaORM's entity-first schema sync: `db.get_schema_builder().register(..).sync(&db)`.

use std::sync::Arc;

use async_trait::async_trait;
use sea_orm::sea_query::SelectStatement;
use sea_orm::{DbErr, RuntimeErr};
use sea_schema::Connection;
use sea_schema::sqlx_types::SqlxRow;
use sqlx::Error;

use crate::LakebaseConnection;

/// What discovers the tables that are there.
#[async_trait]
impl Connection for LakebaseConnection {
    async fn query_all(&self, select: SelectStatement) -> Result<Vec<SqlxRow>, Error> {
        let ask = || async {
            let answer = Connection::query_all(&**self, select.clone()).await;
            answer.map_err(to_db_err)
        };
        self.run(ask).await.map_err(from_db_err)
    }

    async fn query_all_raw(&self, sql: String) -> Result<Vec<SqlxRow>, Error> {
        let ask = || async {
            let answer = Connection::query_all_raw(&**self, sql.clone()).await;
            answer.map_err(to_db_err)
        };
        self.run(ask).await.map_err(from_db_err)
    }
}

/// As SeaORM had it before it made a driver's error of it.
fn to_db_err(error: Error) -> DbErr {
    match error {
        Error::AnyDriverError(other) => match other.downcast::<DbErr>() {
            Ok(own) => *own,
            Err(other) => DbErr::Query(RuntimeErr::SqlxError(Arc::new(Error::AnyDriverError(
                other,
            )))),
        },
        error => DbErr::Query(RuntimeErr::SqlxError(Arc::new(error))),
    }
}

fn from_db_err(error: DbErr) -> Error {
    match error {
        DbErr::Conn(RuntimeErr::SqlxError(cause))
        | DbErr::Exec(RuntimeErr::SqlxError(cause))
        | DbErr::Query(RuntimeErr::SqlxError(cause)) => match Arc::try_unwrap(cause) {
            Ok(cause) => cause,
            Err(shared) => {
                Error::AnyDriverError(Box::new(DbErr::Query(RuntimeErr::SqlxError(shared))))
            }
        },
        error => Error::AnyDriverError(Box::new(error)),
    }
}
