//! Logins as a user of the application.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::{Lakebase, Source};
use crate::error::Error;
use crate::error::foreign::{clean_text, has_harmful, is_secret_like};
use crate::settings::name::check_name;
use crate::sign_in::SignIn;
use crate::sign_in::forwarded::{ForwardedToken, expiry};

/// A user of the application, with the workspace token that a proxy in front of the application forwards.
///
/// In Databricks Apps, requests of signed-in users have these headers if the app has the user authorization scope `postgres`:
///
/// ```
/// use lakebase_core::User;
/// # fn header(name: &str) -> Option<&'static str> { Some("x") }
///
/// let user = match (header("x-forwarded-email"), header("x-forwarded-access-token")) {
///     (Some(email), Some(token)) => User::new(email, token),
///     _ => panic!("not signed in"),
/// };
/// ```
///
/// The e-mail is a claim: Postgres rejects the login if the token belongs to another identity.
#[derive(Clone)]
pub struct User {
    name: String,
    role: Option<String>,
    token: SecretString,
}

impl User {
    /// A user by e-mail, which is the Postgres role as well.
    pub fn new(email: impl Into<String>, token: impl Into<SecretString>) -> Self {
        Self {
            name: email.into(),
            role: None,
            token: token.into(),
        }
    }

    /// Logs in as this role: that of a group of which the user is a member.
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
}

impl User {
    pub(crate) fn token(&self) -> SecretString {
        self.token.clone()
    }

    pub(crate) fn expose_token(&self) -> &str {
        self.token.expose_secret()
    }

    /// Seconds since 1970, if it is a JWT. Unverified: only to tell the newer one of two tokens.
    pub(crate) fn token_expiry(&self) -> Option<u64> {
        expiry(self.token.expose_secret())
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            // Both come with a request, and may be a token by mistake.
            .field("name", &clean_text(&self.name))
            .field("role", &self.role.as_deref().map(clean_text))
            .finish_non_exhaustive()
    }
}

impl Lakebase {
    /// The same database as another identity: every connection of the returned handle logs in as `user`, with credentials that
    /// are minted with the user's own token.
    ///
    /// The application's identity is never used in place of the user's; it only looks up the endpoint's host, which a user need
    /// not be allowed to see. `PGUSER` and the application's own authentication do not count. Credentials are renewed when a
    /// login needs one, as the user may be gone: see [`Refresh::OnDemand`](crate::Refresh::OnDemand), or
    /// [`Refresh::Lazy`](crate::Refresh::Lazy) if this handle has that. Does no I/O.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] if this handle has no workspace (a native password, a provider of your own), or if role or token
    /// cannot be ones.
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
        let assembled = Self::assemble(
            config,
            Some(workspace),
            lookups,
            Some(forwarded),
            Arc::clone(&inner.counts),
        )?;
        Ok(Self {
            inner: assembled.inner,
            logins: Arc::default(),
            ..self.clone()
        })
    }

    /// Takes a newer token of the same user. Open connections keep their login, and credentials are minted with the new token from
    /// now on; the held one serves until it is due. The same token again changes nothing.
    ///
    /// The token is not checked here: logins with one of another user fail.
    ///
    /// # Errors
    ///
    /// [`Error::is_config`] if the handle is not one of [`on_behalf_of`](Self::on_behalf_of), or if that cannot be a token.
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

    /// Mints with the user's token, which the workspace rejects if it was revoked. New logins use the new credential.
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

    /// When the held credential was requested, by the configuration's clock.
    pub(crate) fn minted_at(&self) -> Option<Duration> {
        match &self.inner.source {
            Source::Minted(cache) => cache.minted_at(),
            Source::Native(_) => None,
        }
    }
}
