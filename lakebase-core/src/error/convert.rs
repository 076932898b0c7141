//! Conversions into the errors of diesel and SeaORM, for `?`. They keep the value with its type.

use std::error::Error as StdError;
use std::fmt;

use super::Error;

/// Our error inside a host's error. It prints the whole chain, because hosts do not print sources.
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

/// The variant of SeaORM's failed connections.
#[cfg(feature = "sea-orm")]
impl From<Error> for sea_orm::DbErr {
    fn from(error: Error) -> Self {
        let carried = sea_orm::SqlxError::Configuration(Box::new(Carried(error)));
        Self::Conn(sea_orm::RuntimeErr::SqlxError(carried.into()))
    }
}

/// The only variant of diesel's connection error that keeps a value.
#[cfg(feature = "diesel")]
impl From<Error> for diesel::ConnectionError {
    fn from(error: Error) -> Self {
        let carried = diesel::result::Error::QueryBuilderError(Box::new(Carried(error)));
        Self::CouldntSetupConfiguration(carried)
    }
}
