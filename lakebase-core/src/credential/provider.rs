//! What mints credentials.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::credential::Credential;
use crate::error::Error;

/// Mints database credentials. Does network I/O, does not cache.
///
/// The crate's own provider asks the Databricks workspace. Bring your own for anything else, for
/// example tokens from a sidecar:
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use lakebase_core::{Config, Credential, CredentialProvider, Error, Lakebase};
///
/// #[derive(Debug)]
/// struct Sidecar;
///
/// impl CredentialProvider for Sidecar {
///     async fn credential(&self) -> Result<Credential, Error> {
///         let token = String::from("from the sidecar");
///         Ok(Credential::new(token, SystemTime::now() + Duration::from_secs(3600)))
///     }
/// }
///
/// let config = Config::builder()
///     .host("db.example.com")
///     .user("app")
///     .credential_provider(Sidecar)
///     .build()?;
/// let lakebase = Lakebase::new(config)?;
/// # Ok::<(), Error>(())
/// ```
///
/// The cache around it shares one call among all callers and renews ahead of expiry. A call runs on a task of
/// its own and is given 40 s; a caller that goes away does not cancel it.
pub trait CredentialProvider: fmt::Debug + Send + Sync + 'static {
    /// Mints one credential.
    ///
    /// # Errors
    ///
    /// Use [`Error::provider`], and say truthfully whether trying again can help.
    fn credential(&self) -> impl Future<Output = Result<Credential, Error>> + Send;
}

/// Object-safe twin of [`CredentialProvider`].
pub(crate) trait DynProvider: fmt::Debug + Send + Sync + 'static {
    fn mint(&self) -> BoxFuture<'_, Result<Credential, Error>>;
}

impl<P: CredentialProvider> DynProvider for P {
    fn mint(&self) -> BoxFuture<'_, Result<Credential, Error>> {
        Box::pin(self.credential())
    }
}

/// A provider behind a shared pointer, whatever it is.
pub(crate) type SharedProvider = Arc<dyn DynProvider>;
