//! What a handler returns if it has no connection, or a statement fails.

use std::fmt::Display;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use diesel::result::DatabaseErrorKind::UniqueViolation;
use diesel::result::Error::{self, DatabaseError};
use diesel_async::pooled_connection::bb8::RunError;

/// The status of a response. The text is for the log alone: it names the host and the role.
pub struct Failure(StatusCode);

impl Failure {
    fn new(error: impl Display, is_transient: bool) -> Self {
        eprintln!("{error}");
        Self(if is_transient {
            StatusCode::SERVICE_UNAVAILABLE
        } else {
            StatusCode::INTERNAL_SERVER_ERROR
        })
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        let is_transient = lakebase_diesel::bb8::is_transient(&error);
        Self::new(error, is_transient)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        if let DatabaseError(UniqueViolation, _) = error {
            return Self(StatusCode::CONFLICT);
        }
        let is_transient = lakebase_diesel::is_transient(&error);
        Self::new(error, is_transient)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        self.0.into_response()
    }
}
