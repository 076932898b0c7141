//! One attempt to log in to Postgres, up to the first `ReadyForQuery`.

use std::io;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::backend::{Header, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tracing::{Instrument as _, debug_span};

use super::client::Key;
use super::parameters::complete;
use super::server::{Wire, connect};
use crate::postgres::login::{Login, LoginFailure, TARGET};

/// Longest message of a server during the login.
const LONGEST_MESSAGE: i32 = 64 * 1024;

/// A connection to the server that is logged in, or logging in.
pub(super) struct Session {
    pub(super) wire: Box<dyn Wire>,
    pub(super) address: SocketAddr,
    pub(super) key: Option<Key>,
    /// The server's messages from `AuthenticationOk` to `ReadyForQuery`, for the client.
    pub(super) greeting: Vec<u8>,
    /// Bytes that are received and not parsed yet.
    received: BytesMut,
}

/// Logs in with the startup parameters that the driver `requested`.
pub(super) async fn log_in(
    login: &Login,
    requested: &[(String, String)],
    ignored: &[(String, String)],
) -> Result<Session, LoginFailure> {
    let (wire, address) = connect(&login.target, None).await?;
    let mut session = Session {
        wire,
        address,
        key: None,
        greeting: Vec::new(),
        received: BytesMut::new(),
    };
    let parameters = complete(requested, ignored, &login.target);
    let parameters = parameters.iter().map(|(name, value)| (*name, &**value));
    session
        .send(|message| frontend::startup_message(parameters, message))
        .await?;
    let span = debug_span!(target: TARGET, "lakebase.login.authentication");
    let authenticating = async {
        session.authenticate(login).await?;
        session.begin().await
    };
    authenticating.instrument(span).await?;
    Ok(session)
}

impl Session {
    async fn send(
        &mut self,
        write: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> Result<(), LoginFailure> {
        let mut message = BytesMut::new();
        write(&mut message).map_err(LoginFailure::permanent)?;
        self.wire.write_all(&message).await.map_err(broken)?;
        self.wire.flush().await.map_err(broken)
    }

    /// The next message, parsed and as bytes. An `ErrorResponse` is a failure of the attempt.
    async fn receive(&mut self) -> Result<(Message, Bytes), LoginFailure> {
        let length = loop {
            let header = Header::parse(&self.received).map_err(LoginFailure::permanent)?;
            match header.map(Header::len) {
                Some(length) if length > LONGEST_MESSAGE => {
                    return Err(LoginFailure::permanent(
                        "the server is not a Postgres server",
                    ));
                }
                // The length counts all but the tag.
                Some(length) if self.received.len() > length as usize => break length as usize + 1,
                _ => {}
            }
            let read = self.wire.read_buf(&mut self.received).await;
            if read.map_err(broken)? == 0 {
                return Err(broken(io::ErrorKind::UnexpectedEof.into()));
            }
        };
        let bytes = self.received.split_to(length).freeze();
        match Message::parse(&mut BytesMut::from(&bytes[..])) {
            Ok(Some(Message::ErrorResponse(_))) => Err(server_error(&bytes)),
            Ok(Some(message)) => Ok((message, bytes)),
            Ok(None) => Err(LoginFailure::permanent(
                "the server sent an incomplete message",
            )),
            Err(error) => Err(LoginFailure::permanent(error)),
        }
    }

    /// Authenticates until `AuthenticationOk`.
    async fn authenticate(&mut self, login: &Login) -> Result<(), LoginFailure> {
        let password = login.credential.expose().as_bytes();
        loop {
            let (message, bytes) = self.receive().await?;
            match message {
                Message::AuthenticationOk => return Ok(()),
                Message::AuthenticationCleartextPassword => {
                    self.send(|message| frontend::password_message(password, message))
                        .await?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let user = login.target.user().as_bytes();
                    let hash = md5_hash(user, password, body.salt());
                    self.send(|message| frontend::password_message(hash.as_bytes(), message))
                        .await?;
                }
                Message::AuthenticationSasl(_) => self.scram(password, &bytes).await?,
                Message::NoticeResponse(_) => {}
                _ => {
                    return Err(LoginFailure::permanent(
                        "the server requests an authentication method that is not supported",
                    ));
                }
            }
        }
    }

    async fn scram(&mut self, password: &[u8], offer: &[u8]) -> Result<(), LoginFailure> {
        // The names follow tag, length and the kind of authentication.
        let offers = |name: &str| fields(offer, 9).any(|offered| offered == name.as_bytes());
        let (mechanism, binding) = match self.wire.end_point() {
            Some(digest) if offers(SCRAM_SHA_256_PLUS) => (
                SCRAM_SHA_256_PLUS,
                ChannelBinding::tls_server_end_point(digest),
            ),
            // Tells the server that we support channel binding, so it notices if somebody removed its offer.
            Some(_) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
            None => (SCRAM_SHA_256, ChannelBinding::unsupported()),
        };
        if !offers(mechanism) {
            return Err(LoginFailure::permanent(
                "the server offers no SCRAM-SHA-256 authentication",
            ));
        }
        let broken_off =
            || LoginFailure::permanent("the server ended the SCRAM authentication early");
        let mut scram = ScramSha256::new(password, binding);
        self.send(|message| frontend::sasl_initial_response(mechanism, scram.message(), message))
            .await?;
        let (Message::AuthenticationSaslContinue(body), _) = self.receive().await? else {
            return Err(broken_off());
        };
        scram.update(body.data()).map_err(LoginFailure::permanent)?;
        self.send(|message| frontend::sasl_response(scram.message(), message))
            .await?;
        let (Message::AuthenticationSaslFinal(body), _) = self.receive().await? else {
            return Err(broken_off());
        };
        scram.finish(body.data()).map_err(LoginFailure::permanent)
    }

    /// Reads until the first `ReadyForQuery`. Errors before it belong to the login.
    async fn begin(&mut self) -> Result<(), LoginFailure> {
        self.greeting.extend_from_slice(b"R\0\0\0\x08\0\0\0\0");
        loop {
            let (message, bytes) = self.receive().await?;
            self.greeting.extend_from_slice(&bytes);
            match message {
                Message::BackendKeyData(body) => {
                    self.key = Some((body.process_id(), body.secret_key()));
                }
                Message::ReadyForQuery(_) => {
                    self.greeting.extend_from_slice(&self.received);
                    return Ok(());
                }
                _ => {}
            }
        }
    }
}

/// A connection that failed during the login.
fn broken(error: io::Error) -> LoginFailure {
    match error.kind() {
        // TLS reports a missing `close_notify` like this, too.
        io::ErrorKind::UnexpectedEof => LoginFailure::closed(error),
        _ => LoginFailure::transport(error),
    }
}

/// The failure for an `ErrorResponse`.
fn server_error(response: &[u8]) -> LoginFailure {
    let field = |tag: &[u8]| {
        let value = fields(response, 5).find_map(|field| field.strip_prefix(tag));
        String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
    };
    let (message, detail) = (field(b"M"), field(b"D"));
    let mut text = format!("{}: {message}", field(b"S"));
    if !detail.is_empty() {
        text.push_str(&format!(" ({detail})"));
    }
    LoginFailure::postgres(field(b"C"), message, text)
}

/// The zero-terminated strings of a message. An empty one ends the list.
fn fields(message: &[u8], start: usize) -> impl Iterator<Item = &[u8]> {
    let body = message.get(start..).unwrap_or_default();
    body.split(|&byte| byte == 0)
        .take_while(|field| !field.is_empty())
}
