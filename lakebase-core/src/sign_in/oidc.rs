//! Token federation: another issuer's identity token is exchanged for a workspace token (RFC 8693).
//!
//! With a client id, the token is exchanged for that service principal (workload identity federation),
//! without one by a policy of the account. The identity token is asked for anew at every exchange.

use std::fmt;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use secrecy::{ExposeSecret, SecretString};

use super::oauth::Request;
use super::token::Token;
use super::{Refusal, Settings, SignIn, Site};
use crate::error::Error;
use crate::settings::attributes::Attribute;

const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ADVICE: &str = "Check the federation policy: issuer, audience and subject must be those of the identity token; and the client id, which a policy of the whole account must not have";

/// Where identity tokens come from.
pub(super) trait IdTokens: Send + Sync + 'static {
    fn name(&self) -> &'static str;
    fn id_token<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<SecretString, Error>>;
    fn made_of(&self) -> &'static [Attribute];
}

pub(super) struct Federation<T> {
    tokens: T,
    client_id: Option<String>,
    request: Request,
}

impl<T: IdTokens> Federation<T> {
    pub(super) fn new(tokens: T, settings: &Settings) -> Self {
        Self {
            tokens,
            client_id: settings.owned(Attribute::ClientId),
            request: Request::new(GRANT, settings),
        }
    }
}

impl<T: IdTokens> SignIn for Federation<T> {
    fn name(&self) -> &'static str {
        self.tokens.name()
    }

    fn fetch<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<Token, Refusal>> {
        async {
            let subject = self.tokens.id_token(site).await?;
            let mut fields = vec![
                ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
                ("subject_token", subject.expose_secret()),
            ];
            if let Some(id) = &self.client_id {
                fields.push(("client_id", id));
            }
            Ok(self.request.send(site, None, &fields, ADVICE).await?)
        }
        .boxed()
    }

    fn made_of(&self) -> &'static [Attribute] {
        self.tokens.made_of()
    }

    fn postgres_role(&self) -> Option<&str> {
        self.client_id.as_deref()
    }

    fn advice(&self) -> &'static str {
        ADVICE
    }
}

impl<T: IdTokens> fmt::Debug for Federation<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match &self.client_id {
            Some(id) => write!(f, " as {id}"),
            None => Ok(()),
        }
    }
}
