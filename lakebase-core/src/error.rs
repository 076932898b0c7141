//! The error type of the crate.

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

/// Why a configuration, a credential, a login or a request to the workspace failed.
///
/// The error is opaque. [`is_transient`](Error::is_transient) returns whether a retry can help, and one method for each kind returns
/// what failed:
///
/// | method | what failed |
/// |---|---|
/// | [`is_config`](Error::is_config) | the configuration; nothing was sent |
/// | [`is_sign_in`](Error::is_sign_in) | the workspace rejected the identity, or it lacks a privilege there |
/// | [`is_platform`](Error::is_platform) | the workspace returned an unexpected reply |
/// | [`is_network`](Error::is_network) | the workspace or the database was not reachable |
/// | [`is_timeout`](Error::is_timeout) | a time limit was exceeded |
/// | [`is_login`](Error::is_login) | Postgres rejected the login |
/// | [`is_database`](Error::is_database) | Postgres, or its gateway, failed for another reason |
/// | [`is_provider`](Error::is_provider) | a [`CredentialProvider`](crate::CredentialProvider) of the application |
///
/// It is cheap to clone, because all tasks that waited for one result get the same error.
///
/// `Display` prints what failed, the known details (endpoint, identity, HTTP status, error code, request id, SQLSTATE), the next step,
/// and whether a retry can help. The causes are in [`source`](StdError::source). Neither contains a secret.
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

/// The end of a transient error's text.
const CAN_HELP: &str = " can help]";

/// The kind of an error. Private: callers use the methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "proxy", derive(serde::Deserialize, serde::Serialize))]
#[cfg_attr(feature = "proxy", serde(rename_all = "snake_case"))]
pub(crate) enum Kind {
    Config,
    SignIn,
    Platform,
    Network,
    Timeout,
    Login,
    Database,
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

    /// Returns an error of the configuration. The message should name the field.
    pub fn config(message: impl Into<String>) -> Self {
        Self::new(Kind::Config, message)
    }

    /// Returns the transient error of an exceeded time limit.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(Kind::Timeout, message)
    }

    /// Returns the transient error of a failed or lost connection.
    pub fn network(message: impl Into<String>) -> Self {
        Self::new(Kind::Network, message)
    }

    /// Returns an error of Postgres, its gateway or a driver. `transient` is whether a retry can help.
    pub fn database(message: impl Into<String>, transient: bool) -> Self {
        Self::new(Kind::Database, message).with_transient(transient)
    }

    /// Returns an error of a [`CredentialProvider`](crate::CredentialProvider).
    ///
    /// `transient` is whether a later call of the provider can succeed. The message is printed unchanged, so it must not contain a
    /// secret.
    pub fn provider(message: impl Into<String>, transient: bool) -> Self {
        Self::new(Kind::Provider, message).with_transient(transient)
    }

    /// Sets the cause, which [`source`](StdError::source) returns. It is printed unchanged, so it must not contain a secret.
    #[must_use]
    pub fn with_source(self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.edit(|inner| inner.source = Some(Arc::from(source.into())))
    }

    /// Sets the cleaned texts of a foreign error and its causes as the cause.
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

    /// Sets how long the next attempt should wait: see [`retry_after`](Self::retry_after). Renewals and logins wait at least this long,
    /// within their limits.
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

    /// Sets the resource (an endpoint, a branch, an instance), unless a lower layer has set it.
    pub(crate) fn with_compute(self, compute: Option<String>) -> Self {
        self.edit(|inner| inner.compute = inner.compute.take().or(compute))
    }

    /// Sets the identity and how it authenticated, with the sources of the settings, unless a lower layer has set them.
    pub(crate) fn with_identity(self, identity: &str, sign_in: String) -> Self {
        self.edit(|inner| {
            inner.identity.get_or_insert_with(|| identity.to_owned());
            inner.sign_in.get_or_insert(sign_in);
        })
    }

    /// Puts a context before the message, for example the variable or field of a value.
    pub(crate) fn with_setting(self, from: &str) -> Self {
        self.edit(|inner| inner.message = format!("{from}: {}", inner.message))
    }

    /// Converts the last failure before a time limit into a timeout, and keeps its details.
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

    /// Returns whether a retry, unchanged, can help: after an outage, a rate limit, or for a resuming compute.
    pub fn is_transient(&self) -> bool {
        self.0.transient
    }

    /// Returns whether the configuration is wrong; the message names the variable or field.
    pub fn is_config(&self) -> bool {
        self.0.kind == Kind::Config
    }

    /// Returns whether the workspace rejected the identity, or the identity lacks a privilege there.
    pub fn is_sign_in(&self) -> bool {
        self.0.kind == Kind::SignIn
    }

    /// Returns whether the workspace sent an unexpected reply.
    pub fn is_platform(&self) -> bool {
        self.0.kind == Kind::Platform
    }

    /// Returns whether the workspace or the database was not reachable.
    pub fn is_network(&self) -> bool {
        self.0.kind == Kind::Network
    }

    /// Returns whether a time limit was exceeded. The source is that of the last failure before it, if there was one.
    pub fn is_timeout(&self) -> bool {
        self.0.kind == Kind::Timeout
    }

    /// Returns whether Postgres rejected the login: the role or the credential.
    pub fn is_login(&self) -> bool {
        self.0.kind == Kind::Login
    }

    /// Returns whether Postgres or its gateway failed for another reason than a rejected login.
    pub fn is_database(&self) -> bool {
        self.0.kind == Kind::Database
    }

    /// Returns whether a [`CredentialProvider`](crate::CredentialProvider) of the application failed.
    pub fn is_provider(&self) -> bool {
        self.0.kind == Kind::Provider
    }

    /// The next step, which `Display` prints, too.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The HTTP status of the workspace's reply, if there was one.
    pub fn status(&self) -> Option<u16> {
        self.0.status
    }

    /// The `error_code` of the workspace's reply, for example `PERMISSION_DENIED`.
    pub fn error_code(&self) -> Option<&str> {
        self.0.error_code.as_deref()
    }

    /// The request id of the workspace's reply, for a support case.
    pub fn request_id(&self) -> Option<&str> {
        self.0.request_id.as_deref()
    }

    /// The SQLSTATE of the failed login or statement, if Postgres or its gateway sent one.
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

    /// How long the next attempt should wait (`Retry-After`), if the workspace requested it.
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

    /// The texts of the causes, without the remark, which is only at the end of the chain.
    fn causes(&self) -> impl Iterator<Item = String> {
        std::iter::successors(self.source(), |&cause| cause.source()).map(|cause| {
            cause
                .downcast_ref::<Self>()
                .map_or_else(|| cause.to_string(), Self::text)
        })
    }

    /// The message, the details and the hint.
    fn text(&self) -> String {
        let inner = &*self.0;
        let mut text = inner.message.clone();
        let named =
            |name: &str, value: &Option<String>| Some(format!("{name} {}", value.as_ref()?));
        let facts = [
            inner.compute.clone(),
            named("identity", &inner.identity),
            inner.sign_in.clone(),
            inner.status.map(|status| format!("HTTP {status}")),
            inner.error_code.clone(),
            named("request id", &inner.request_id),
            named("SQLSTATE", &inner.sqlstate),
        ];
        let facts: Vec<String> = facts.into_iter().flatten().collect();
        if !facts.is_empty() {
            text.push_str(&format!(" ({})", facts.join(", ")));
        }
        if let Some(hint) = &inner.hint {
            text.push_str(". ");
            text.push_str(hint);
        }
        text
    }

    /// Whether a retry can help, in brackets.
    fn remark(&self) -> String {
        match (self.0.kind, self.0.transient, self.0.retry_after) {
            (Kind::Config, ..) => String::new(),
            (_, true, Some(wait)) => format!(" [trying again in {} s{CAN_HELP}", wait.as_secs()),
            (_, true, None) => format!(" [trying again{CAN_HELP}"),
            (_, false, _) => " [trying again unchanged will not help]".to_owned(),
        }
    }
}

/// Returns whether a text contains the [`chain`](Error::chain) of a transient error, for drivers that report only the text.
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
