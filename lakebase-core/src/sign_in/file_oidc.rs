//! `file-oidc`: the identity token is in a file that another program keeps fresh (Kubernetes).

use std::io;
use std::time::Duration;

use secrecy::SecretString;
use tokio::fs::{File, metadata};
use tokio::io::AsyncReadExt as _;

use super::oidc::{ADVICE, Federation, IdToken};
use super::{Configured, Settings, Strategy};
use crate::error::Error;
use crate::settings::attributes::Attribute;
use crate::settings::setting::Setting;

pub(super) static STRATEGY: Strategy = Strategy {
    name: "file-oidc",
    attributes: &[
        Attribute::Host,
        Attribute::ClientId,
        Attribute::OidcTokenFilepath,
    ],
    advice: ADVICE,
    configure,
};

/// Far more than any.
const LARGEST_TOKEN: u64 = 64 * 1024;
const READ_LIMIT: Duration = Duration::from_secs(5);

fn configure(settings: &Settings) -> Configured {
    let path = settings.main(Attribute::OidcTokenFilepath)?.clone();
    settings.required_host()?;
    Ok(Federation::source(IdToken::File(path), settings))
}

pub(super) async fn id_token(path: &Setting) -> Result<SecretString, Error> {
    let wrong = |what: &str| {
        Error::config(format!("{}: file {} {what}", path.from, path.value))
            .with_hint("Mount the identity token there, or correct the path")
    };
    match tokio::time::timeout(READ_LIMIT, read(&path.value)).await {
        Ok(Ok(text)) => match text.trim() {
            "" => Err(wrong("is empty")),
            token => Ok(SecretString::from(token)),
        },
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Err(wrong("does not exist")),
        Ok(Err(error)) => Err(wrong("cannot be read").with_source(error)),
        Err(_) => Err(wrong("cannot be read in time").with_transient(true)),
    }
}

/// Devices and pipes are not read: they may never end.
async fn read(path: &str) -> io::Result<String> {
    if !metadata(path).await?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut text = String::new();
    let file = File::open(path).await?;
    file.take(LARGEST_TOKEN).read_to_string(&mut text).await?;
    Ok(text)
}
