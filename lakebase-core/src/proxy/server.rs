//! Connections to the server: TCP, with TLS if the target uses it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use sha2::{Digest, Sha256, Sha384, Sha512};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tracing::{Instrument as _, debug_span};
use x509_cert::der::Decode;
use x509_cert::der::oid::db::rfc5912 as oid;

use super::client::Key;
use super::socket::{Stream, keep_alive};
use crate::postgres::login::{LoginFailure, TARGET};
use crate::postgres::tcp::{ADDRESS_LIMIT, USER_TIMEOUT};
use crate::target::Target;

/// An open connection to the server, encrypted or not.
pub(super) trait Wire: Stream {
    fn tcp(&self) -> &TcpStream;

    /// The digest of the server's certificate, for SCRAM's channel binding.
    fn end_point(&self) -> Option<Vec<u8>>;

    /// Sets whether unacknowledged data ends the connection. It is off during large uploads: Linux also counts the time in
    /// which a busy server reads nothing.
    fn set_user_timeout(&self, is_on: bool) {
        if let Err(error) = user_timeout(self.tcp(), is_on.then_some(USER_TIMEOUT)) {
            tracing::debug!(name: "lakebase.proxy.no_user_timeout", target: "lakebase::proxy", %error, "cannot set TCP_USER_TIMEOUT");
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn user_timeout(tcp: &TcpStream, timeout: Option<Duration>) -> io::Result<()> {
    socket2::SockRef::from(tcp).set_tcp_user_timeout(timeout)
}

/// Other systems have no such option.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn user_timeout(_: &TcpStream, _: Option<Duration>) -> io::Result<()> {
    Ok(())
}

impl Wire for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }

    fn end_point(&self) -> Option<Vec<u8>> {
        None
    }
}

impl Wire for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }

    /// Uses the hash of the certificate's signature; `None` for signatures that have no separate hash.
    fn end_point(&self) -> Option<Vec<u8>> {
        let certificate = self.get_ref().1.peer_certificates()?.first()?;
        let parsed = x509_cert::Certificate::from_der(certificate).ok()?;
        Some(match parsed.signature_algorithm.oid {
            oid::SHA_256_WITH_RSA_ENCRYPTION | oid::ECDSA_WITH_SHA_256 => {
                Sha256::digest(certificate).to_vec()
            }
            oid::SHA_384_WITH_RSA_ENCRYPTION | oid::ECDSA_WITH_SHA_384 => {
                Sha384::digest(certificate).to_vec()
            }
            oid::SHA_512_WITH_RSA_ENCRYPTION | oid::ECDSA_WITH_SHA_512 => {
                Sha512::digest(certificate).to_vec()
            }
            _ => return None,
        })
    }
}

/// Connects to the target, or to the address `at` of it.
pub(super) async fn connect(
    target: &Target,
    at: Option<SocketAddr>,
) -> Result<(Box<dyn Wire>, SocketAddr), LoginFailure> {
    let (mut tcp, address) = dial(target, at).await.map_err(LoginFailure::transport)?;
    let Some(tls) = &target.tls else {
        return Ok((Box::new(tcp), address));
    };
    let span = debug_span!(target: TARGET, "lakebase.login.tls");
    match request_tls(&mut tcp).instrument(span.clone()).await {
        Ok(b'S') => {}
        Ok(b'N') => return Err(LoginFailure::permanent("server does not support TLS")),
        Ok(_) => {
            return Err(LoginFailure::permanent(
                "the server is not a Postgres server",
            ));
        }
        Err(error) => return Err(LoginFailure::transport(error)),
    }
    let name = ServerName::try_from(target.host().to_owned()).map_err(LoginFailure::permanent)?;
    let connector = TlsConnector::from(Arc::clone(tls));
    let stream = connector.connect(name, tcp).instrument(span).await;
    Ok((Box::new(stream.map_err(LoginFailure::transport)?), address))
}

async fn request_tls(tcp: &mut TcpStream) -> io::Result<u8> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    tcp.write_all(&request).await?;
    tcp.read_u8().await
}

async fn dial(target: &Target, at: Option<SocketAddr>) -> io::Result<(TcpStream, SocketAddr)> {
    let known = target.hostaddr().map(|ip| (ip, target.port()).into());
    let addresses = match at.or(known) {
        Some(address) => vec![address],
        None => tokio::net::lookup_host((target.host(), target.port()))
            .instrument(debug_span!(target: TARGET, "lakebase.login.name"))
            .await?
            .collect(),
    };
    let mut failure = io::Error::other("the host name has no address");
    for address in addresses {
        let connecting = TcpStream::connect(address);
        let span = debug_span!(target: TARGET, "lakebase.login.tcp");
        match timeout(ADDRESS_LIMIT, connecting).instrument(span).await {
            Ok(Ok(stream)) => {
                keep_alive(&stream)?;
                stream.set_user_timeout(true);
                return Ok((stream, address));
            }
            Ok(Err(error)) => failure = error,
            Err(elapsed) => failure = elapsed.into(),
        }
    }
    Err(failure)
}

/// Sends a cancel request for the session with this key to the server at this address.
pub(super) async fn cancel(target: &Target, address: SocketAddr, key: Key) {
    let cancelling = async {
        let (mut wire, _) = connect(target, Some(address)).await?;
        let mut request = BytesMut::new();
        frontend::cancel_request(key.0, key.1, &mut request);
        let sent = async {
            wire.write_all(&request).await?;
            wire.flush().await?;
            // The server closes the connection after it has processed the request.
            wire.read_to_end(&mut Vec::new()).await
        };
        sent.await.map(drop).map_err(LoginFailure::transport)
    };
    if let Ok(Err(error)) = timeout(ADDRESS_LIMIT, cancelling).await {
        tracing::debug!(name: "lakebase.proxy.cancel_failed", target: "lakebase::proxy", %error, "a cancel request did not reach the server");
    }
}
