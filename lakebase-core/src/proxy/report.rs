//! Converts an [`Error`] into an `ErrorResponse`, and what a driver reports of that back into the error.

use super::client;
use crate::error::Error;

/// Value of the field `routine` of our `ErrorResponse`. The field `file` contains the error as a record.
const ROUTINE: &str = "lakebase";

/// The response to a failed login.
pub(super) fn failed(error: &Error) -> Vec<u8> {
    message(&[
        (b'C', sqlstate(error)),
        (b'M', &error.chain()),
        (b'H', error.hint().unwrap_or_default()),
        (b'F', &error.to_record()),
        (b'R', ROUTINE),
    ])
}

/// The response to a client that the proxy does not serve.
pub(super) fn rejected(text: &str) -> Vec<u8> {
    message(&[(b'C', "28000"), (b'M', text)])
}

/// The message to an idle session, or during a login, when the proxy shuts down.
pub(super) fn ended() -> Vec<u8> {
    message(&[(b'C', "57P01"), (b'M', "the auth proxy shuts down")])
}

/// sqlx retries a login that failed with 53300 or 57P03 until its own timeout and then drops the cause; libpq tries the next
/// host. The login loop has retried already.
fn sqlstate(error: &Error) -> &str {
    match error.sqlstate() {
        Some(code) if code.starts_with("53") || code.starts_with("57") => "08004",
        Some(code) => code,
        None if error.is_config() => "F0000",
        None if error.is_sign_in() || error.is_login() => "28000",
        None => "08001",
    }
}

fn message(fields: &[(u8, &str)]) -> Vec<u8> {
    let mut body = b"SFATAL\0VFATAL\0".to_vec();
    for (field, value) in fields {
        if !value.is_empty() {
            body.push(*field);
            // A zero byte would end the field.
            body.extend(value.bytes().filter(|&byte| byte != 0));
            body.push(0);
        }
    }
    body.push(0);
    client::message(b'E', &body)
}

impl Error {
    /// Returns the error of a failed login through the [auth proxy](crate::proxy), from the fields `file` and `routine` that a
    /// driver's error has. `None` if the error does not come from the proxy. Its causes keep their texts and lose their types.
    ///
    /// For adapters.
    pub fn from_response(file: Option<&str>, routine: Option<&str>) -> Option<Self> {
        match routine {
            Some(ROUTINE) => Self::from_record(file?),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn field(response: &[u8], tag: u8) -> Option<&str> {
        let mut fields = response[5..].split(|&byte| byte == 0);
        let found = fields.find(|field| field.first() == Some(&tag))?;
        std::str::from_utf8(&found[1..]).ok()
    }

    #[test]
    fn the_response_to_a_failed_login_has_code_text_and_hint_and_converts_back() {
        let error = Error::new(Kind::Timeout, "no login within 3 s")
            .with_hint("Check PGHOST")
            .with_sqlstate(Some("53300"))
            .with_source(std::io::Error::other("the cause"));
        let response = failed(&error);
        assert_eq!(field(&response, b'S'), Some("FATAL"));
        assert_eq!(field(&response, b'C'), Some("08004"));
        assert_eq!(field(&response, b'M'), Some(error.chain().as_str()));
        assert_eq!(field(&response, b'H'), Some("Check PGHOST"));
        let back = Error::from_response(field(&response, b'F'), field(&response, b'R'));
        assert_eq!(back.unwrap().chain(), error.chain());
    }

    #[test]
    fn the_proxy_sends_no_code_that_drivers_retry() {
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
    fn errors_of_other_programs_do_not_convert() {
        let record = Error::config("x").to_record();
        for (file, routine) in [
            (Some("auth.c"), Some("auth_failed")),
            (Some("auth.c"), Some("lakebase")),
            (None, Some("lakebase")),
            (Some(record.as_str()), None),
        ] {
            assert!(Error::from_response(file, routine).is_none());
        }
    }
}
