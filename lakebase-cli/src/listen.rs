//! The listeners of `lakebase proxy`, from its arguments.

use std::net::SocketAddr;
use std::path::PathBuf;

/// An address to listen on, and its database.
#[derive(Clone, Debug)]
pub(crate) struct Listen {
    pub(crate) place: Place,
    pub(crate) database: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) enum Place {
    Private,
    Folder(PathBuf),
    Address(SocketAddr),
}

impl Listen {
    /// Parses `ADDRESS:PORT[=DATABASE]`.
    pub(crate) fn on(text: &str) -> Result<Self, String> {
        let (address, database) = split(text);
        let address = address.parse().map_err(|_| {
            "not an address and a port, as in 127.0.0.1:5432 or 127.0.0.1:5432=database".to_owned()
        })?;
        Ok(Self {
            place: Place::Address(address),
            database,
        })
    }

    /// Parses `DIR[=DATABASE]`.
    pub(crate) fn within(text: &str) -> Result<Self, String> {
        let (folder, database) = split(text);
        if folder.is_empty() {
            return Err("the folder is missing".to_owned());
        }
        // Drivers treat a relative folder as a host name.
        let folder = std::path::absolute(folder).map_err(|error| error.to_string())?;
        Ok(Self {
            place: Place::Folder(folder),
            database,
        })
    }
}

fn split(text: &str) -> (&str, Option<String>) {
    match text.split_once('=') {
        Some((place, database)) => (place, Some(database.to_owned())),
        None => (text, None),
    }
}
