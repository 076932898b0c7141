//! The Postgres messages that the gateway reads.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

const PROTOCOL_3: u32 = 3;
const CANCEL_REQUEST: u32 = 80_877_102;
const SSL_REQUEST: u32 = 80_877_103;
const GSSENC_REQUEST: u32 = 80_877_104;
/// Postgres has the same limit for startup packets.
const LARGEST_STARTUP: usize = 10_000;
/// Longer than any token.
const LARGEST_PASSWORD: usize = 64 * 1024;

/// The first message of a client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum First {
    Ssl,
    GssEnc,
    /// The whole packet.
    Cancel(Bytes),
    Startup(Startup),
    /// An unsupported version.
    Unknown(u32),
}

/// A startup message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Startup {
    version: u32,
    params: Vec<(String, String)>,
}

impl Startup {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.params.iter().find(|(key, _)| key == name)?;
        Some(&found.1)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.params.iter().map(|(name, _)| name.as_str())
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        match self.params.iter_mut().find(|(key, _)| key == name) {
            Some((_, old)) => *old = value.to_owned(),
            None => self.params.push((name.to_owned(), value.to_owned())),
        }
    }

    /// Adds a server setting to the session.
    pub(crate) fn add_setting(&mut self, setting: &str) {
        let option = format!("-c {setting}");
        match self.params.iter_mut().find(|(key, _)| key == "options") {
            Some((_, options)) => {
                options.push(' ');
                options.push_str(&option);
            }
            None => self.params.push(("options".to_owned(), option)),
        }
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut body = BytesMut::new();
        body.put_u32(self.version);
        for (key, value) in &self.params {
            for text in [key, value] {
                body.put_slice(text.as_bytes());
                body.put_u8(0);
            }
        }
        body.put_u8(0);
        let mut packet = BytesMut::with_capacity(body.len() + 4);
        packet.put_u32(u32::try_from(body.len() + 4).unwrap_or(u32::MAX));
        packet.put(body);
        packet.freeze()
    }
}

pub(crate) async fn read_first(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<First> {
    let length = stream.read_u32().await? as usize;
    if !(8..=LARGEST_STARTUP).contains(&length) {
        return Err(invalid("startup packet of impossible length"));
    }
    let mut body = vec![0; length - 4];
    stream.read_exact(&mut body).await?;
    let mut body = Bytes::from(body);
    let code = body.get_u32();
    Ok(match code {
        SSL_REQUEST => First::Ssl,
        GSSENC_REQUEST => First::GssEnc,
        CANCEL_REQUEST => {
            let mut packet = BytesMut::new();
            packet.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
            packet.put_u32(code);
            packet.put(body);
            First::Cancel(packet.freeze())
        }
        version if version >> 16 == PROTOCOL_3 => First::Startup(Startup {
            version,
            params: read_params(&body)?,
        }),
        version => First::Unknown(version),
    })
}

fn read_params(body: &[u8]) -> io::Result<Vec<(String, String)>> {
    let text = body
        .strip_suffix(&[0, 0])
        .or_else(|| body.strip_suffix(&[0]).filter(|rest| rest.is_empty()))
        .ok_or_else(|| invalid("startup packet without terminator"))?;
    let text = std::str::from_utf8(text).map_err(|_| invalid("startup packet is not UTF-8"))?;
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let fields: Vec<&str> = text.split('\0').collect();
    if !fields.len().is_multiple_of(2) {
        return Err(invalid("startup packet with a name but no value"));
    }
    let mut params: Vec<(String, String)> = Vec::with_capacity(fields.len() / 2);
    for pair in fields.chunks(2) {
        // With two users, the gateway would check the first and Postgres would use the last.
        if params.iter().any(|(name, _)| name == pair[0]) {
            return Err(invalid("startup packet with a name twice"));
        }
        params.push((pair[0].to_owned(), pair[1].to_owned()));
    }
    Ok(params)
}

/// Reads the response to a request for a clear-text password.
pub(crate) async fn read_password(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<String> {
    if stream.read_u8().await? != b'p' {
        return Err(invalid("expected a password message"));
    }
    let length = stream.read_u32().await? as usize;
    if !(5..=LARGEST_PASSWORD).contains(&length) {
        return Err(invalid("password message of impossible length"));
    }
    let mut body = vec![0; length - 4];
    stream.read_exact(&mut body).await?;
    if body.pop() != Some(0) {
        return Err(invalid("password message without terminator"));
    }
    String::from_utf8(body).map_err(|_| invalid("password is not UTF-8"))
}

/// Reads one message after the startup.
pub(crate) async fn read_message(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Bytes> {
    let tag = stream.read_u8().await?;
    let length = stream.read_u32().await?;
    if !(4..=LARGEST_PASSWORD as u32).contains(&length) {
        return Err(invalid("message of impossible length"));
    }
    let mut message = BytesMut::with_capacity(length as usize + 1);
    message.put_u8(tag);
    message.put_u32(length);
    message.resize(length as usize + 1, 0);
    stream.read_exact(&mut message[5..]).await?;
    Ok(message.freeze())
}

/// The meaning of a server's message for the login.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AuthStep {
    /// `AuthenticationOk`.
    Done,
    /// The client must respond.
    Answer,
    /// Forward it.
    PassOn,
    /// `ErrorResponse`.
    Refused { sqlstate: String, message: String },
}

pub(crate) fn auth_step(message: &[u8]) -> AuthStep {
    const SASL_FINAL: u32 = 12;
    match message {
        [b'R', _, _, _, _, code @ ..] => {
            match code.first_chunk().map(|code| u32::from_be_bytes(*code)) {
                Some(0) => AuthStep::Done,
                Some(SASL_FINAL) => AuthStep::PassOn,
                _ => AuthStep::Answer,
            }
        }
        [b'E', _, _, _, _, fields @ ..] => {
            let field = |tag: u8| {
                let found = fields
                    .split(|&byte| byte == 0)
                    .find(|field| field.first() == Some(&tag));
                found
                    .map(|field| String::from_utf8_lossy(&field[1..]).into_owned())
                    .unwrap_or_default()
            };
            AuthStep::Refused {
                sqlstate: field(b'C'),
                message: field(b'M'),
            }
        }
        _ => AuthStep::PassOn,
    }
}

/// `AuthenticationCleartextPassword`.
pub(crate) fn ask_cleartext_password() -> &'static [u8] {
    &[b'R', 0, 0, 0, 8, 0, 0, 0, 3]
}

/// `ErrorResponse`.
pub(crate) fn error_response(severity: &str, sqlstate: &str, message: &str) -> Bytes {
    let mut body = BytesMut::new();
    for (field, value) in [
        (b'S', severity),
        (b'V', severity),
        (b'C', sqlstate),
        (b'M', message),
    ] {
        body.put_u8(field);
        body.put_slice(value.as_bytes());
        body.put_u8(0);
    }
    body.put_u8(0);
    let mut packet = BytesMut::with_capacity(body.len() + 5);
    packet.put_u8(b'E');
    packet.put_u32(u32::try_from(body.len() + 4).unwrap_or(u32::MAX));
    packet.put(body);
    packet.freeze()
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> io::Result<First> {
        let mut bytes = bytes;
        read_first(&mut bytes).await
    }

    #[test]
    fn settings_are_appended_to_the_options_a_client_already_sends() {
        let mut startup = Startup {
            version: PROTOCOL_3 << 16,
            params: vec![("options".into(), "-c geqo=off".into())],
        };
        startup.add_setting("default_transaction_read_only=on");
        let expected = "-c geqo=off -c default_transaction_read_only=on";
        assert_eq!(startup.get("options"), Some(expected));
    }

    #[tokio::test]
    async fn invalid_startup_packets_are_rejected() {
        for (bytes, why) in [
            (&[0xff, 0xff, 0xff, 0xff][..], "huge length"),
            (&[0, 0, 0, 3], "short length"),
            (
                &[0, 0, 0, 12, 0, 3, 0, 0, b'u', b's', b'e', b'r'],
                "no terminator",
            ),
            (
                &[0, 0, 0, 11, 0, 3, 0, 0, b'u', 0, 0],
                "a name without a value",
            ),
            (b"\0\0\0\x17\0\x03\0\0user\0a\0user\0b\0\0", "a name twice"),
            (b"GET / HTTP/1.1\r\n", "another protocol"),
        ] {
            assert!(read(bytes).await.is_err(), "{why}");
        }
    }

    fn read_now(bytes: &[u8]) -> io::Result<First> {
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        runtime.block_on(read(bytes))
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_rejected(
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
        ) {
            let _ = read_now(&bytes);
            // The same behind a length that fits, as a startup of our version.
            let mut packet = u32::try_from(bytes.len() + 8).expect("small").to_be_bytes().to_vec();
            packet.extend([0, 3, 0, 0]);
            packet.extend(&bytes);
            let _ = read_now(&packet);
        }

        #[test]
        fn every_startup_message_is_read_as_it_was_written(
            user in "[a-zA-Z0-9@.-]{1,40}",
            options in "[ -~]{0,40}",
        ) {
            let mut startup = Startup { version: PROTOCOL_3 << 16, params: Vec::new() };
            startup.set("user", &user);
            startup.set("options", &options);
            let first = read_now(&startup.encode()).expect("a startup");
            proptest::prop_assert_eq!(first, First::Startup(startup));
        }
    }
}
