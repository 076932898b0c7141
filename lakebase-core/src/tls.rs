//! Verified TLS on rustls with the crypto provider ring.

use std::error::Error as StdError;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::error::Error;
use crate::error::chain::find_cause;

/// Whether a TLS error in the chain is about certificates, names or the configuration, so that a retry cannot help. Others, such as
/// an internal error of the peer, are transient like a lost connection.
pub(crate) fn is_untrusted(error: &(dyn StdError + 'static)) -> bool {
    use rustls::AlertDescription as Alert;
    use rustls::Error as Tls;

    match find_cause(error) {
        Some(
            Tls::InvalidCertificate(_)
            | Tls::InvalidCertRevocationList(_)
            | Tls::NoCertificatesPresented
            | Tls::UnsupportedNameType
            | Tls::PeerIncompatible(_)
            | Tls::NoApplicationProtocol
            // The server does not speak TLS.
            | Tls::InvalidMessage(rustls::InvalidMessage::InvalidContentType),
        ) => true,
        Some(Tls::AlertReceived(alert)) => matches!(
            alert,
            Alert::HandshakeFailure
                | Alert::NoCertificate
                | Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateExpired
                | Alert::CertificateUnknown
                | Alert::UnknownCA
                | Alert::AccessDenied
                | Alert::ProtocolVersion
                | Alert::InsufficientSecurity
                | Alert::CertificateRequired
                | Alert::NoApplicationProtocol
        ),
        _ => false,
    }
}

/// The trusted root certificates.
#[derive(Clone, Debug)]
pub(crate) struct Roots(Arc<RootCertStore>);

impl Roots {
    /// The bundled Mozilla roots and the roots of the system, for example a company's root for a TLS-inspecting proxy. They are read once
    /// per process, on a thread that may block.
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
        // Replaces system roots by the bundled ones, which restrict some roots to a few names.
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

    /// Only the certificates of a PEM file. `setting` is the source of the path.
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
            // The texts of these errors quote the file, which may contain a private key.
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

    /// A client configuration that verifies chain and name. It uses ring, independent of the process-wide provider.
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
