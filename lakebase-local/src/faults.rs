//! Faults of the workspace API and of the gateway.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::events::Call;

/// A fault that replaces or delays the response of a call.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// Delays the response.
    Slow(Duration),
    /// Responds with an error.
    Status {
        /// HTTP status.
        status: u16,
        /// `error_code` of the body.
        error_code: String,
        /// `message` of the body.
        message: String,
        /// `Retry-After` header, seconds or a date.
        retry_after: Option<String>,
    },
    /// Responds with 200, this body and this content type.
    Body {
        /// Content type.
        content_type: String,
        /// Body.
        body: String,
    },
    /// Redirects to a login page.
    LoginPage,
    /// Sends half of a response, then closes the connection.
    HalfReply,
    /// Closes the connection without a response.
    Reset,
    /// Never responds.
    Silence,
}

impl Fault {
    /// An error with the platform's usual body.
    pub fn status(status: u16, error_code: &str, message: &str) -> Self {
        Self::Status {
            status,
            error_code: error_code.to_owned(),
            message: message.to_owned(),
            retry_after: None,
        }
    }

    /// 429 with `Retry-After`.
    pub fn rate_limited(retry_after: &str) -> Self {
        Self::Status {
            status: 429,
            error_code: "RESOURCE_EXHAUSTED".to_owned(),
            message: "too many requests".to_owned(),
            retry_after: Some(retry_after.to_owned()),
        }
    }

    /// 200 with a JSON body of your own.
    pub fn json(body: &str) -> Self {
        Self::Body {
            content_type: "application/json".to_owned(),
            body: body.to_owned(),
        }
    }

    /// 200 with an HTML page.
    pub fn html() -> Self {
        Self::Body {
            content_type: "text/html; charset=utf-8".to_owned(),
            body: "<!doctype html><title>Sign in</title>".to_owned(),
        }
    }
}

/// A fault that replaces the check of the token in a login.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LoginFault {
    /// The login fails with an error.
    Refuse {
        /// SQLSTATE.
        sqlstate: String,
        /// `FATAL`, or `ERROR` as some gateways send.
        severity: String,
        /// Text.
        message: String,
    },
    /// The connection is closed when the password has arrived.
    Close,
}

impl LoginFault {
    /// An error of severity `FATAL`.
    pub fn refuse(sqlstate: &str, message: &str) -> Self {
        Self::Refuse {
            sqlstate: sqlstate.to_owned(),
            severity: "FATAL".to_owned(),
            message: message.to_owned(),
        }
    }

    /// The error with which a new branch rejects valid tokens for some seconds. The platform documents no
    /// SQLSTATE for it, so the caller chooses one.
    pub fn fresh_branch(sqlstate: &str) -> Self {
        Self::refuse(sqlstate, "External authorization failed")
    }
}

/// Planned faults: first the counted ones, then the lasting one.
#[derive(Debug)]
struct Planned<F> {
    counted: VecDeque<F>,
    /// With its end, if it has one.
    lasting: Option<(F, Option<Instant>)>,
}

impl<F> Default for Planned<F> {
    fn default() -> Self {
        Self {
            counted: VecDeque::new(),
            lasting: None,
        }
    }
}

impl<F: Clone> Planned<F> {
    fn push(&mut self, times: usize, fault: F) {
        self.counted.extend(std::iter::repeat_n(fault, times));
    }

    fn take(&mut self) -> Option<F> {
        let is_over = |end: Option<Instant>| end.is_some_and(|end| Instant::now() >= end);
        let lasting = self.lasting.as_ref().filter(|(_, end)| !is_over(*end));
        let lasting = lasting.map(|(fault, _)| fault.clone());
        self.counted.pop_front().or(lasting)
    }
}

/// Faults of logins.
#[derive(Debug, Default)]
pub(crate) struct LoginFaults(Mutex<Planned<LoginFault>>);

impl LoginFaults {
    fn lock(&self) -> MutexGuard<'_, Planned<LoginFault>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, times: usize, fault: LoginFault) {
        self.lock().push(times, fault);
    }

    pub(crate) fn set_for(&self, duration: Duration, fault: LoginFault) {
        // `Duration::MAX` overflows the clock and means no end.
        let end = Instant::now().checked_add(duration);
        self.lock().lasting = Some((fault, end));
    }

    pub(crate) fn clear(&self) {
        *self.lock() = Planned::default();
    }

    pub(crate) fn take(&self) -> Option<LoginFault> {
        self.lock().take()
    }
}

/// Faults of the workspace API, by call.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<HashMap<Call, Planned<Fault>>>);

impl Faults {
    fn lock(&self) -> MutexGuard<'_, HashMap<Call, Planned<Fault>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces all faults of the call by a lasting one.
    pub(crate) fn set(&self, call: Call, fault: Fault) {
        let planned = Planned {
            lasting: Some((fault, None)),
            ..Planned::default()
        };
        self.lock().insert(call, planned);
    }

    pub(crate) fn push(&self, call: Call, times: usize, fault: Fault) {
        self.lock().entry(call).or_default().push(times, fault);
    }

    pub(crate) fn clear(&self, call: Call) {
        self.lock().remove(&call);
    }

    pub(crate) fn take(&self, call: Call) -> Option<Fault> {
        self.lock().get_mut(&call)?.take()
    }
}
