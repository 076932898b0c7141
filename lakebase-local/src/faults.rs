//! Faults of the workspace API and of the gateway.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::events::Call;

/// Thirty years.
const FOREVER: Duration = Duration::from_secs(30 * 365 * 86_400);

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

/// Faults of logins: first the counted ones, then one with a deadline.
#[derive(Debug, Default)]
pub(crate) struct LoginFaults(Mutex<PlannedLogins>);

#[derive(Debug, Default)]
struct PlannedLogins {
    next: VecDeque<LoginFault>,
    lasting: Option<(Instant, LoginFault)>,
}

impl LoginFaults {
    fn lock(&self) -> MutexGuard<'_, PlannedLogins> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, times: usize, fault: LoginFault) {
        let faults = std::iter::repeat_n(fault, times);
        self.lock().next.extend(faults);
    }

    pub(crate) fn set_for(&self, duration: Duration, fault: LoginFault) {
        // `Duration::MAX` overflows the clock and means no deadline.
        let end = Instant::now().checked_add(duration);
        let end = end.unwrap_or_else(|| Instant::now() + FOREVER);
        self.lock().lasting = Some((end, fault));
    }

    pub(crate) fn clear(&self) {
        *self.lock() = PlannedLogins::default();
    }

    pub(crate) fn take(&self) -> Option<LoginFault> {
        let mut planned = self.lock();
        let lasting = planned.lasting.as_ref();
        let lasting = lasting.filter(|(end, _)| Instant::now() < *end);
        let lasting = lasting.map(|(_, fault)| fault.clone());
        planned.next.pop_front().or(lasting)
    }
}

/// Faults by call: first the counted ones, then a lasting one.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    by_call: Mutex<HashMap<Call, Planned>>,
}

#[derive(Debug, Default)]
struct Planned {
    next: Vec<Fault>,
    lasting: Option<Fault>,
}

impl Faults {
    pub(crate) fn set(&self, call: Call, fault: Option<Fault>) {
        self.with(call, |planned| {
            planned.next.clear();
            planned.lasting = fault;
        });
    }

    pub(crate) fn push(&self, call: Call, times: usize, fault: Fault) {
        self.with(call, |planned| {
            planned.next.extend(std::iter::repeat_n(fault, times));
        });
    }

    pub(crate) fn take(&self, call: Call) -> Option<Fault> {
        self.with(call, |planned| {
            if planned.next.is_empty() {
                planned.lasting.clone()
            } else {
                Some(planned.next.remove(0))
            }
        })
    }

    fn with<T>(&self, call: Call, change: impl FnOnce(&mut Planned) -> T) -> T {
        let mut by_call = self.by_call.lock().unwrap_or_else(PoisonError::into_inner);
        change(by_call.entry(call).or_default())
    }
}
