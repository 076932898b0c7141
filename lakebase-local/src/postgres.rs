//! A real Postgres of our own, in a folder that goes away with it.

mod find;
mod folder;
mod owner;
mod template;

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio_postgres::{Client, NoTls};

pub(crate) use find::find_bin_dir;
use folder::Folder;
use template::Template;

use crate::Error;

/// The superuser of the real Postgres. Clients cannot log in as it: it is no Lakebase role.
pub(crate) const ADMIN: &str = "lakebase_admin";
/// Native roles are members, which makes Postgres ask them for a password.
pub(crate) const NATIVE_GROUP: &str = "lakebase_native";
/// Name of the socket file, by Postgres's own rule for port 5432.
const SOCKET: &str = ".s.PGSQL.5432";
const START_LIMIT: Duration = Duration::from_secs(60);
const START_LOOK: Duration = Duration::from_millis(20);

/// How to reach a running server.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    socket_dir: PathBuf,
}

/// A running server. Dropping it stops the server and removes its folder.
#[derive(Debug)]
pub(crate) struct Postgres {
    folder: Folder,
    server: Server,
    /// Kept so that the next start finds it ready.
    _template: std::sync::Arc<Template>,
}

impl Postgres {
    pub(crate) async fn start(bin_dir: Option<PathBuf>) -> Result<Self, Error> {
        let bin_dir = match bin_dir {
            Some(dir) => find::checked(dir)?,
            None => find_bin_dir().await?,
        };
        let template = Template::get(&bin_dir).await?;
        let mut folder = Folder::create(&template.owner, &bin_dir)?;
        template.copy_to(&folder).await?;
        folder.serve()?;
        let postgres = Self {
            server: Server {
                socket_dir: folder.path().to_path_buf(),
            },
            folder,
            _template: template,
        };
        postgres.wait_ready().await?;
        Ok(postgres)
    }

    async fn wait_ready(&self) -> Result<(), Error> {
        let deadline = tokio::time::Instant::now() + START_LIMIT;
        loop {
            let failure = match self.server.admin("postgres").await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if self.folder.has_stopped() || tokio::time::Instant::now() >= deadline {
                return Err(Error::because(
                    format!("Postgres did not start: {}", self.folder.log_tail()),
                    failure,
                ));
            }
            tokio::time::sleep(START_LOOK).await;
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// Stops the server and removes its folder without blocking the runtime.
    pub(crate) async fn stop(self) {
        // Dropping waits for processes; a blocking thread may do that.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }
}

impl Server {
    /// A connection to the server itself, behind the gateway's back.
    pub(crate) async fn open(&self) -> std::io::Result<UnixStream> {
        UnixStream::connect(self.socket_dir.join(SOCKET)).await
    }

    /// A superuser's session.
    pub(crate) async fn admin(&self, database: &str) -> Result<Client, Error> {
        let failed = |error| Error::because("cannot reach the local Postgres", error);
        let (client, connection) = tokio_postgres::Config::new()
            .host_path(&self.socket_dir)
            .user(ADMIN)
            .dbname(database)
            .application_name("lakebase-local")
            .connect(NoTls)
            .await
            .map_err(failed)?;
        tokio::spawn(connection);
        Ok(client)
    }
}

/// Quotes an identifier for SQL.
pub(crate) fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a string for SQL.
pub(crate) fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
