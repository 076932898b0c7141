//! Verified TLS: one stack, one crypto provider, chosen here and nowhere else.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, TrustAnchor};
use rustls::{ClientConfig, RootCertStore};

use crate::error::Error;

/// Whom to trust.
#[derive(Clone, Debug)]
pub(crate) struct Roots {
    store: RootCertStore,
    /// What a driver with bundled Mozilla roots has to be given in addition, in PEM.
    extra_pem: Option<Arc<[u8]>>,
    /// Mozilla's are among them.
    is_system: bool,
}

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
        let mut store = RootCertStore {
            roots: bundled.to_vec(),
        };
        let mut extra_pem = String::new();
        for cert in rustls_native_certs::load_native_certs().certs {
            let mut single = RootCertStore::empty();
            if single.add(cert.clone()).is_err() {
                continue;
            }
            let known = |anchor: &TrustAnchor<'_>| {
                bundled.iter().any(|bundled| {
                    bundled.subject == anchor.subject
                        && bundled.subject_public_key_info == anchor.subject_public_key_info
                })
            };
            if !single.roots.iter().all(known) {
                store.roots.append(&mut single.roots);
                extra_pem.push_str(&to_pem(&cert));
            }
        }
        Self {
            store,
            extra_pem: (!extra_pem.is_empty()).then(|| Arc::from(extra_pem.into_bytes())),
            is_system: true,
        }
    }

    /// For connections without TLS.
    #[cfg(feature = "tokio-postgres")]
    pub(crate) fn none() -> Self {
        Self {
            store: RootCertStore::empty(),
            extra_pem: None,
            is_system: false,
        }
    }

    /// Exactly the certificates of a PEM file. `setting` names where the path came from.
    pub(crate) fn from_pem_file(path: &Path, setting: &str) -> Result<Self, Error> {
        let hint =
            "Give the path of a readable PEM file with at least one certificate, or `system`";
        let pem = std::fs::read(path).map_err(|error| {
            Error::config(format!("{setting}: cannot read {}", path.display()))
                .with_hint(hint)
                .with_source(error)
        })?;
        let mut store = RootCertStore::empty();
        for cert in CertificateDer::pem_slice_iter(&pem) {
            // The errors' own texts quote the file, which may hold a private key.
            let is_added = cert.is_ok_and(|cert| store.add(cert).is_ok());
            if !is_added {
                return Err(Error::config(format!(
                    "{setting}: {} is not a root certificate in PEM form",
                    path.display()
                ))
                .with_hint(hint));
            }
        }
        if store.is_empty() {
            return Err(Error::config(format!(
                "{setting}: {} holds no certificate",
                path.display()
            ))
            .with_hint(hint));
        }
        Ok(Self {
            store,
            extra_pem: Some(Arc::from(pem)),
            is_system: false,
        })
    }

    /// All of them in PEM, for drivers that know none. Those that are good for some names only are left out:
    /// a certificate does not say so.
    pub(crate) fn pem(&self) -> Vec<u8> {
        let bundled = match self.is_system {
            true => webpki_root_certs::TLS_SERVER_ROOT_CERTS,
            false => &[],
        };
        let limited = |root: &&CertificateDer<'static>| {
            let mut single = RootCertStore::empty();
            single.add((*root).clone()).is_err()
                || webpki_roots::TLS_SERVER_ROOTS.iter().any(|known| {
                    known.name_constraints.is_some()
                        && single.roots.iter().all(|anchor| {
                            anchor.subject == known.subject
                                && anchor.subject_public_key_info == known.subject_public_key_info
                        })
                })
        };
        let mut pem: Vec<u8> = bundled
            .iter()
            .filter(|root| !limited(root))
            .flat_map(|root| to_pem(root).into_bytes())
            .collect();
        pem.extend_from_slice(self.extra_pem().unwrap_or_default());
        pem
    }

    pub(crate) fn extra_pem(&self) -> Option<&[u8]> {
        self.extra_pem.as_deref()
    }

    /// A client configuration that checks chain and name, on the ring provider whatever the
    /// application installed process-wide.
    pub(crate) fn client_config(&self) -> Result<ClientConfig, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::config("cannot set up TLS").with_source(error))?;
        Ok(builder
            .with_root_certificates(self.store.clone())
            .with_no_client_auth())
    }
}

fn to_pem(cert: &CertificateDer<'_>) -> String {
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in STANDARD.encode(cert).as_bytes().chunks(64) {
        pem.extend(line.iter().map(|&byte| char::from(byte)));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// The TLS failure in a chain of causes, if there is one.
pub(crate) fn find_failure<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        // io::Error hides what it wraps from `source`.
        let hidden = error
            .downcast_ref::<std::io::Error>()
            .and_then(|io| io.get_ref());
        if let Some(tls) = hidden.and_then(|inner| find_failure(inner)) {
            return Some(tls);
        }
        next = error.source();
    }
    None
}
