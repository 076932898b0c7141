//! Our own server.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::folder::Folder;
use super::template::Template;
use super::{OUR_PATH, SOCKET, Server};
use crate::Error;

const START_LIMIT: Duration = Duration::from_secs(60);
const START_LOOK: Duration = Duration::from_millis(20);

/// A running server. Dropping it stops the server and removes its folder.
#[derive(Debug)]
pub(crate) struct Own {
    pub(super) folder: Folder,
    server: Server,
    /// Kept so that the next start finds it ready.
    pub(super) template: Arc<Template>,
}

impl Own {
    pub(crate) async fn start(bin_dir: PathBuf) -> Result<Self, Error> {
        let template = Template::get(&bin_dir).await?;
        let folder = template.copy().await?;
        Self::serve(folder, template).await
    }

    /// Starts a server on the cluster in this folder.
    pub(super) async fn serve(mut folder: Folder, template: Arc<Template>) -> Result<Self, Error> {
        folder.serve()?;
        let own = Self {
            server: Server::own(folder.path().to_path_buf()),
            folder,
            template,
        };
        own.wait_ready().await?;
        Ok(own)
    }

    async fn wait_ready(&self) -> Result<(), Error> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let failure = match self.server.admin("postgres", OUR_PATH).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if self.folder.has_stopped() || Instant::now() >= deadline {
                let log = self.folder.log_tail().await;
                return Err(Error::because(
                    format!("Postgres did not start: {log}"),
                    failure,
                ));
            }
            sleep(START_LOOK).await;
        }
    }

    /// Path of the socket. Only this user and the user that Postgres runs as can reach it.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join(SOCKET)
    }

    pub(crate) fn server(&self) -> &Server {
        &self.server
    }
}
