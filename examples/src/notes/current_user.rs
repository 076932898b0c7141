//! An extractor: the person who sent the request, with the pool that logs in as this person.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use lakebase_core::User;
use lakebase_core::users::{UserPool, UserPools};

use super::Failure;

/// The headers that the proxy in front of the application sets. The defaults are those of Databricks Apps.
#[derive(Clone, Debug)]
pub struct Headers {
    pub email: String,
    /// The fallback without an e-mail.
    pub user: String,
    pub token: String,
}

impl Default for Headers {
    fn default() -> Self {
        Self {
            email: "x-forwarded-email".to_owned(),
            user: "x-forwarded-user".to_owned(),
            token: "x-forwarded-access-token".to_owned(),
        }
    }
}

/// The state of the application.
#[derive(Clone, Debug)]
pub struct Users<P: Clone + Send + Sync + 'static> {
    pub pools: UserPools<P>,
    pub headers: Arc<Headers>,
}

/// The person who sent the request. The pool stays open until this is dropped.
#[derive(Debug)]
pub struct CurrentUser<P: Clone + Send + Sync + 'static> {
    pub name: String,
    pub pool: UserPool<P>,
}

impl<P: Clone + Send + Sync + 'static> FromRequestParts<Users<P>> for CurrentUser<P> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, users: &Users<P>) -> Result<Self, Failure> {
        let header = |name: &str| {
            let value = parts.headers.get(name)?.to_str().ok()?;
            Some(value).filter(|value| !value.is_empty())
        };
        let missing = |text| Failure(StatusCode::UNAUTHORIZED, text);
        let Headers { email, user, token } = &*users.headers;
        let name = header(email).or_else(|| header(user)).ok_or_else(|| {
            let text = format!("The request has neither header {email} nor {user}.");
            missing(text)
        })?;
        let token = header(token).ok_or_else(|| {
            let hint = "Add the user authorization scope postgres to the app.";
            missing(format!("The request has no header {token}. {hint}"))
        })?;
        let pool = users.pools.get(&User::new(name, token)).await?;
        Ok(Self {
            name: name.to_owned(),
            pool,
        })
    }
}
