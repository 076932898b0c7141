//! Our errors as the `ErrorResponse` that a driver hands on, and back again.

use crate::Error;
use crate::error::Kind;

/// Beginning of the routine's name in an `ErrorResponse` of ours.
const ROUTINE: &str = "lakebase_";
const TRANSIENT: &str = "_transient";

const KINDS: [(Kind, &str); 8] = [
    (Kind::Config, "config"),
    (Kind::SignIn, "sign_in"),
    (Kind::Platform, "platform"),
    (Kind::Network, "network"),
    (Kind::Timeout, "timeout"),
    (Kind::Login, "login"),
    (Kind::Database, "database"),
    (Kind::Provider, "provider"),
];

/// The message that ends a login.
pub(super) fn failed(error: &Error) -> Vec<u8> {
    let kind = KINDS.iter().find(|(kind, _)| *kind == error.kind());
    let kind = kind.map_or("platform", |(_, name)| name);
    let transient = if error.is_transient() { TRANSIENT } else { "" };
    let routine = format!("{ROUTINE}{kind}{transient}");
    message(&[
        (b'C', sqlstate(error)),
        (b'M', &error.chain()),
        (b'H', error.hint().unwrap_or_default()),
        (b'R', &routine),
    ])
}

/// A login that the proxy itself does not allow.
pub(super) fn refused(sqlstate: &str, text: &str) -> Vec<u8> {
    message(&[(b'C', sqlstate), (b'M', text)])
}

/// To an idle session of a proxy that ends.
pub(super) fn ended() -> Vec<u8> {
    refused("57P01", "the proxy ends")
}

/// sqlx repeats a login that failed with 53300 or 57P03 until its own time is up, and then forgets why; libpq
/// goes to the next host. The login loop has repeated it already.
fn sqlstate(error: &Error) -> &str {
    match error.sqlstate() {
        Some(code) if code.starts_with("53") || code.starts_with("57") => "08004",
        Some(code) => code,
        None if error.is_config() => "F0000",
        None if error.is_auth() => "28000",
        None => "08001",
    }
}

fn message(fields: &[(u8, &str)]) -> Vec<u8> {
    let mut body = b"SFATAL\0VFATAL\0".to_vec();
    for (field, value) in fields {
        if !value.is_empty() {
            body.push(*field);
            // A zero would end the field.
            body.extend(value.bytes().filter(|&byte| byte != 0));
            body.push(0);
        }
    }
    body.push(0);
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [&b"E"[..], &length.to_be_bytes(), &body].concat()
}

impl Error {
    /// The error of a login behind the [proxy](crate::proxy), from the fields of the `ErrorResponse` that a driver
    /// hands on. `None` if it is not one of the proxy's. Its causes are part of its text, and it has no source.
    ///
    /// For adapters.
    pub fn from_response(
        sqlstate: Option<&str>,
        message: &str,
        hint: Option<&str>,
        routine: Option<&str>,
    ) -> Option<Self> {
        let name = routine?.strip_prefix(ROUTINE)?;
        let (name, is_transient) = match name.strip_suffix(TRANSIENT) {
            Some(name) => (name, true),
            None => (name, false),
        };
        let (kind, _) = KINDS.iter().find(|(_, known)| *known == name)?;
        let mut text = match message.rsplit_once(" [trying again") {
            Some((text, _)) => text.to_owned(),
            None => message.to_owned(),
        };
        let mut error = Self::new(*kind, "");
        if let Some(hint) = hint {
            // It is shown behind the message.
            text = text.replacen(&format!(". {hint}"), "", 1);
            error = error.with_hint(hint);
        }
        Some(
            error
                .with_message(text)
                .with_sqlstate(sqlstate.filter(|code| !["08001", "08004", "F0000"].contains(code)))
                .with_transient(is_transient),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Vec<(u8, String)> {
        bytes[5..]
            .split(|&byte| byte == 0)
            .take_while(|field| !field.is_empty())
            .map(|field| (field[0], String::from_utf8(field[1..].to_vec()).unwrap()))
            .collect()
    }

    #[test]
    fn an_error_survives_the_way_through_a_driver() {
        for (kind, _) in KINDS {
            for is_transient in [true, false] {
                let error = Error::new(kind, "no login within 3 s")
                    .with_hint("Check PGHOST")
                    .with_sqlstate(Some("53300"))
                    .with_source(std::io::Error::other("cause"))
                    .with_transient(is_transient);
                let fields = read(&failed(&error));
                let field = |tag: u8| {
                    let found = fields.iter().find(|(known, _)| *known == tag);
                    found.map(|(_, value)| value.as_str())
                };
                assert_eq!(field(b'C'), Some("08004"));
                assert_eq!(field(b'M'), Some(error.chain().as_str()));
                let code = field(b'C');
                let back =
                    Error::from_response(code, field(b'M').unwrap(), field(b'H'), field(b'R'));
                let back = back.unwrap();
                assert_eq!(back.is_transient(), is_transient, "{kind:?}");
                assert_eq!(back.is_timeout(), error.is_timeout());
                assert_eq!(back.is_auth(), error.is_auth());
                assert_eq!(back.is_config(), error.is_config());
                assert_eq!(back.hint(), error.hint());
                let text = back.to_string();
                assert_eq!(text.matches("Check PGHOST").count(), 1, "{text}");
                assert!(text.contains("cause") && text.contains("53300"), "{text}");
            }
        }
    }

    #[test]
    fn no_code_leaves_the_proxy_that_drivers_repeat() {
        for (code, expected) in [
            (Some("53300"), "08004"),
            (Some("57P03"), "08004"),
            (Some("28P01"), "28P01"),
            (Some("3D000"), "3D000"),
            (None, "08001"),
        ] {
            let error = Error::new(Kind::Network, "x").with_sqlstate(code);
            assert_eq!(sqlstate(&error), expected);
        }
    }

    #[test]
    fn an_error_of_somebody_else_is_none_of_ours() {
        for routine in [
            None,
            Some("auth_failed"),
            Some("lakebase_"),
            Some("lakebase_x"),
        ] {
            assert!(Error::from_response(Some("28P01"), "no", None, routine).is_none());
        }
    }
}
