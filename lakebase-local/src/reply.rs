//! Responses in the platform's formats, including broken ones.

use std::io;
use std::time::SystemTime;

use axum::Json;
use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, DATE, LOCATION, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::faults::Fault;

/// An error of the workspace API.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    status: u16,
    error_code: String,
    message: String,
    detail: Option<Box<Value>>,
}

impl Failure {
    pub(crate) fn new(status: u16, error_code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            error_code: error_code.to_owned(),
            message: message.into(),
            detail: None,
        }
    }

    /// A request that cannot be done.
    pub(crate) fn bad(error_code: &str, message: impl Into<String>) -> Self {
        Self::new(400, error_code, message)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::bad("INVALID_PARAMETER_VALUE", message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "INTERNAL_ERROR", message)
    }

    pub(crate) fn required(field: &str) -> Self {
        let text = format!("Field '{field}' is required, expected non-default value (not \"\")!");
        Self::invalid(text)
    }

    pub(crate) fn with_detail(mut self, detail: Value) -> Self {
        self.detail = Some(Box::new(detail));
        self
    }

    pub(crate) fn describe(&self) -> Value {
        let request = json!({
            "@type": "type.googleapis.com/google.rpc.RequestInfo",
            "request_id": Uuid::new_v4().to_string(),
        });
        let details: Vec<&Value> = self
            .detail
            .as_deref()
            .into_iter()
            .chain([&request])
            .collect();
        json!({ "error_code": self.error_code, "message": self.message, "details": details })
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (status(self.status), Json(self.describe())).into_response()
    }
}

pub(crate) fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// The response of a fault.
pub(crate) fn faulty(fault: Fault) -> Response {
    match fault {
        Fault::Status {
            status,
            error_code,
            message,
            retry_after,
        } => {
            let mut response = Failure::new(status, &error_code, message).into_response();
            if let Some(Ok(value)) = retry_after.map(|value| HeaderValue::from_str(&value)) {
                response.headers_mut().insert(RETRY_AFTER, value);
            }
            response
        }
        Fault::Body { content_type, body } => {
            ([(CONTENT_TYPE, content_type)], body).into_response()
        }
        Fault::LoginPage => (StatusCode::FOUND, [(LOCATION, "/login.html?next=x")]).into_response(),
        Fault::Slow(_) | Fault::HalfReply | Fault::Reset | Fault::Silence => {
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// A response whose body ends early: after `start`, or before the first byte.
pub(crate) fn broken(start: Option<&'static str>) -> Response {
    let part = start.map(|text| Ok(Bytes::from_static(text.as_bytes())));
    let broken = Err(io::Error::new(
        io::ErrorKind::ConnectionReset,
        "broken on purpose",
    ));
    let body = Body::from_stream(stream::iter(part.into_iter().chain([broken])));
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

/// Adds the headers that the platform sends with every response.
pub(crate) fn stamped(mut response: Response, now: SystemTime) -> Response {
    let headers = response.headers_mut();
    if let Ok(date) = HeaderValue::from_str(&http_date(now)) {
        headers.insert(DATE, date);
    }
    if let Ok(id) = HeaderValue::from_str(&Uuid::new_v4().to_string()) {
        headers.insert("x-request-id", id);
    }
    response
}

fn http_date(at: SystemTime) -> String {
    let Ok(at) = jiff::Timestamp::try_from(at) else {
        return String::new();
    };
    at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// The time in RFC 3339, as in protobuf JSON.
pub(crate) fn rfc3339(at: SystemTime) -> String {
    match jiff::Timestamp::try_from(at) {
        Ok(at) => format!("{at:.6}"),
        Err(_) => String::new(),
    }
}

/// Result of handlers.
pub(crate) type Answer = Result<Response, Failure>;
