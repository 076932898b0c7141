//! So that `?` works in functions that return a host's error. The value stays inside, typed.

use std::error::Error as StdError;
use std::fmt;

use super::Error;

/// Our error inside a host's, which prints what it is given and not the causes.
#[derive(Debug)]
struct Carried(Error);

impl fmt::Display for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.chain())
    }
}

impl StdError for Carried {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0)
    }
}

/// As SeaORM answers when there is no connection.
#[cfg(feature = "sea-orm")]
impl From<Error> for sea_orm::DbErr {
    fn from(error: Error) -> Self {
        let carried = sea_orm::SqlxError::Configuration(Box::new(Carried(error)));
        Self::Conn(sea_orm::RuntimeErr::SqlxError(carried.into()))
    }
}

/// As diesel answers when there is no connection; the one variant that keeps a value.
#[cfg(feature = "diesel")]
impl From<Error> for diesel::ConnectionError {
    fn from(error: Error) -> Self {
        let carried = diesel::result::Error::QueryBuilderError(Box::new(Carried(error)));
        Self::CouldntSetupConfiguration(carried)
    }
}
