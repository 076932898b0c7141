//! Verified TLS: one stack, one crypto provider, chosen here and nowhere else.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::error::Error;

/// Whom to trust.
#[derive(Clone, Debug)]
pub(crate) struct Roots(Arc<RootCertStore>);

impl Roots {
    /// The bundled Mozilla roots and whatever the system store has beyond them (company roots of
    /// TLS-inspecting proxies, say). Read once per process, on a thread that may block.
    pub(crate) async fn system() -> Result<Self, Error> {
        static SYSTEM: OnceLock<Roots> = OnceLock::new();
        if let Some(roots) = SYSTEM.get() {
            return Ok(roots.clone());
        }
        tokio::task::spawn_blocking(|| SYSTEM.get_or_init(Self::load_system).clone())
            .await
            .map_err(|_| Error::config("cannot read the system's root certificates"))
    }

    fn load_system() -> Self {
        let bundled = webpki_roots::TLS_SERVER_ROOTS;
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        // Some bundled roots are limited to a few names, which the certificate of the same root does not say.
        store.roots.retain(|root| {
            !bundled.iter().any(|bundled| {
                bundled.subject == root.subject
                    && bundled.subject_public_key_info == root.subject_public_key_info
            })
        });
        store.extend(bundled.iter().cloned());
        Self(Arc::new(store))
    }

    /// For connections without TLS.
    #[cfg(feature = "tokio-postgres")]
    pub(crate) fn none() -> Self {
        Self(Arc::new(RootCertStore::empty()))
    }

    /// Exactly the certificates of a PEM file. `setting` names where the path came from.
    pub(crate) fn from_pem_file(path: &Path, setting: &str) -> Result<Self, Error> {
        let path_text = path.display();
        let wrong = |what: String| {
            Error::config(format!("{setting}: {what}")).with_hint(
                "Give the path of a readable PEM file with at least one certificate, or `system`",
            )
        };
        let pem = std::fs::read(path)
            .map_err(|error| wrong(format!("cannot read {path_text}")).with_source(error))?;
        let mut store = RootCertStore::empty();
        for cert in CertificateDer::pem_slice_iter(&pem) {
            // The errors' own texts quote the file, which may hold a private key.
            let is_added = cert.is_ok_and(|cert| store.add(cert).is_ok());
            if !is_added {
                let what = format!("{path_text} is not a root certificate in PEM form");
                return Err(wrong(what));
            }
        }
        if store.is_empty() {
            return Err(wrong(format!("{path_text} holds no certificate")));
        }
        Ok(Self(Arc::new(store)))
    }

    /// A client configuration that checks chain and name, on the ring provider whatever the
    /// application installed process-wide.
    pub(crate) fn client_config(&self) -> Result<ClientConfig, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::config("cannot set up TLS").with_source(error))?;
        Ok(builder
            .with_root_certificates(Arc::clone(&self.0))
            .with_no_client_auth())
    }
}
