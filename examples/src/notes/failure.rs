//! Errors of requests. Users see why their login failed; other causes are only in the log.

use std::fmt;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

/// Status and text of the response.
#[derive(Debug)]
pub struct Failure(pub StatusCode, pub String);

impl Failure {
    pub fn statement(cause: impl fmt::Display) -> Self {
        tracing::error!(%cause, "a statement failed");
        let text = "The statement failed.".to_owned();
        Self(StatusCode::INTERNAL_SERVER_ERROR, text)
    }
}

/// The user's pool cannot log in.
impl From<lakebase_core::Error> for Failure {
    fn from(error: lakebase_core::Error) -> Self {
        tracing::warn!(error = %error.chain(), "a login failed");
        let is_rejected = error.is_login() || error.is_sign_in();
        if error.is_transient() {
            let text = "The database is not available, try again.".to_owned();
            Self(StatusCode::SERVICE_UNAVAILABLE, text)
        } else if is_rejected && error.status() == Some(401) {
            Self(StatusCode::UNAUTHORIZED, error.chain())
        } else if is_rejected {
            Self(StatusCode::FORBIDDEN, error.chain())
        } else {
            let text = "The login failed.".to_owned();
            Self(StatusCode::INTERNAL_SERVER_ERROR, text)
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, self.1).into_response()
    }
}
