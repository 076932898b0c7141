//! The one error type of the crate.

pub(crate) mod chain;
#[cfg(any(feature = "diesel", feature = "sea-orm"))]
mod convert;
pub(crate) mod foreign;
#[cfg(feature = "proxy")]
mod record;

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use crate::error::foreign::Cause;

/// What failed between a configuration and a logged-in connection.
///
/// The error is opaque: [`is_transient`](Error::is_transient) says whether trying again can help, and one question for
/// each kind says what failed:
///
/// | question | what failed |
/// |---|---|
/// | [`is_config`](Error::is_config) | the configuration; nothing was sent |
/// | [`is_sign_in`](Error::is_sign_in) | the workspace rejected the identity, or it lacks a privilege there |
/// | [`is_platform`](Error::is_platform) | the workspace returned an unexpected reply |
/// | [`is_network`](Error::is_network) | the workspace or the database could not be reached |
/// | [`is_timeout`](Error::is_timeout) | a time limit ran out |
/// | [`is_login`](Error::is_login) | Postgres rejected the login |
/// | [`is_database`](Error::is_database) | Postgres, or its gateway, failed for another reason |
/// | [`is_provider`](Error::is_provider) | a [`CredentialProvider`](crate::CredentialProvider) of the application |
///
/// It is cheap to clone, because all tasks that waited for one thing get the same failure.
///
/// `Display` states what failed, where (endpoint, identity, HTTP status, error code, request id,
/// SQLSTATE, whatever is known), what to do next and whether trying again can help. Causes are in
/// [`source`](StdError::source). No secret is ever part of either.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
#[cfg_attr(feature = "proxy", derive(serde::Deserialize, serde::Serialize))]
struct Inner {
    kind: Kind,
    message: String,
    hint: Option<String>,
    compute: Option<String>,
    identity: Option<String>,
    sign_in: Option<String>,
    status: Option<u16>,
    error_code: Option<String>,
    request_id: Option<String>,
    sqlstate: Option<String>,
    retry_after: Option<Duration>,
    transient: bool,
    #[cfg_attr(feature = "proxy", serde(skip))]
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// How the text of a transient error ends.
const CAN_HELP: &str = " can help]";

/// The kind. Private: callers use the questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "proxy", derive(serde::Deserialize, serde::Serialize))]
#[cfg_attr(feature = "proxy", serde(rename_all = "snake_case"))]
pub(crate) enum Kind {
    /// The configuration is wrong; nothing was sent.
    Config,
    /// The workspace refused our identity or its rights.
    SignIn,
    /// The workspace answered something that is not a credential.
    Platform,
    /// The workspace or the database could not be reached.
    Network,
    /// Time ran out.
    Timeout,
    /// Postgres refused the login.
    Login,
    /// Postgres (or its gateway) failed for another reason.
    Database,
    /// A caller-supplied provider failed.
    Provider,
}

impl Kind {
    pub(crate) const ALL: [Self; 8] = [
        Self::Config,
        Self::SignIn,
        Self::Platform,
        Self::Network,
        Self::Timeout,
        Self::Login,
        Self::Database,
        Self::Provider,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::SignIn => "sign_in",
            Self::Platform => "platform",
            Self::Network => "network",
            Self::Timeout => "timeout",
            Self::Login => "login",
            Self::Database => "database",
            Self::Provider => "provider",
        }
    }
}

impl Error {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        let transient = matches!(kind, Kind::Network | Kind::Timeout);
        Self(Arc::new(Inner {
            kind,
            message: message.into(),
            hint: None,
            compute: None,
            identity: None,
            sign_in: None,
            status: None,
            error_code: None,
            request_id: None,
            sqlstate: None,
            retry_after: None,
            transient,
            source: None,
        }))
    }

    /// A mistake in the configuration. The message names the field.
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(Kind::Config, message)
    }

    /// A time limit that ran out. Transient.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(Kind::Timeout, message)
    }

    /// A connection that could not be made, or was lost. Transient.
    pub fn network(message: impl Into<String>) -> Self {
        Self::new(Kind::Network, message)
    }

    /// A failure of Postgres, of its gateway or of a driver that is none of the others. `transient` says whether trying
    /// again can help.
    pub fn database(message: impl Into<String>, transient: bool) -> Self {
        Self::new(Kind::Database, message).with_transient(transient)
    }

    /// An error for a caller-supplied [`CredentialProvider`](crate::CredentialProvider).
    ///
    /// `transient` says whether asking the provider again later can help. The message is shown to
    /// people as it is: keep secrets out of it.
    pub fn provider(message: impl Into<String>, transient: bool) -> Self {
        Self::new(Kind::Provider, message).with_transient(transient)
    }

    /// Attaches the cause, which becomes [`source`](StdError::source).
    #[must_use]
    pub fn with_source(self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.edit(|inner| inner.source = Some(Arc::from(source.into())))
    }

    /// Attaches the texts of a foreign error and its causes, cleaned.
    pub(crate) fn caused_by(
        self,
        cause: &(dyn StdError + 'static),
        secrets: &[SecretString],
    ) -> Self {
        self.edit(|inner| inner.source = Some(Arc::new(Cause::of(cause, secrets))))
    }

    pub(crate) fn with_hint(self, hint: impl Into<String>) -> Self {
        self.edit(|inner| inner.hint = Some(hint.into()))
    }

    pub(crate) fn with_transient(self, transient: bool) -> Self {
        self.edit(|inner| inner.transient = transient)
    }

    pub(crate) fn with_sqlstate(self, sqlstate: Option<&str>) -> Self {
        self.edit(|inner| inner.sqlstate = sqlstate.map(str::to_owned))
    }

    /// Attaches how long the server asked to wait before the next attempt, if it did: see
    /// [`retry_after`](Self::retry_after). Renewals and logins honour it.
    #[must_use]
    pub fn with_retry_after(self, retry_after: Option<Duration>) -> Self {
        self.edit(|inner| inner.retry_after = retry_after)
    }

    pub(crate) fn with_response(
        self,
        status: u16,
        error_code: Option<String>,
        request_id: Option<String>,
    ) -> Self {
        self.edit(|inner| {
            inner.status = Some(status);
            inner.error_code = error_code;
            inner.request_id = request_id;
        })
    }

    /// Names what it was about (an endpoint, a branch, an instance), unless a deeper layer did.
    pub(crate) fn with_compute(self, compute: Option<String>) -> Self {
        self.edit(|inner| inner.compute = inner.compute.take().or(compute))
    }

    /// Names the identity and how it authenticated, with the sources of the settings used.
    pub(crate) fn with_identity(self, identity: &str, sign_in: String) -> Self {
        self.edit(|inner| {
            inner.identity.get_or_insert_with(|| identity.to_owned());
            inner.sign_in.get_or_insert(sign_in);
        })
    }

    /// Names the variable or field that a value came from.
    pub(crate) fn with_setting(self, from: &str) -> Self {
        self.edit(|inner| inner.message = format!("{from}: {}", inner.message))
    }

    /// The last cause before time ran out: all of it stays, and it is a timeout now.
    pub(crate) fn given_up(self, what: &str) -> Self {
        self.edit(|inner| {
            inner.kind = Kind::Timeout;
            inner.message = format!("{what}: {}", inner.message);
        })
    }

    /// Whether the message contains this lower-case text, in any case.
    #[cfg(feature = "admin")]
    pub(crate) fn mentions(&self, text: &str) -> bool {
        self.0.message.to_lowercase().contains(text)
    }

    fn edit(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }

    /// Trying again, unchanged, can help: an outage, a rate limit, a compute that wakes up.
    pub fn is_transient(&self) -> bool {
        self.0.transient
    }

    /// The configuration is wrong; the message names the variable or field.
    pub fn is_config(&self) -> bool {
        self.0.kind == Kind::Config
    }

    /// The workspace rejected the identity, or it lacks a privilege there.
    pub fn is_sign_in(&self) -> bool {
        self.0.kind == Kind::SignIn
    }

    /// The workspace returned an unexpected reply.
    pub fn is_platform(&self) -> bool {
        self.0.kind == Kind::Platform
    }

    /// The workspace or the database could not be reached.
    pub fn is_network(&self) -> bool {
        self.0.kind == Kind::Network
    }

    /// A time limit ran out; the source is that of the last failure before, if there was one.
    pub fn is_timeout(&self) -> bool {
        self.0.kind == Kind::Timeout
    }

    /// Postgres rejected the login: the role, or the credential.
    pub fn is_login(&self) -> bool {
        self.0.kind == Kind::Login
    }

    /// Postgres, or its gateway, failed for another reason than the login.
    pub fn is_database(&self) -> bool {
        self.0.kind == Kind::Database
    }

    /// A caller-supplied provider failed.
    pub fn is_provider(&self) -> bool {
        self.0.kind == Kind::Provider
    }

    /// What to do next; part of `Display` as well.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// HTTP status of the workspace's answer, if there was one.
    pub fn status(&self) -> Option<u16> {
        self.0.status
    }

    /// `error_code` of the workspace's answer, for example `PERMISSION_DENIED`.
    pub fn error_code(&self) -> Option<&str> {
        self.0.error_code.as_deref()
    }

    /// Request id of the workspace's answer, for a support case.
    pub fn request_id(&self) -> Option<&str> {
        self.0.request_id.as_deref()
    }

    /// SQLSTATE of the failed login or statement, if Postgres (or its gateway) sent one.
    pub fn sqlstate(&self) -> Option<&str> {
        self.0.sqlstate.as_deref()
    }

    pub(crate) fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The SQLSTATE, or the name of the kind: `error.type` of telemetry.
    pub(crate) fn error_type(&self) -> &str {
        self.sqlstate().unwrap_or(self.0.kind.name())
    }

    /// How long the workspace wants the next attempt to wait (`Retry-After`).
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The message and all causes in one line, for hosts that keep only text.
    pub fn chain(&self) -> String {
        let mut text = self.text();
        for cause in self.causes() {
            if !text.contains(&cause) {
                text.push_str(": ");
                text.push_str(&cause);
            }
        }
        text + &self.remark()
    }

    /// The texts of the causes. Whether trying again can help is said once, at the end of the chain.
    fn causes(&self) -> impl Iterator<Item = String> {
        std::iter::successors(self.source(), |&cause| cause.source()).map(|cause| {
            cause
                .downcast_ref::<Self>()
                .map_or_else(|| cause.to_string(), Self::text)
        })
    }

    /// What failed, where, and what to do next.
    fn text(&self) -> String {
        let inner = &*self.0;
        let mut text = inner.message.clone();
        let facts: Vec<String> = [
            inner.compute.clone(),
            inner
                .identity
                .as_ref()
                .map(|identity| format!("identity {identity}")),
            inner.sign_in.clone(),
            inner.status.map(|status| format!("HTTP {status}")),
            inner.error_code.clone(),
            inner
                .request_id
                .as_ref()
                .map(|id| format!("request id {id}")),
            inner
                .sqlstate
                .as_ref()
                .map(|sqlstate| format!("SQLSTATE {sqlstate}")),
        ]
        .into_iter()
        .flatten()
        .collect();
        if !facts.is_empty() {
            text.push_str(&format!(" ({})", facts.join(", ")));
        }
        if let Some(hint) = &inner.hint {
            text.push_str(". ");
            text.push_str(hint);
        }
        text
    }

    /// Whether trying again can help.
    fn remark(&self) -> String {
        match (self.0.kind, self.0.transient, self.0.retry_after) {
            (Kind::Config, ..) => String::new(),
            (_, true, Some(wait)) => format!(" [trying again in {} s{CAN_HELP}", wait.as_secs()),
            (_, true, None) => format!(" [trying again{CAN_HELP}"),
            (_, false, _) => " [trying again unchanged will not help]".to_owned(),
        }
    }
}

/// Returns whether `chain`, the text of an error's [`chain`](Error::chain) or a text around it, came from a transient error.
pub fn says_transient(chain: &str) -> bool {
    chain.contains(CAN_HELP)
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.text(), self.remark())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("transient", &self.0.transient)
            .field("text", &format_args!("{}", self.chain()))
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0
            .source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}
