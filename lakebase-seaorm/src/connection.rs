//! SeaORM's connection, with a current password.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use lakebase_core::Lakebase;
use sea_orm::{
    AccessMode, ConnectionTrait, DatabaseConnection, DatabaseExecutor, DatabaseTransaction,
    DbBackend, DbErr, ExecResult, IntoDatabaseExecutor, IsolationLevel, QueryResult, QueryStream,
    Statement, StreamTrait, TransactionError, TransactionOptions, TransactionTrait, metric,
};
use tokio::time::Instant;

use crate::feed::Feed;

/// After that many logins outside of the pool, its own failure is handed on.
const MOST_RECOVERIES: u32 = 3;

/// A [`DatabaseConnection`] whose pool always logs in with a current token. Cheap to clone.
///
/// Use it wherever SeaORM takes a connection; [`Deref`] serves functions that want
/// `&DatabaseConnection`. A task feeds the pool ahead of expiry, for clones of the inner
/// `DatabaseConnection` as well, and ends when the last of them is dropped or the pool is closed.
///
/// Operations through this type itself do more: each makes sure (an atomic read) that the pool has
/// the current token, and when a new login fails before the statement was sent, the *login* is
/// tried again, with a renewed token if that was refused. Statements are never repeated.
///
/// A bare `PgPool` taken out of it is fed only as long as one of the two is alive. The same goes for
/// a clone of the inner connection whose metric callback was replaced: the callback is what holds
/// the feed.
#[derive(Clone)]
pub struct LakebaseConnection {
    db: DatabaseConnection,
    feed: Arc<Feed>,
}

impl LakebaseConnection {
    pub(crate) fn new(db: DatabaseConnection, feed: Arc<Feed>) -> Self {
        let mut connection = Self { db, feed };
        connection.set_metric_callback(|_| {});
        connection
    }

    /// The Lakebase it belongs to.
    pub fn lakebase(&self) -> &Lakebase {
        self.feed.lakebase()
    }

    /// Always Postgres.
    pub fn get_database_backend(&self) -> DbBackend {
        // SeaORM's connection has it as well, so that nobody must say which trait's is meant.
        self.db.get_database_backend()
    }

    /// Like [`DatabaseConnection::set_metric_callback`], for this clone.
    pub fn set_metric_callback<F>(&mut self, callback: F)
    where
        F: Fn(&metric::Info<'_>) + Send + Sync + 'static,
    {
        // Every clone of the inner connection carries the callback, and so the feed.
        let feed = Arc::clone(&self.feed);
        self.db.set_metric_callback(move |info| {
            let _ = &feed;
            callback(info);
        });
    }

    /// Checks that the database answers.
    ///
    /// # Errors
    ///
    /// What kept it from answering.
    pub async fn ping(&self) -> Result<(), DbErr> {
        self.run(|| self.db.ping()).await
    }

    /// Closes the pool; the feeding task ends.
    ///
    /// # Errors
    ///
    /// As [`DatabaseConnection::close`].
    pub async fn close(self) -> Result<(), DbErr> {
        self.db.close_by_ref().await
    }

    /// Runs an operation of the inner connection; again if there was no login for it.
    ///
    /// What the pool was given after a failure may be refused as well by the time it is used (revoked
    /// again, or the machine is so busy that a login takes as long as a token lives), so a few times.
    pub(crate) async fn run<T, F>(
        &self,
        operation: impl Fn() -> F + Send + Sync,
    ) -> Result<T, DbErr>
    where
        F: Future<Output = Result<T, DbErr>> + Send,
        T: Send,
    {
        let began = Instant::now();
        let mut epoch = self.feed.epoch();
        let mut recoveries = 0;
        self.feed.ensure(epoch).await?;
        loop {
            let outcome = operation().await;
            self.feed.note(&outcome);
            let error = match outcome {
                Err(error) => error,
                done => return done,
            };
            let is_late = recoveries > 0 && began.elapsed() >= self.feed.limit();
            if recoveries == MOST_RECOVERIES || is_late {
                return Err(error);
            }
            // Hands the error back unless it is about a login: then nothing was sent.
            self.feed.recover(error, epoch).await?;
            epoch = self.feed.epoch();
            recoveries += 1;
        }
    }

    async fn begin_then<F, T, E>(
        &self,
        options: TransactionOptions,
        callback: F,
    ) -> Result<T, TransactionError<E>>
    where
        F: for<'c> FnOnce(
                &'c DatabaseTransaction,
            ) -> Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'c>>
            + Send,
        T: Send,
        E: fmt::Display + fmt::Debug + Send,
    {
        let transaction = self
            .begin_with_options(options)
            .await
            .map_err(TransactionError::Connection)?;
        match callback(&transaction).await {
            Ok(value) => {
                transaction
                    .commit()
                    .await
                    .map_err(TransactionError::Connection)?;
                Ok(value)
            }
            Err(error) => {
                transaction
                    .rollback()
                    .await
                    .map_err(TransactionError::Connection)?;
                Err(TransactionError::Transaction(error))
            }
        }
    }
}

impl Deref for LakebaseConnection {
    type Target = DatabaseConnection;

    fn deref(&self) -> &DatabaseConnection {
        &self.db
    }
}

impl fmt::Debug for LakebaseConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LakebaseConnection")
            .field("lakebase", self.lakebase())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl ConnectionTrait for LakebaseConnection {
    fn get_database_backend(&self) -> DbBackend {
        self.db.get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        self.run(|| self.db.execute_raw(statement.clone())).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.run(|| self.db.execute_unprepared(sql)).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        self.run(|| self.db.query_one_raw(statement.clone())).await
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        self.run(|| self.db.query_all_raw(statement.clone())).await
    }
}

impl StreamTrait for LakebaseConnection {
    type Stream<'a> = QueryStream;

    fn get_database_backend(&self) -> DbBackend {
        self.db.get_database_backend()
    }

    fn stream_raw<'a>(
        &'a self,
        statement: Statement,
    ) -> Pin<Box<dyn Future<Output = Result<QueryStream, DbErr>> + 'a + Send>> {
        Box::pin(async move { self.run(|| self.db.stream_raw(statement.clone())).await })
    }
}

#[async_trait]
impl TransactionTrait for LakebaseConnection {
    type Transaction = DatabaseTransaction;

    async fn begin(&self) -> Result<DatabaseTransaction, DbErr> {
        self.begin_with_options(TransactionOptions::default()).await
    }

    async fn begin_with_config(
        &self,
        isolation_level: Option<IsolationLevel>,
        access_mode: Option<AccessMode>,
    ) -> Result<DatabaseTransaction, DbErr> {
        self.begin_with_options(TransactionOptions {
            isolation_level,
            access_mode,
            ..TransactionOptions::default()
        })
        .await
    }

    async fn begin_with_options(
        &self,
        options: TransactionOptions,
    ) -> Result<DatabaseTransaction, DbErr> {
        self.run(|| self.db.begin_with_options(options)).await
    }

    async fn transaction<F, T, E>(&self, callback: F) -> Result<T, TransactionError<E>>
    where
        F: for<'c> FnOnce(
                &'c DatabaseTransaction,
            ) -> Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'c>>
            + Send,
        T: Send,
        E: fmt::Display + fmt::Debug + Send,
    {
        self.begin_then(TransactionOptions::default(), callback)
            .await
    }

    async fn transaction_with_config<F, T, E>(
        &self,
        callback: F,
        isolation_level: Option<IsolationLevel>,
        access_mode: Option<AccessMode>,
    ) -> Result<T, TransactionError<E>>
    where
        F: for<'c> FnOnce(
                &'c DatabaseTransaction,
            ) -> Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'c>>
            + Send,
        T: Send,
        E: fmt::Display + fmt::Debug + Send,
    {
        let options = TransactionOptions {
            isolation_level,
            access_mode,
            ..TransactionOptions::default()
        };
        self.begin_then(options, callback).await
    }
}

/// So that a migrator's `up` and `down` take it as they take SeaORM's own.
impl<'c> IntoDatabaseExecutor<'c> for &'c LakebaseConnection {
    fn into_database_executor(self) -> DatabaseExecutor<'c> {
        DatabaseExecutor::Connection(&self.db)
    }
}
