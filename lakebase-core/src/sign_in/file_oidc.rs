//! `file-oidc`: the identity token is in a file that somebody keeps fresh (Kubernetes).

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use secrecy::SecretString;
use tokio::io::AsyncReadExt as _;

use super::oidc::{Federation, IdTokens};
use super::{Configured, Settings, Site};
use crate::error::Error;
use crate::settings::attributes::Attribute;

/// Far more than any.
const LARGEST_TOKEN: u64 = 64 * 1024;

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

/// Not from what may never end.
async fn read(path: &Path) -> io::Result<String> {
    if !tokio::fs::metadata(path).await?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut text = String::new();
    let file = tokio::fs::File::open(path).await?;
    file.take(LARGEST_TOKEN).read_to_string(&mut text).await?;
    Ok(text)
}

impl IdTokens for File {
    fn name(&self) -> &'static str {
        "file-oidc"
    }

    fn id_token<'a>(&'a self, _site: &'a Site) -> BoxFuture<'a, Result<SecretString, Error>> {
        async {
            let path = self.path.display();
            let limit = Duration::from_secs(5);
            let wrong = |what: &str| {
                Error::config(format!("{}: file {path} {what}", self.from))
                    .with_hint("Mount the identity token there, or correct the path")
            };
            let reading = tokio::time::timeout(limit, read(&self.path)).await;
            let token = match reading {
                Ok(Ok(token)) => token,
                Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(wrong("does not exist"));
                }
                Ok(Err(error)) => return Err(wrong("cannot be read").with_source(error)),
                Err(_) => return Err(wrong("cannot be read in time").with_transient(true)),
            };
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
