//! A driver's side of a session, from its first byte to `AuthenticationOk`.

use std::io;

use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::socket::Stream;

/// Postgres' limit for startup packets, also used for passwords.
const LONGEST: usize = 10_000;

/// Protocol version 3.0.
const VERSION: u32 = 3 << 16;
const CANCEL: u32 = 80_877_102;
const TLS: u32 = 80_877_103;
const GSS: u32 = 80_877_104;

/// Process id and secret of a session, which a cancel request contains.
pub(super) type Key = (i32, i32);
/// Names and values.
pub(super) type Parameters = Vec<(String, String)>;

/// The first request of a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// A session with these startup parameters.
    Session(Parameters),
    /// Cancels the statement of the session with this key.
    Cancel(Key),
}

/// Reads the first request, and declines encryption.
pub(super) async fn read_request(client: &mut dyn Stream) -> io::Result<Request> {
    loop {
        let packet = read_body(client, 8).await?;
        let mut body = &packet[..];
        match body.read_u32().await? {
            TLS | GSS => client.write_all(b"N").await?,
            CANCEL => {
                let key = (body.read_i32().await?, body.read_i32().await?);
                return Ok(Request::Cancel(key));
            }
            version if version >> 16 == 3 => {
                let (options, parameters) = read_parameters(body)?;
                if version != VERSION || !options.is_empty() {
                    client.write_all(&negotiate(&options)).await?;
                }
                return Ok(Request::Session(parameters));
            }
            _ => return Err(malformed("an unknown version of the protocol")),
        }
    }
}

/// Reads a length, which counts itself and is at least `shortest`, and returns the rest of the packet.
async fn read_body(client: &mut dyn Stream, shortest: usize) -> io::Result<Vec<u8>> {
    let length = client.read_u32().await? as usize;
    if !(shortest..=LONGEST).contains(&length) {
        return Err(malformed("not the Postgres protocol"));
    }
    let mut body = vec![0; length - 4];
    client.read_exact(&mut body).await?;
    Ok(body)
}

/// The names of protocol options, none of which is supported, and the startup parameters.
fn read_parameters(body: &[u8]) -> io::Result<(Vec<String>, Parameters)> {
    let text = std::str::from_utf8(body).map_err(|_| malformed("parameters must be UTF-8"))?;
    let text = text.strip_suffix('\0');
    let mut texts = text
        .ok_or_else(|| malformed("startup parameters without an end"))?
        .split('\0');
    let (mut options, mut parameters) = (Vec::new(), Vec::new());
    while let Some(name) = texts.next().filter(|name| !name.is_empty()) {
        let value = texts
            .next()
            .ok_or_else(|| malformed("a startup parameter without a value"))?;
        match name.starts_with("_pq_.") {
            true => options.push(name.to_owned()),
            false => parameters.push((name.to_owned(), value.to_owned())),
        }
    }
    Ok((options, parameters))
}

/// Tells the client to use protocol version 3.0 without these options.
fn negotiate(options: &[String]) -> Vec<u8> {
    let count = u32::try_from(options.len()).unwrap_or_default();
    let mut body = [VERSION.to_be_bytes(), count.to_be_bytes()].concat();
    for option in options {
        body.extend_from_slice(option.as_bytes());
        body.push(0);
    }
    message(b'v', &body)
}

/// A message to the client.
pub(super) fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [&[tag], &length.to_be_bytes()[..], body].concat()
}

/// Requests the password and compares it.
pub(super) async fn knows_password(
    client: &mut dyn Stream,
    password: &SecretString,
) -> io::Result<bool> {
    const CLEAR_TEXT_PASSWORD: &[u8] = b"R\0\0\0\x08\0\0\0\x03";
    client.write_all(CLEAR_TEXT_PASSWORD).await?;
    if client.read_u8().await? != b'p' {
        return Err(malformed("no password"));
    }
    let given = read_body(client, 5).await?;
    let given = given.strip_suffix(b"\0").unwrap_or(&given);
    // In constant time: the duration must not reveal where they differ.
    Ok(given.ct_eq(password.expose_secret().as_bytes()).into())
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(code: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 8).unwrap();
        [&length.to_be_bytes()[..], &code.to_be_bytes(), body].concat()
    }

    /// The request, and the replies that the client gets.
    fn read(bytes: &[u8]) -> (io::Result<Request>, Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.build().unwrap();
        runtime.block_on(async {
            let (mut client, mut ours) = tokio::io::duplex(64 * 1024);
            client.write_all(bytes).await.unwrap();
            client.shutdown().await.unwrap();
            let request = read_request(&mut ours).await;
            drop(ours);
            let mut sent = Vec::new();
            client.read_to_end(&mut sent).await.unwrap();
            (request, sent)
        })
    }

    #[test]
    fn encryption_is_declined_and_the_startup_packet_follows() {
        let start = packet(3 << 16, b"user\0app\0options\0-c a=b\0\0");
        let bytes = [packet(GSS, b""), packet(TLS, b""), start].concat();
        let (request, sent) = read(&bytes);
        let expected = [("user", "app"), ("options", "-c a=b")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(request.unwrap(), Request::Session(expected.to_vec()));
        assert_eq!(sent, b"NN");
    }

    #[test]
    fn a_newer_minor_version_is_negotiated_down() {
        let (request, sent) = read(&packet((3 << 16) + 2, b"user\0app\0_pq_.x\0on\0\0"));
        let expected = vec![("user".to_owned(), "app".to_owned())];
        assert_eq!(request.unwrap(), Request::Session(expected));
        assert_eq!(sent, b"v\0\0\0\x13\0\x03\0\0\0\0\0\x01_pq_.x\0");
    }

    #[test]
    fn malformed_startup_packets_are_errors() {
        for bytes in [
            Vec::new(),
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            vec![0, 0, 0, 4],
            packet(2 << 16, b"\0"),
            packet(3 << 16, b"user\0app"),
            packet(3 << 16, b"user\0"),
            packet(3 << 16, b"user\0\xff\xff\0\0"),
            packet(CANCEL, b"\0\0\0"),
        ] {
            assert!(read(&bytes).0.is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn random_bytes_do_not_panic(noise in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&noise);
            let _ = read(&packet(3 << 16, &noise));
        }
    }
}
