//! Logs in to Postgres and hands over the bare session.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use postgres_protocol::authentication::sasl::{SCRAM_SHA_256, SCRAM_SHA_256_PLUS};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use sha2::{Digest, Sha256, Sha384, Sha512};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_cert::der::Decode;

use crate::postgres::login::Login;
use crate::postgres::login::LoginFailure;
use crate::postgres::tcp::{
    ADDRESS_LIMIT, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_PROBES, USER_TIMEOUT,
};
use crate::target::Target;

/// Longest message of a server before the session has begun.
const LONGEST_MESSAGE: usize = 64 * 1024;

/// An open connection to the server, encrypted or not.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {
    fn tcp(&self) -> &TcpStream;

    /// Whether written data that nobody acknowledges ends the connection. Not while a lot is on its way: Linux counts
    /// the time in which a busy server takes nothing, too.
    fn set_user_timeout(&self, is_on: bool) {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Err(error) =
            SockRef::from(self.tcp()).set_tcp_user_timeout(is_on.then_some(USER_TIMEOUT))
        {
            tracing::debug!(%error, "cannot set TCP_USER_TIMEOUT");
        }
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let _ = is_on;
    }
}

impl Wire for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Wire for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// A session that has just begun.
pub(super) struct Session {
    pub(super) wire: Box<dyn Wire>,
    /// What the client has to see, from `AuthenticationOk` to `ReadyForQuery`.
    pub(super) greeting: Vec<u8>,
    pub(super) key: Option<(i32, i32)>,
    pub(super) address: SocketAddr,
}

/// Makes the attempt. `parameters` are the client's, without user and database.
pub(super) async fn log_in(
    login: &Login,
    parameters: &[(String, String)],
) -> Result<Session, LoginFailure> {
    let target = &login.target;
    let (wire, address, binding) = connect(target, None).await?;
    let mut buffer = BytesMut::new();
    let parameters = complete(target, parameters);
    let parameters = parameters.iter().map(|(name, value)| (&**name, &**value));
    frontend::startup_message(parameters, &mut buffer).map_err(LoginFailure::permanent)?;
    let mut start = Start {
        wire,
        buffer: BytesMut::new(),
    };
    start.send(&buffer).await?;
    start.authenticate(login, binding).await?;
    let (greeting, key) = start.greeting().await?;
    Ok(Session {
        wire: start.wire,
        greeting,
        key,
        address,
    })
}

/// Asks the server at that address to cancel what the session with that key does.
pub(super) async fn cancel(target: &Target, address: SocketAddr, key: (i32, i32)) {
    let cancelling = async {
        let (mut wire, ..) = connect(target, Some(address)).await?;
        let mut buffer = BytesMut::new();
        frontend::cancel_request(key.0, key.1, &mut buffer);
        let sent = async {
            wire.write_all(&buffer).await?;
            wire.flush().await?;
            // The server closes when it has dealt with it.
            wire.read_to_end(&mut Vec::new()).await
        };
        sent.await.map(drop).map_err(LoginFailure::transport)
    };
    if let Ok(Err(error)) = timeout(ADDRESS_LIMIT, cancelling).await {
        tracing::debug!(%error, "a cancel request did not reach the server");
    }
}

/// The client's parameters, and ours where it has none.
fn complete(target: &Target, theirs: &[(String, String)]) -> Vec<(String, String)> {
    let find = |name: &str| theirs.iter().find(|(known, _)| known == name);
    let mut all = vec![
        ("user".to_owned(), target.user().to_owned()),
        ("database".to_owned(), target.database().to_owned()),
    ];
    if find("application_name").is_none_or(|(_, value)| value.is_empty()) {
        let name = target.application_name().to_owned();
        all.push(("application_name".to_owned(), name));
    }
    // The client's come last and win.
    let options: Vec<_> = [target.startup_options()]
        .into_iter()
        .flatten()
        .chain(find("options").map(|(_, value)| value.clone()))
        .filter(|options| !options.is_empty())
        .collect();
    if !options.is_empty() {
        all.push(("options".to_owned(), options.join(" ")));
    }
    for (name, value) in theirs {
        let is_settled = match &**name {
            "user" | "database" | "options" => true,
            "application_name" => value.is_empty(),
            // The built-in pooler rejects it, and since Postgres 12 it changes nothing.
            "extra_float_digits" => target.is_pooled(),
            _ => false,
        };
        if !is_settled {
            all.push((name.clone(), value.clone()));
        }
    }
    all
}

/// With the digest that a SCRAM login is bound to.
type Connected = (Box<dyn Wire>, SocketAddr, Option<Vec<u8>>);

async fn connect(target: &Target, at: Option<SocketAddr>) -> Result<Connected, LoginFailure> {
    let (mut tcp, address) = dial(target, at).await.map_err(LoginFailure::transport)?;
    let Some(tls) = &target.tls else {
        return Ok((Box::new(tcp), address, None));
    };
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    let answer = async {
        tcp.write_all(&request).await?;
        tcp.read_u8().await
    };
    match answer.await {
        Ok(b'S') => {}
        Ok(b'N') => return Err(LoginFailure::permanent("server does not support TLS")),
        Ok(_) => return Err(LoginFailure::permanent("the server is no Postgres server")),
        Err(error) => return Err(LoginFailure::transport(error)),
    }
    let name = ServerName::try_from(target.host().to_owned()).map_err(LoginFailure::permanent)?;
    let connector = TlsConnector::from(Arc::clone(tls));
    let stream = connector.connect(name, tcp).await;
    let stream = stream.map_err(LoginFailure::transport)?;
    let binding = end_point(&stream);
    Ok((Box::new(stream), address, binding))
}

async fn dial(target: &Target, at: Option<SocketAddr>) -> io::Result<(TcpStream, SocketAddr)> {
    let addresses: Vec<SocketAddr> = match (at, target.hostaddr()) {
        (Some(address), _) => vec![address],
        (None, Some(address)) => vec![(address, target.port()).into()],
        (None, None) => tokio::net::lookup_host((target.host(), target.port()))
            .await?
            .collect(),
    };
    let mut last = None;
    for address in addresses {
        match timeout(ADDRESS_LIMIT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                keep_alive(&stream)?;
                stream.set_user_timeout(true);
                return Ok((stream, address));
            }
            Ok(Err(error)) => last = Some(error),
            Err(elapsed) => last = Some(elapsed.into()),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::other("the host name has no address")))
}

/// Without delay, and a peer that is gone is noticed.
pub(super) fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// The digest that SCRAM binds the login to the certificate with: by the hash of its signature, SHA-256 at
/// least. None for signatures that are made without a hash of their own.
fn end_point(stream: &TlsStream<TcpStream>) -> Option<Vec<u8>> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    let parsed = x509_cert::Certificate::from_der(certificate).ok()?;
    let signature = parsed.signature_algorithm.oid.to_string();
    Some(match signature.as_str() {
        // With RSA: MD5, SHA-1, SHA-256; with ECDSA: SHA-1, SHA-256.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2" => Sha256::digest(certificate).to_vec(),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Sha384::digest(certificate).to_vec(),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Sha512::digest(certificate).to_vec(),
        _ => return None,
    })
}

/// A connection on which the session has not begun yet.
struct Start {
    wire: Box<dyn Wire>,
    buffer: BytesMut,
}

impl Start {
    async fn send(&mut self, bytes: &[u8]) -> Result<(), LoginFailure> {
        let sent = async {
            self.wire.write_all(bytes).await?;
            self.wire.flush().await
        };
        sent.await.map_err(broken)
    }

    /// The next message, whole.
    async fn next(&mut self) -> Result<Bytes, LoginFailure> {
        loop {
            if let Some(&[_, a, b, c, d]) = self.buffer.first_chunk() {
                let length = u32::from_be_bytes([a, b, c, d]) as usize;
                if !(4..=LONGEST_MESSAGE).contains(&length) {
                    return Err(LoginFailure::permanent("the server is no Postgres server"));
                }
                if self.buffer.len() > length {
                    return Ok(self.buffer.split_to(length + 1).freeze());
                }
            }
            let read = self.wire.read_buf(&mut self.buffer).await;
            if read.map_err(broken)? == 0 {
                return Err(LoginFailure::closed(io::Error::from(
                    io::ErrorKind::UnexpectedEof,
                )));
            }
        }
    }

    /// The next message, read. Errors of the server are failures of the attempt.
    async fn message(&mut self) -> Result<(Message, Bytes), LoginFailure> {
        let bytes = self.next().await?;
        let parsed = Message::parse(&mut BytesMut::from(&bytes[..]));
        match parsed.map_err(LoginFailure::permanent)? {
            Some(Message::ErrorResponse(_)) => Err(ServerError::read(&bytes).into()),
            Some(message) => Ok((message, bytes)),
            None => Err(LoginFailure::permanent("the server sent half a message")),
        }
    }

    /// Until `AuthenticationOk`.
    async fn authenticate(
        &mut self,
        login: &Login,
        binding: Option<Vec<u8>>,
    ) -> Result<(), LoginFailure> {
        let password = login.credential.expose().as_bytes();
        loop {
            let mut reply = BytesMut::new();
            let (message, bytes) = self.message().await?;
            let written = match message {
                Message::AuthenticationOk => return Ok(()),
                Message::AuthenticationCleartextPassword => {
                    frontend::password_message(password, &mut reply)
                }
                Message::AuthenticationMd5Password(body) => {
                    let user = login.target.user().as_bytes();
                    let hash = md5_hash(user, password, body.salt());
                    frontend::password_message(hash.as_bytes(), &mut reply)
                }
                Message::AuthenticationSasl(_) => {
                    // Behind tag, length and the kind of authentication.
                    let offered: Vec<_> = fields(&bytes, 9).collect();
                    self.scram(password, &offered, binding.clone()).await?;
                    continue;
                }
                Message::NoticeResponse(_) => continue,
                _ => Err(io::Error::other(
                    "the server asks for an authentication that is not supported",
                )),
            };
            written.map_err(LoginFailure::permanent)?;
            self.send(&reply).await?;
        }
    }

    async fn scram(
        &mut self,
        password: &[u8],
        offered: &[&[u8]],
        binding: Option<Vec<u8>>,
    ) -> Result<(), LoginFailure> {
        let offers = |name: &str| offered.contains(&name.as_bytes());
        let (mechanism, binding) = match binding {
            Some(digest) if offers(SCRAM_SHA_256_PLUS) => (
                SCRAM_SHA_256_PLUS,
                ChannelBinding::tls_server_end_point(digest),
            ),
            // Tells the server that we could: it notices if its offer was taken away.
            Some(_) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
            None => (SCRAM_SHA_256, ChannelBinding::unsupported()),
        };
        if !offers(mechanism) {
            return Err(LoginFailure::permanent(
                "the server offers no SCRAM-SHA-256 authentication",
            ));
        }
        let mut scram = ScramSha256::new(password, binding);
        let mut reply = BytesMut::new();
        frontend::sasl_initial_response(mechanism, scram.message(), &mut reply)
            .map_err(LoginFailure::permanent)?;
        self.send(&reply).await?;
        let (Message::AuthenticationSaslContinue(body), _) = self.message().await? else {
            return Err(LoginFailure::permanent("SCRAM was broken off"));
        };
        scram.update(body.data()).map_err(LoginFailure::permanent)?;
        reply.clear();
        frontend::sasl_response(scram.message(), &mut reply).map_err(LoginFailure::permanent)?;
        self.send(&reply).await?;
        let (Message::AuthenticationSaslFinal(body), _) = self.message().await? else {
            return Err(LoginFailure::permanent("SCRAM was broken off"));
        };
        scram.finish(body.data()).map_err(LoginFailure::permanent)
    }

    /// From `AuthenticationOk` to the first `ReadyForQuery`. Errors until then belong to the login.
    async fn greeting(&mut self) -> Result<(Vec<u8>, Option<(i32, i32)>), LoginFailure> {
        const AUTHENTICATION_OK: &[u8] = b"R\0\0\0\x08\0\0\0\0";
        let mut greeting = AUTHENTICATION_OK.to_vec();
        let mut key = None;
        loop {
            let (message, bytes) = self.message().await?;
            greeting.extend_from_slice(&bytes);
            match message {
                Message::BackendKeyData(body) => {
                    key = Some((body.process_id(), body.secret_key()));
                }
                Message::ReadyForQuery(_) => {
                    greeting.extend_from_slice(&self.buffer.split());
                    return Ok((greeting, key));
                }
                _ => {}
            }
        }
    }
}

/// The connection ended in the middle of a login.
fn broken(error: io::Error) -> LoginFailure {
    match error.kind() {
        // Behind TLS, an end without a goodbye.
        io::ErrorKind::UnexpectedEof => LoginFailure::closed(error),
        _ => LoginFailure::transport(error),
    }
}

/// What the server said.
#[derive(Debug, Default)]
struct ServerError {
    severity: String,
    code: String,
    message: String,
    detail: String,
}

impl ServerError {
    fn read(message: &[u8]) -> Self {
        let mut error = Self::default();
        for field in fields(message, 5) {
            let (tag, value) = field.split_at(1);
            let value = String::from_utf8_lossy(value).into_owned();
            match tag {
                b"S" => error.severity = value,
                b"C" => error.code = value,
                b"M" => error.message = value,
                b"D" => error.detail = value,
                _ => {}
            }
        }
        error
    }
}

/// The strings of a message, each ended by a zero; an empty one ends the list.
fn fields(message: &[u8], start: usize) -> impl Iterator<Item = &[u8]> {
    let body = message.get(start..).unwrap_or_default();
    body.split(|&byte| byte == 0)
        .take_while(|field| !field.is_empty())
}

impl From<ServerError> for LoginFailure {
    fn from(error: ServerError) -> Self {
        Self::postgres(error.code.clone(), error.message.clone(), error)
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity, self.message)?;
        if self.detail.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", self.detail)
    }
}

impl std::error::Error for ServerError {}
