//! So that `?` works in functions that return a host's error. The value stays inside, typed.

use super::Error;

/// As SeaORM answers when there is no connection.
#[cfg(feature = "sea-orm")]
impl From<Error> for sea_orm::DbErr {
    fn from(error: Error) -> Self {
        let carried = sea_orm::SqlxError::Configuration(Box::new(error));
        Self::Conn(sea_orm::RuntimeErr::SqlxError(carried.into()))
    }
}

/// As diesel answers when there is no connection; the one variant that keeps a value.
#[cfg(feature = "diesel")]
impl From<Error> for diesel::ConnectionError {
    fn from(error: Error) -> Self {
        let carried = diesel::result::Error::QueryBuilderError(Box::new(error));
        Self::CouldntSetupConfiguration(carried)
    }
}
