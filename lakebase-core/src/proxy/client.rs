//! A driver's side of a session, from its first byte to `AuthenticationOk`.

use std::io;

use secrecy::{ExposeSecret, SecretString};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest startup packet, as Postgres has it.
const LONGEST_PACKET: usize = 10_000;
const LONGEST_PASSWORD: usize = 10_000;

/// 3.0, in the form that Postgres sends it.
const VERSION: u32 = 3 << 16;
const CANCEL: u32 = 80_877_102;
const TLS: u32 = 80_877_103;
const GSS: u32 = 80_877_104;

/// What a client wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// A session, with these parameters.
    Session(Vec<(String, String)>),
    /// That the session with this key stops what it does.
    Cancel((i32, i32)),
}

/// Reads until it is clear what the client wants. Encryption is declined.
pub(super) async fn read_wish<C>(client: &mut C) -> io::Result<Wish>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let length = client.read_u32().await? as usize;
        if !(8..=LONGEST_PACKET).contains(&length) {
            return Err(malformed("no startup packet"));
        }
        let mut packet = vec![0; length - 4];
        client.read_exact(&mut packet).await?;
        let Some((&code, body)) = packet.split_first_chunk() else {
            return Err(malformed("no startup packet"));
        };
        match u32::from_be_bytes(code) {
            TLS | GSS => client.write_all(b"N").await?,
            CANCEL => {
                let key = body
                    .first_chunk()
                    .map(|&[a, b, c, d, e, f, g, h]: &[u8; 8]| {
                        (
                            i32::from_be_bytes([a, b, c, d]),
                            i32::from_be_bytes([e, f, g, h]),
                        )
                    });
                return key.map(Wish::Cancel).ok_or_else(|| malformed("no key"));
            }
            version if version >> 16 == 3 => {
                let (options, parameters) = read_parameters(body)?;
                if version & 0xffff != 0 || !options.is_empty() {
                    client.write_all(&negotiate(&options)).await?;
                }
                return Ok(Wish::Session(parameters));
            }
            _ => return Err(malformed("an unknown version of the protocol")),
        }
    }
}

type Parameters = (Vec<String>, Vec<(String, String)>);

/// Options of the protocol (none of which is supported), and parameters of the session.
fn read_parameters(body: &[u8]) -> io::Result<Parameters> {
    let Some(body) = body.strip_suffix(b"\0") else {
        return Err(malformed("startup parameters without an end"));
    };
    let mut texts = body
        .split(|&byte| byte == 0)
        .map(|text| std::str::from_utf8(text).map_err(|_| malformed("parameters must be UTF-8")));
    let (mut options, mut parameters) = (Vec::new(), Vec::new());
    while let Some(name) = texts.next().transpose()?.filter(|name| !name.is_empty()) {
        let value = texts.next().transpose()?;
        let value = value.ok_or_else(|| malformed("a startup parameter without a value"))?;
        if name.starts_with("_pq_.") {
            options.push(name.to_owned());
        } else {
            parameters.push((name.to_owned(), value.to_owned()));
        }
    }
    Ok((options, parameters))
}

/// Version 3.0 of the protocol it is, and none of these options.
fn negotiate(options: &[String]) -> Vec<u8> {
    let count = u32::try_from(options.len()).unwrap_or_default();
    let mut body = [VERSION.to_be_bytes(), count.to_be_bytes()].concat();
    for option in options {
        body.extend_from_slice(option.as_bytes());
        body.push(0);
    }
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [&b"v"[..], &length.to_be_bytes(), &body].concat()
}

/// Asks for the password and compares it.
pub(super) async fn knows_password<C>(client: &mut C, password: &SecretString) -> io::Result<bool>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    const CLEAR_TEXT_PASSWORD: &[u8] = b"R\0\0\0\x08\0\0\0\x03";
    client.write_all(CLEAR_TEXT_PASSWORD).await?;
    let tag = client.read_u8().await?;
    let length = client.read_u32().await? as usize;
    if tag != b'p' || !(5..=LONGEST_PASSWORD).contains(&length) {
        return Err(malformed("no password"));
    }
    let mut given = vec![0; length - 4];
    client.read_exact(&mut given).await?;
    let expected = password.expose_secret().as_bytes();
    let given = given.strip_suffix(b"\0").unwrap_or(&given);
    // In the same time, wherever they differ.
    let differs = given
        .iter()
        .zip(expected)
        .fold(0, |differs, (a, b)| differs | (a ^ b));
    Ok(given.len() == expected.len() && differs == 0)
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

    /// What the client wants, and what it is sent.
    fn read(bytes: &[u8]) -> (io::Result<Wish>, Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.build().unwrap();
        runtime.block_on(async {
            let (mut client, mut ours) = tokio::io::duplex(64 * 1024);
            client.write_all(bytes).await.unwrap();
            client.shutdown().await.unwrap();
            let wish = read_wish(&mut ours).await;
            drop(ours);
            let mut sent = Vec::new();
            client.read_to_end(&mut sent).await.unwrap();
            (wish, sent)
        })
    }

    #[test]
    fn encryption_is_declined_and_the_startup_packet_follows() {
        let start = packet(3 << 16, b"user\0app\0options\0-c a=b\0\0");
        let bytes = [packet(GSS, b""), packet(TLS, b""), start].concat();
        let (wish, sent) = read(&bytes);
        let expected = [("user", "app"), ("options", "-c a=b")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(wish.unwrap(), Wish::Session(expected.to_vec()));
        assert_eq!(sent, b"NN");
    }

    #[test]
    fn a_newer_minor_version_is_negotiated_down() {
        let (wish, sent) = read(&packet((3 << 16) + 2, b"user\0app\0_pq_.x\0on\0\0"));
        let expected = vec![("user".to_owned(), "app".to_owned())];
        assert_eq!(wish.unwrap(), Wish::Session(expected));
        assert_eq!(sent, b"v\0\0\0\x13\0\x03\0\0\0\0\0\x01_pq_.x\0");
    }

    #[test]
    fn what_is_no_startup_packet_is_an_error() {
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
        fn noise_is_survived(noise in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&noise);
            let _ = read(&packet(3 << 16, &noise));
        }
    }
}
