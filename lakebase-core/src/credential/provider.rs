//! The trait for sources of credentials.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::credential::Credential;
use crate::error::Error;

/// Mints database credentials, for [`ConfigBuilder::credential_provider`](crate::config::ConfigBuilder::credential_provider).
///
/// By default, the workspace mints credentials. Implement this trait for another source, for example a sidecar:
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
/// The crate caches the credential, shares one call among all callers and renews it ahead of expiry. Do not cache in a
/// provider. A call runs on a task of its own, which no caller cancels, with a time limit of 40 s.
pub trait CredentialProvider: fmt::Debug + Send + Sync + 'static {
    /// Mints one credential.
    ///
    /// # Errors
    ///
    /// Return [`Error::provider`], and state there whether a retry can succeed.
    ///
    /// # Cancel safety
    ///
    /// The crate drops the future after 40 s, and when the last handle is dropped.
    fn credential(&self) -> impl Future<Output = Result<Credential, Error>> + Send;
}

/// Object-safe form of [`CredentialProvider`].
pub(crate) trait DynProvider: fmt::Debug + Send + Sync + 'static {
    fn mint(&self) -> BoxFuture<'_, Result<Credential, Error>>;
}

impl<P: CredentialProvider> DynProvider for P {
    fn mint(&self) -> BoxFuture<'_, Result<Credential, Error>> {
        Box::pin(self.credential())
    }
}

/// Any provider.
pub(crate) type SharedProvider = Arc<dyn DynProvider>;
