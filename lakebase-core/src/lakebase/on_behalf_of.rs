//! Logins on behalf of a user of the application.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::{Inner, Lakebase, Source};
use crate::error::Error;
use crate::error::foreign::{clean_text, has_harmful, is_secret_like};
use crate::settings::name::check_name;
use crate::sign_in::SignIn;
use crate::sign_in::forwarded::{ForwardedToken, expiry};

/// A user of the application, with the workspace token that a proxy in front of the application forwards: see
/// [`Lakebase::on_behalf_of`] and [`UserPools`](crate::users::UserPools).
///
/// In Databricks Apps, requests have these headers if the app has the user authorization scope `postgres`:
///
/// ```
/// use lakebase_core::User;
/// # fn header(name: &str) -> Option<&'static str> { Some("x") }
///
/// let user = match (header("x-forwarded-email"), header("x-forwarded-access-token")) {
///     (Some(email), Some(token)) => User::new(email, token),
///     _ => panic!("not authenticated"),
/// };
/// ```
///
/// The e-mail is not verified here: Postgres rejects the login if the token belongs to another identity.
#[derive(Clone)]
pub struct User {
    name: String,
    role: Option<String>,
    token: SecretString,
}

impl User {
    /// A user whose Postgres role is the e-mail.
    pub fn new(email: impl Into<String>, token: impl Into<SecretString>) -> Self {
        Self {
            name: email.into(),
            role: None,
            token: token.into(),
        }
    }

    /// Sets another Postgres role: that of a group of which the user is a member.
    #[must_use]
    pub fn role(mut self, role: impl Into<String>) -> Self {
        self.role = Some(role.into());
        self
    }

    /// The e-mail.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The Postgres role.
    pub fn postgres_role(&self) -> &str {
        self.role.as_deref().unwrap_or(&self.name)
    }

    pub(crate) fn token(&self) -> SecretString {
        self.token.clone()
    }

    pub(crate) fn expose_token(&self) -> &str {
        self.token.expose_secret()
    }

    /// The expiry in seconds since 1970, if the token is a JWT. It is not verified, and only used to find the newer one of two tokens.
    pub(crate) fn token_expiry(&self) -> Option<u64> {
        expiry(self.token.expose_secret())
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            // Both come from a request, and can be a token by mistake.
            .field("name", &clean_text(&self.name))
            .field("role", &self.role.as_deref().map(clean_text))
            .finish_non_exhaustive()
    }
}

impl Lakebase {
    /// Returns a handle of the same database whose connections log in as `user`, with credentials that are minted with the user's
    /// token. It does no I/O.
    ///
    /// The handle does not use `PGUSER` and the application's authentication. The application's identity only looks up the endpoint's
    /// host, because the user may lack that permission. Credentials are renewed when a login needs one: see
    /// [`Refresh::OnDemand`](crate::Refresh::OnDemand), or [`Refresh::Lazy`](crate::Refresh::Lazy) if this handle has that.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] if this handle has no workspace, as with a native password or a credential provider, or for an invalid
    /// role or token.
    pub fn on_behalf_of(&self, user: &User) -> Result<Self, Error> {
        let role = user.postgres_role();
        if role.is_empty() || has_harmful(role) {
            return Err(Error::config(
                "user: the role is empty or has control characters",
            ));
        }
        if is_secret_like(role) {
            return Err(Error::config(
                "user: the role looks like a secret (not repeated)",
            ));
        }
        check_name("user", role)?;
        let forwarded = ForwardedToken::new(user.token.clone())?;
        let sign_in = Arc::new(SignIn::on_behalf_of(forwarded.clone()));
        let inner = &self.inner;
        let config = inner.config.on_behalf_of(role, &sign_in);
        let (Some(config), Some(workspace)) = (config, &inner.workspace) else {
            let text = "a login on behalf of a user needs a workspace that mints credentials";
            return Err(Error::config(text).with_hint(
                "Set LAKEBASE_ENDPOINT, and no native password and no credential provider",
            ));
        };
        let (workspace, lookups) = (workspace.as_identity(&sign_in), inner.lookups.clone());
        let counts = Arc::clone(&inner.counts);
        let inner = Inner::new(config, Some(workspace), lookups, Some(forwarded), counts)?;
        Ok(Self {
            inner: Arc::new(inner),
            logins: Arc::default(),
            ..self.clone()
        })
    }

    /// Sets a newer token of the same user, with which the next credential is minted. Open connections and the current credential
    /// stay in use. Setting the same token again has no effect.
    ///
    /// The token is not checked: logins with the token of another user fail.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] if [`on_behalf_of`](Self::on_behalf_of) did not return this handle, or for an invalid token.
    pub fn set_user_token(&self, token: impl Into<SecretString>) -> Result<(), Error> {
        let inner = &self.inner;
        let (Some(forwarded), Some(workspace)) = (&inner.forwarded, &inner.workspace) else {
            let text = "set_user_token: this handle does not log in on behalf of a user";
            return Err(Error::config(text).with_hint("Call it on a handle of `on_behalf_of`"));
        };
        if forwarded.replace(token.into())? {
            workspace.client.forget_token();
            if let Source::Minted(cache) = &inner.source {
                cache.forget_failure();
            }
        }
        Ok(())
    }

    /// Mints a new credential, which fails if the user's token was revoked.
    pub(crate) async fn renew(&self) -> Result<(), Error> {
        match &self.inner.source {
            Source::Minted(cache) => cache.renew().await,
            Source::Native(_) => Ok(()),
        }
    }

    /// Starts a renewal if it is due.
    pub(crate) fn renew_if_due(&self) {
        if let Source::Minted(cache) = &self.inner.source {
            cache.renew_if_due();
        }
    }

    /// Uses the credential of another handle of the same user.
    pub(crate) fn adopt(&self, other: &Self) {
        if let (Source::Minted(own), Source::Minted(others)) =
            (&self.inner.source, &other.inner.source)
        {
            own.adopt(others);
        }
    }

    /// When the current credential was requested, by the configuration's clock.
    pub(crate) fn minted_at(&self) -> Option<Duration> {
        match &self.inner.source {
            Source::Minted(cache) => cache.minted_at(),
            Source::Native(_) => None,
        }
    }
}
