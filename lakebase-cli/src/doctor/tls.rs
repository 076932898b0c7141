//! A TLS handshake as in a login. Reports the certificate even if it is not trusted.

use std::sync::{Arc, Mutex, PoisonError};

use lakebase_core::{Config, Target};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::report::Finding;
use crate::roots;

/// Postgres's `SSLRequest`.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
/// A certificate that expires sooner is a warning.
const SOON_DAYS: i64 = 14;

pub(super) async fn examine(mut socket: TcpStream, config: &Config, target: &Target) -> Finding {
    match ask(&mut socket).await {
        Ok(true) => {}
        Ok(false) => {
            return Finding::problem(
                "the server is a Postgres without TLS",
                "Check PGHOST and PGPORT: a Lakebase always has TLS",
            );
        }
        Err(error) => {
            return Finding::problem(
                format!("the server is not a Postgres ({error})"),
                "Check PGHOST and PGPORT",
            );
        }
    }
    match shake_hands(socket, config, target).await {
        Ok(finding) => finding,
        Err(text) => Finding::problem(text, "Check PGHOST and PGSSLROOTCERT"),
    }
}

async fn ask(socket: &mut TcpStream) -> std::io::Result<bool> {
    socket.write_all(&SSL_REQUEST).await?;
    match socket.read_u8().await? {
        b'S' => Ok(true),
        b'N' => Ok(false),
        other => Err(std::io::Error::other(format!(
            "it responds with byte {other}"
        ))),
    }
}

async fn shake_hands(
    socket: TcpStream,
    config: &Config,
    target: &Target,
) -> Result<Finding, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut trusted = RootCertStore::empty();
    trusted
        .add_parsable_certificates(roots::certificates(config).map_err(|error| error.to_string())?);
    let verifier =
        WebPkiServerVerifier::builder_with_provider(trusted.into(), Arc::clone(&provider))
            .build()
            .map_err(|error| error.to_string())?;
    let witness = Arc::new(Witness {
        verifier,
        seen: Mutex::default(),
    });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&witness) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    let name = ServerName::try_from(target.host().to_owned()).map_err(|error| {
        format!(
            "{:?} is not a valid TLS server name: {error}",
            target.host()
        )
    })?;
    let outcome = TlsConnector::from(Arc::new(config))
        .connect(name, socket)
        .await;
    let seen = witness
        .seen
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let facts = seen.as_deref().map(facts).unwrap_or_default();
    let days = seen.as_deref().and_then(days_left);
    Ok(match outcome {
        Ok(stream) => {
            let (_, session) = stream.get_ref();
            let version = session.protocol_version().map(|version| format!("{version:?}"));
            let text = format!("trusted, {}", version.unwrap_or_default().replace('_', "."));
            match days.filter(|days| *days < SOON_DAYS) {
                Some(days) => Finding::warning(
                    format!("{text}, but expires in {days} days"),
                    "The operator of the server must renew it",
                ),
                None => Finding::good(text),
            }
        }
        Err(error) => {
            let text = format!("not trusted for {:?}: {error}", target.host());
            let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
            match cause {
                Some(rustls::Error::InvalidCertificate(
                    CertificateError::Expired
                    | CertificateError::ExpiredContext { .. }
                    | CertificateError::NotValidYet
                    | CertificateError::NotValidYetContext { .. },
                )) => Finding::problem(
                    text,
                    "The operator of the server must renew it; or this machine's clock is wrong",
                ),
                Some(rustls::Error::InvalidCertificate(_)) => Finding::problem(
                    text,
                    "The certificate must match the name and chain to a trusted root. If a company's proxy intercepts TLS, set PGSSLROOTCERT to its root; else check PGHOST",
                ),
                _ => Finding::problem(
                    format!("no TLS with {:?}: {error}", target.host()),
                    "Check PGHOST and PGPORT; a firewall or proxy that does not know Postgres may be in between",
                ),
            }
        }
    }
    .with(facts))
}

fn facts(certificate: &[u8]) -> Vec<(String, String)> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let names = certificate.subject_alternative_name().ok().flatten();
    let names: Vec<String> = names
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        })
        .collect();
    let end = jiff::Timestamp::from_second(certificate.validity().not_after.timestamp());
    vec![
        ("for".to_owned(), names.join(", ")),
        ("issued by".to_owned(), certificate.issuer().to_string()),
        (
            "until".to_owned(),
            end.map(|end| end.to_string()).unwrap_or_default(),
        ),
    ]
}

fn days_left(certificate: &[u8]) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let seconds = certificate.validity().not_after.timestamp() - jiff::Timestamp::now().as_second();
    Some(seconds / (24 * 3600))
}

/// Verifies a certificate and keeps it for the report.
#[derive(Debug)]
struct Witness {
    verifier: Arc<WebPkiServerVerifier>,
    seen: Mutex<Option<Vec<u8>>>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = Some(end_entity.to_vec());
        self.verifier
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
