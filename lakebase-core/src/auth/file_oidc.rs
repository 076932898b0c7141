//! `file-oidc`: the identity token is in a file that somebody keeps fresh (Kubernetes).

use std::path::PathBuf;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use secrecy::SecretString;

use super::oidc::{Federation, IdTokens};
use super::{Configured, Settings, Site};
use crate::Error;
use crate::config::attributes::Attribute;

struct File {
    path: PathBuf,
    from: String,
}

pub(super) fn configure(settings: &Settings) -> Configured {
    let path = settings
        .get(Attribute::OidcTokenFilepath)
        .ok_or_else(|| settings.absent(Attribute::OidcTokenFilepath))?;
    settings.required_host()?;
    let tokens = File {
        path: PathBuf::from(&path.value),
        from: path.from.clone(),
    };
    Ok(Box::new(Federation::new(tokens, settings)))
}

impl IdTokens for File {
    fn name(&self) -> &'static str {
        "file-oidc"
    }

    fn id_token<'a>(&'a self, _site: &'a Site) -> BoxFuture<'a, Result<SecretString, Error>> {
        async {
            let path = self.path.display();
            let wrong = |what: &str| {
                Error::config(format!("{}: file {path} {what}", self.from))
                    .with_hint("Mount the identity token there, or correct the path")
            };
            let token = tokio::fs::read_to_string(&self.path)
                .await
                .map_err(|error| match error.kind() {
                    std::io::ErrorKind::NotFound => wrong("does not exist"),
                    _ => wrong("cannot be read").with_source(error),
                })?;
            match token.trim() {
                "" => Err(wrong("is empty")),
                token => Ok(SecretString::from(token)),
            }
        }
        .boxed()
    }

    fn made_of(&self) -> &'static [Attribute] {
        &[
            Attribute::Host,
            Attribute::ClientId,
            Attribute::OidcTokenFilepath,
        ]
    }
}
