//! The shop on SeaORM.

mod failure;
mod migrator;
mod order;
mod routes;
mod user;

use sea_orm::{ConnectionTrait, DatabaseTransaction, TransactionTrait};

pub use migrator::migrate;
pub use routes::routes;

/// The traits that the service needs from a connection.
pub trait Db:
    ConnectionTrait
    + TransactionTrait<Transaction = DatabaseTransaction>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<C> Db for C where
    C: ConnectionTrait
        + TransactionTrait<Transaction = DatabaseTransaction>
        + Clone
        + Send
        + Sync
        + 'static
{
}
