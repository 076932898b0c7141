//! The real Postgres: our own server in a temporary folder, or a running one by its URL.

mod copy;
mod find;
mod folder;
mod own;
mod owner;
mod private;
mod running;
mod server;
mod template;

use std::path::{Path, PathBuf};

pub(crate) use copy::Original;
use find::find_bin_dir;
use own::Own;
pub(crate) use private::Private;
use running::Running;
pub(crate) use server::{Server, log_in};

use crate::Error;

/// The clients' name of the database.
pub(crate) const DATABASE: &str = "databricks_postgres";
/// URL of a running server.
const URL_VARIABLE: &str = "LAKEBASE_LOCAL_PG_URL";
/// The superuser of our own Postgres. Clients cannot log in as this role, as it is no Lakebase role.
const ADMIN: &str = "lakebase_admin";
/// Native roles are members, which makes our own Postgres ask them for a password.
pub(crate) const NATIVE_GROUP: &str = "lakebase_native";
/// The search path of our own statements. Other roles cannot create objects in it.
pub(crate) const OUR_PATH: &str = "pg_catalog,pg_temp";
/// Name of the socket file, by Postgres's rule for port 5432.
const SOCKET: &str = ".s.PGSQL.5432";

/// The source of the Postgres.
#[derive(Clone, Debug, Default)]
pub(crate) enum Origin {
    /// From the environment, else the first one found.
    #[default]
    Look,
    /// Programs in this folder.
    Programs(PathBuf),
    /// Running server at this URL.
    Url(Secret),
}

/// A URL that may contain a password.
#[derive(Clone)]
pub(crate) struct Secret(pub(crate) String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// A Postgres. Dropping it removes everything that was created for it.
#[derive(Debug)]
pub(crate) enum Postgres {
    Own(Own),
    Running(Box<Running>),
}

impl Postgres {
    /// `scratch` is a temporary folder.
    pub(crate) async fn start(origin: Origin, scratch: &Path) -> Result<Self, Error> {
        let url = std::env::var(URL_VARIABLE)
            .ok()
            .filter(|url| !url.is_empty());
        Ok(match (origin, url) {
            (Origin::Programs(dir), _) => Self::Own(Own::start(find::checked(dir)?).await?),
            (Origin::Url(url), _) => Self::running(&url.0, "the URL").await?,
            (Origin::Look, Some(url)) => Self::running(&url, URL_VARIABLE).await?,
            (Origin::Look, None) => Self::Own(Own::start(find_bin_dir(scratch).await?).await?),
        })
    }

    async fn running(url: &str, source: &str) -> Result<Self, Error> {
        Ok(Self::Running(Box::new(Running::start(url, source).await?)))
    }

    /// Name and folder of the socket of our own server.
    pub(crate) fn socket(&self) -> Option<(&'static str, PathBuf)> {
        match self {
            Self::Own(own) => Some((SOCKET, own.socket())),
            Self::Running(_) => None,
        }
    }

    /// The source of copies, if it is our own server.
    pub(crate) fn original(&self) -> Option<Original> {
        match self {
            Self::Own(own) => Some(Original::of(own)),
            Self::Running(_) => None,
        }
    }

    pub(crate) fn server(&self) -> &Server {
        match self {
            Self::Own(own) => own.server(),
            Self::Running(running) => running.server(),
        }
    }
}

/// Sets role and search path of a superuser's session at startup, in addition to the URL's options. Without it,
/// settings of the database's owner would apply.
fn with_path(config: &mut tokio_postgres::Config, path: &str) {
    let others = config.get_options().unwrap_or_default();
    let options = format!("{others} -c role=none -c search_path={path}");
    config.options(options);
}

/// Quotes an identifier for SQL.
pub(crate) fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a string for SQL.
pub(crate) fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
