//! Errors of requests. Responses have a short text; the log has the cause.

use std::fmt;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::input::Invalid;
use super::page;

#[derive(Debug)]
pub enum Failure {
    Invalid(Invalid),
    Body(JsonRejection),
    UnknownUser,
    NameTaken,
    /// The pool returned an error.
    NoConnection,
    Statement,
}

impl Failure {
    pub fn no_connection(cause: impl fmt::Display) -> Self {
        tracing::error!(%cause, "no connection");
        Self::NoConnection
    }

    pub fn statement(cause: impl fmt::Display) -> Self {
        tracing::error!(%cause, "a statement failed");
        Self::Statement
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Body(rejection) => rejection.status(),
            Self::UnknownUser => StatusCode::NOT_FOUND,
            Self::NameTaken => StatusCode::CONFLICT,
            Self::NoConnection => StatusCode::SERVICE_UNAVAILABLE,
            Self::Statement => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn field(&self) -> Option<&'static str> {
        match self {
            Self::Invalid(invalid) => Some(invalid.field),
            Self::UnknownUser => Some("user_id"),
            Self::NameTaken => Some("name"),
            Self::Body(_) | Self::NoConnection | Self::Statement => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(invalid) => f.write_str(invalid.problem),
            Self::Body(rejection) => f.write_str(&rejection.body_text()),
            Self::UnknownUser => f.write_str("the user does not exist"),
            Self::NameTaken => f.write_str("the name is in use"),
            Self::NoConnection => f.write_str("the database is not available, try again"),
            Self::Statement => f.write_str("the statement failed"),
        }
    }
}

impl From<Invalid> for Failure {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}

impl From<JsonRejection> for Failure {
    fn from(rejection: JsonRejection) -> Self {
        Self::Body(rejection)
    }
}

/// The response of the API.
impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = json!({ "error": self.to_string(), "field": self.field() });
        (self.status(), Json(body)).into_response()
    }
}

/// The response of the page.
pub struct PageFailure(Failure);

impl<E: Into<Failure>> From<E> for PageFailure {
    fn from(cause: E) -> Self {
        Self(cause.into())
    }
}

impl IntoResponse for PageFailure {
    fn into_response(self) -> Response {
        let Self(failure) = self;
        (failure.status(), page::sorry(&failure)).into_response()
    }
}
