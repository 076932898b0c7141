//! Replies of the workspace, in any form.

use std::time::{Duration, SystemTime};

use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, DATE, HeaderMap, LOCATION, RETRY_AFTER};
use secrecy::SecretString;
use serde_json::Value;
use url::form_urlencoded;

use crate::credential::clock::Now;
use crate::error::foreign;
use crate::error::{Error, Kind};

/// A longer `Retry-After` is shortened to this, the time limit of the official clients.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);
/// `Retry-After` of a rate limit without one.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);

/// A complete HTTP reply.
pub(crate) struct Reply {
    base: String,
    pub(crate) status: u16,
    /// The server's clock.
    pub(crate) date: Option<SystemTime>,
    pub(crate) sent: Now,
    pub(crate) received: Now,
    headers: HeaderMap,
    body: Vec<u8>,
    secrets: Vec<SecretString>,
}

/// Error code, text and request id.
type Explanation = (Option<String>, String, Option<String>);

impl Reply {
    pub(crate) fn new(
        base: &str,
        status: u16,
        headers: &HeaderMap,
        body: Vec<u8>,
        sent: Now,
        received: Now,
    ) -> Self {
        let mut reply = Self {
            base: base.to_owned(),
            status,
            date: None,
            sent,
            received,
            headers: headers.clone(),
            body,
            secrets: Vec::new(),
        };
        reply.date = reply.header(DATE.as_str()).and_then(http_date);
        reply
    }

    /// Masks the secrets of the request wherever the reply repeats them.
    pub(super) fn scrubbed(mut self, secrets: &[&str]) -> Self {
        self.secrets = secrets
            .iter()
            .flat_map(|secret| {
                // A page may repeat a form in its encoding.
                let encoded: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
                [encoded, (*secret).to_owned()]
            })
            .map(SecretString::from)
            .collect();
        self
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The target of a redirect.
    pub(crate) fn location(&self) -> Option<&str> {
        self.header(LOCATION.as_str())
    }

    fn request_id(&self) -> Option<String> {
        Some(self.quote(self.header("x-request-id")?))
    }

    fn is_html(&self) -> bool {
        let kind = self.header(CONTENT_TYPE.as_str());
        kind.is_some_and(|kind| kind.contains("html"))
    }

    /// Whether the workspace, or a proxy in front of it, is down.
    pub(super) fn is_outage(&self) -> bool {
        matches!(self.status, 408 | 500 | 502 | 503 | 504)
    }

    /// Whether the token of the request may have expired or been revoked, although the status is not 401. The workspace also answers
    /// 403 if the identity lacks a permission.
    pub(crate) fn doubts_token(&self) -> bool {
        let names_token = || {
            let text = String::from_utf8_lossy(&self.body).to_lowercase();
            let has = |words: [&str; 2]| words.iter().any(|word| text.contains(word));
            has(["token", "jwt"]) && has(["expired", "invalid"])
        };
        self.status == 403 || self.status == 400 && names_token()
    }

    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as JSON. The error does not quote it, because it may contain a token.
    pub(crate) fn json(&self) -> Result<Value, Error> {
        serde_json::from_slice(&self.body).map_err(|_| {
            let what = if self.is_html() || self.body.trim_ascii_start().starts_with(b"<") {
                "an HTML page"
            } else if self.body.is_empty() {
                "nothing"
            } else {
                "malformed JSON"
            };
            self.platform_error(format!("{} answered {what} where JSON was expected", self.base))
                .with_hint("A login page or a proxy's page: check DATABRICKS_HOST, and DATABRICKS_WORKSPACE_ID if one host serves many workspaces")
        })
    }

    /// An error about this reply.
    pub(crate) fn error(&self, kind: Kind, message: impl Into<String>) -> Error {
        Error::new(kind, message).with_response(self.status, None, self.request_id())
    }

    /// An error of the platform about this reply.
    pub(crate) fn platform_error(&self, message: impl Into<String>) -> Error {
        self.error(Kind::Platform, message)
    }

    /// The error of a reply without success.
    pub(crate) fn failure(&self, what: &str) -> Error {
        let (code, detail, body_request_id) = self.explain();
        let request_id = self.request_id().or(body_request_id);
        let message = match detail.as_str() {
            "" => what.to_owned(),
            _ => format!("{what}: {detail}"),
        };
        if self.is_private_link_page() {
            return Error::new(Kind::SignIn, message)
                .with_response(403, Some("PRIVATE_LINK_VALIDATION_ERROR".to_owned()), request_id)
                .with_hint("The workspace accepts requests from its private network only (AWS PrivateLink, Azure Private Link, Private Service Connect). Run the program inside of it");
        }
        let is_rate_limit = self.status == 429
            || matches!(
                code.as_deref(),
                Some("RESOURCE_EXHAUSTED" | "REQUEST_LIMIT_EXCEEDED")
            );
        let is_transient =
            is_rate_limit || self.is_outage() || TRANSIENT.iter().any(|text| detail.contains(text));
        let retry_after = self.retry_after().filter(|_| is_transient);
        // Codes of RFC 6749 for a rejected identity, with any status.
        let is_rejection = matches!(
            code.as_deref(),
            Some("invalid_client" | "invalid_grant" | "unauthorized_client" | "access_denied")
        );
        let kind = match self.status {
            401 | 403 => Kind::SignIn,
            _ if is_rejection => Kind::SignIn,
            _ => Kind::Platform,
        };
        let error = Error::new(kind, message)
            .with_response(self.status, code, request_id)
            .with_retry_after(retry_after.or(is_rate_limit.then_some(DEFAULT_RETRY_AFTER)))
            .with_transient(is_transient);
        match self.status {
            300..=399 => error.with_hint("Check DATABRICKS_HOST, and DATABRICKS_WORKSPACE_ID if one host serves many workspaces"),
            403 => error.with_hint("Check that the identity has the workspace-access entitlement and may use the project, and that no IP access list or Private Link rule blocks this network"),
            _ => error,
        }
    }

    /// `Retry-After`, limited to five minutes.
    fn retry_after(&self) -> Option<Duration> {
        let server_now = self.date.unwrap_or(self.received.wall);
        let wait = retry_after(self.header(RETRY_AFTER.as_str())?, server_now)?;
        Some(wait.min(LONGEST_RETRY_AFTER))
    }

    /// Whether the reply is the redirect of a workspace with a private link.
    fn is_private_link_page(&self) -> bool {
        let page = self.location().and_then(|to| to.split_once('?'));
        page.is_some_and(|(path, query)| {
            path.ends_with("/login.html") && query.contains("error=private-link-validation-error")
        })
    }

    /// Reads all documented forms of an error.
    fn explain(&self) -> Explanation {
        let is_redirect = (300..=399).contains(&self.status);
        if let Some(location) = self.location().filter(|_| is_redirect) {
            let target = location.split(['?', '#']).next().unwrap_or_default();
            return (None, format!("redirected to {}", self.quote(target)), None);
        }
        match serde_json::from_slice(&self.body) {
            Ok(body @ Value::Object(_)) => self.explain_json(&body),
            _ => {
                let (code, detail) = self.explain_text(&String::from_utf8_lossy(&self.body));
                (code, detail, None)
            }
        }
    }

    fn explain_json(&self, body: &Value) -> Explanation {
        let first = |pointers: &[&str]| {
            let mut values = pointers.iter().filter_map(|pointer| body.pointer(pointer));
            values.find_map(|value| match value {
                Value::String(text) if !text.is_empty() => Some(self.quote(text)),
                Value::Number(number) => Some(number.to_string()),
                _ => None,
            })
        };
        // `error` is the code in OAuth, the message in old APIs, and an object with both in Azure Resource Manager.
        let last_code = match body.get("error_description") {
            Some(_) => "/error",
            None => "/error/code",
        };
        let code = first(&["/error_code", "/errorCode", "/scimType", last_code]);
        let detail = first(&[
            "/message",
            "/detail",
            "/error_description",
            "/errorSummary",
            "/error",
            "/error/message",
        ]);
        let details = body["details"].as_array().into_iter().flatten();
        let mut ids = details.filter_map(|detail| detail["request_id"].as_str());
        let request_id = ids.next().map(|id| self.quote(id));
        (code, detail.unwrap_or_default(), request_id)
    }

    /// Code and text of a body that is not a JSON object.
    fn explain_text(&self, text: &str) -> (Option<String>, String) {
        // Malformed JSON may contain a part of a token.
        if text.trim_start().starts_with(['{', '[']) {
            return (None, "malformed JSON".to_owned());
        }
        let reason = StatusCode::from_u16(self.status).ok();
        let reason = reason.and_then(|status| status.canonical_reason());
        let title =
            between(text, "<pre>", "</pre>").or_else(|| between(text, "<title>", "</title>"));
        if let Some(title) = title {
            let code = reason.map(|reason| reason.to_uppercase().replace([' ', '-'], "_"));
            return (code, self.quote(title));
        }
        let is_code = |code: &str| {
            !code.is_empty() && code.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
        };
        match text.split_once(": ") {
            _ if text.trim().is_empty() => (None, reason.unwrap_or_default().to_owned()),
            Some((code, detail)) if is_code(code) => (Some(code.to_owned()), self.quote(detail)),
            _ if self.is_html() => (None, "an HTML page".to_owned()),
            _ => (None, self.quote(text)),
        }
    }

    fn quote(&self, text: &str) -> String {
        foreign::clean(text, &self.secrets)
    }
}

/// Texts of transient errors of the platform, with any status.
const TRANSIENT: &[&str] = &[
    "com.databricks.backend.manager.util.UnknownWorkerEnvironmentException",
    "does not have any associated worker environments",
    "There is no worker environment with id",
    "Unknown worker environment",
    "ClusterNotReadyException",
    "Unexpected error",
    "Please try again later or try a faster operation.",
    "RPC token bucket limit has been exceeded",
];

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(start)?;
    Some(rest.split_once(end)?.0)
}

/// Protobuf JSON time: RFC 3339 with or without fraction, `Z` or an offset.
pub(crate) fn timestamp(text: &str) -> Option<SystemTime> {
    Some(text.parse::<jiff::Timestamp>().ok()?.into())
}

/// RFC 9110 dates are RFC 2822 dates in GMT.
fn http_date(text: &str) -> Option<SystemTime> {
    // Some servers get the weekday wrong; it carries no information.
    let parser = jiff::fmt::rfc2822::DateTimeParser::new().relaxed_weekday(true);
    Some(parser.parse_timestamp(text).ok()?.into())
}

/// `Retry-After` in seconds or as a date, relative to the server's own clock.
fn retry_after(value: &str, server_now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = http_date(value)?.duration_since(server_now);
    Some(until.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn timestamps_have_any_fraction_and_any_offset() {
        for (text, seconds) in [
            ("2026-09-14T10:30:00Z", Some(1_789_381_800)),
            ("2026-09-14T12:30:00.000+02:00", Some(1_789_381_800)),
            ("2026-09-14T10:30:00.000000000Z", Some(1_789_381_800)),
            ("NaN", None),
            ("1789381800", None),
            ("", None),
        ] {
            assert_eq!(timestamp(text), seconds.map(at), "{text:?}");
        }
    }

    #[test]
    fn retry_after_is_in_seconds_or_a_date_by_the_servers_clock() {
        let now = http_date("Mon, 14 Sep 2026 10:30:00 GMT").expect("a date");
        for (value, expected) in [
            ("7", Some(7)),
            ("Mon, 14 Sep 2026 10:30:09 GMT", Some(9)),
            ("Mon, 14 Sep 2026 10:29:00 GMT", Some(0)),
            ("1.58", None),
            ("soon", None),
        ] {
            let expected = expected.map(Duration::from_secs);
            assert_eq!(retry_after(value, now), expected, "{value:?}");
        }
    }

    #[test]
    fn every_documented_form_of_an_error_body_is_read() {
        for (body, code, detail) in [
            (
                r#"{"error_code":"NOT_FOUND","message":"endpoint id not found"}"#,
                Some("NOT_FOUND"),
                "endpoint id not found",
            ),
            (r#"{"error_code":500,"message":"m"}"#, Some("500"), "m"),
            (
                r#"{"schemas":[],"detail":"no such user","status":"404"}"#,
                None,
                "no such user",
            ),
            (
                r#"{"error":"invalid_client","error_description":"Client authentication failed"}"#,
                Some("invalid_client"),
                "Client authentication failed",
            ),
            (r#"{"errorCode":"E1","errorSummary":"s"}"#, Some("E1"), "s"),
            (r#"{"error":"legacy"}"#, None, "legacy"),
            (
                r#"{"error":{"code":"AuthorizationFailed","message":"no right"}}"#,
                Some("AuthorizationFailed"),
                "no right",
            ),
            ("MALFORMED_REQUEST: vpc", Some("MALFORMED_REQUEST"), "vpc"),
            (
                "<html><pre>Worker environment not ready</pre></html>",
                Some("BAD_REQUEST"),
                "Worker environment not ready",
            ),
            (
                "<html><title>502 Bad Gateway</title></html>",
                Some("BAD_REQUEST"),
                "502 Bad Gateway",
            ),
            ("", None, "Bad Request"),
            ("{\"token\":\"eyJr", None, "malformed JSON"),
            (r#"{"message":"you sent hush-hush"}"#, None, "you sent ***"),
        ] {
            let reply = reply(400, body.into()).scrubbed(&["hush-hush"]);
            let (got_code, got_detail, _) = reply.explain();
            assert_eq!(
                (got_code.as_deref(), got_detail.as_str()),
                (code, detail),
                "{body}"
            );
        }
    }

    #[test]
    fn a_403_and_a_400_about_an_invalid_token_cast_doubt_on_the_token() {
        for (status, body, expected) in [
            (403, "Invalid access token.", true),
            (403, "", true),
            (
                400,
                r#"{"message":"io.jsonwebtoken.ExpiredJwtException: ..."}"#,
                true,
            ),
            (400, "Access token is INVALID", true),
            (400, r#"{"message":"the token is required"}"#, false),
            (400, r#"{"message":"invalid name"}"#, false),
            (404, "Invalid token", false),
            (500, "JWT expired", false),
            (200, "token expired", false),
        ] {
            let reply = reply(status, body.into());
            assert_eq!(reply.doubts_token(), expected, "{status} {body}");
        }
    }

    fn reply(status: u16, body: Vec<u8>) -> Reply {
        let now = Now {
            wall: at(1_800_000_000),
            monotonic: tokio::time::Instant::now().into_std(),
            passed: Duration::ZERO,
        };
        Reply::new("https://w", status, &HeaderMap::new(), body, now, now)
    }

    proptest::proptest! {
        #[test]
        fn any_body_is_read_without_a_panic(
            status in 100_u16..1000,
            body in proptest::collection::vec(proptest::num::u8::ANY, 0..300),
        ) {
            let reply = reply(status, body);
            let _ = reply.json();
            let _ = reply.failure("refused").to_string();
        }

        #[test]
        fn a_secret_in_a_reply_is_masked_wherever_it_is(
            before in "[ -~]{0,40}",
            after in "[ -~]{0,40}",
            shape in 0..6_usize,
        ) {
            let secret = "dose~hush+secret/42=";
            let text = format!("{before}{secret}{after}");
            let quoted = serde_json::to_string(&text).expect("a string");
            let form: String = form_urlencoded::byte_serialize(secret.as_bytes()).collect();
            let body = match shape {
                0 => text,
                1 => format!("{{\"error_code\":{quoted},\"message\":{quoted}}}"),
                2 => format!("{{\"error\":{{\"code\":{quoted},\"message\":{quoted}}}}}"),
                3 => format!("<html><pre>{text}</pre></html>"),
                4 => format!("CODE: {text}"),
                _ => format!("client_secret={form}&x=1"),
            };
            let reply = reply(400, body.into_bytes()).scrubbed(&[secret]);
            let error = reply.failure("refused");
            let shown = format!("{error} {error:?}");
            proptest::prop_assert!(!shown.contains(secret) && !shown.contains(&form), "{}", shown);
        }

        #[test]
        fn any_date_is_read_or_rejected_without_a_panic(text in "[ -~]{0,40}") {
            let _ = (timestamp(&text), http_date(&text), retry_after(&text, at(0)));
        }

        #[test]
        fn a_formatted_timestamp_is_read_unchanged(seconds in 0_u64..4_102_444_800) {
            let text = jiff::Timestamp::try_from(at(seconds)).expect("in range").to_string();
            proptest::prop_assert_eq!(timestamp(&text), Some(at(seconds)));
        }
    }
}
