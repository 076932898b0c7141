//! A fresh cluster, made once per process and copied for each server: copying takes a tenth of
//! the time that `initdb` does.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Weak};

use tokio::sync::Mutex;

use super::folder::{DATA, Folder};
use super::owner::Owner;
use super::{ADMIN, NATIVE_GROUP};
use crate::Error;

/// Speed over safety: the data is thrown away anyway.
const SETTINGS: &str = "
listen_addresses = ''
# Beats PGPORT, which may well be set: to a local Lakebase's.
port = 5432
unix_socket_permissions = 0700
max_connections = 250
shared_buffers = 16MB
# What is committed survives the crash of a process, as it does on the platform; a crash of the machine it does not.
fsync = off
full_page_writes = off
# A branch is made from a backup. What it starts from must not be recycled while it is copied.
wal_level = replica
wal_keep_size = 64MB
max_wal_senders = 0
logging_collector = off
log_statement = none
";

/// Only we can reach the socket, and the user that the server runs as. Native roles are asked for their password by Postgres itself;
/// for the others the gateway has judged the token already.
const HBA: &str = "
local all +lakebase_native scram-sha-256
local all all trust
";

/// Before Postgres 16 whoever has CREATEROLE may grant these to anybody, and with them read and write
/// files and run programs as the user that the server runs as. Postgres knows them by number: without
/// their rows nobody can be a member, whatever is granted. `DROP ROLE` refuses, since they are its own.
const FORGET_SERVER_ROLES: &str = "DELETE FROM pg_authid WHERE rolname IN \
    ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files')\n";

#[derive(Debug)]
pub(crate) struct Template {
    owner: Owner,
    bin_dir: PathBuf,
    folder: Folder,
}

impl Template {
    /// The process's template for these programs; it lives as long as it is in use.
    pub(crate) async fn get(bin_dir: &Path) -> Result<Arc<Self>, Error> {
        static CURRENT: Mutex<Weak<Template>> = Mutex::const_new(Weak::new());
        let mut current = CURRENT.lock().await;
        if let Some(template) = current.upgrade().filter(|known| known.bin_dir == bin_dir) {
            return Ok(template);
        }
        let bin_dir = bin_dir.to_path_buf();
        let template = tokio::task::spawn_blocking(move || Self::make(bin_dir))
            .await
            .map_err(|error| Error::because("cannot make a database cluster", error))??;
        let template = Arc::new(template);
        *current = Arc::downgrade(&template);
        Ok(template)
    }

    fn make(bin_dir: PathBuf) -> Result<Self, Error> {
        let owner = Owner::of_postgres()?;
        let folder = Folder::create(owner, Some(&bin_dir))?;
        let data = folder.data();
        // It makes missing parents; told relative to the folder, it cannot bring that back once we are gone.
        run(
            &owner,
            folder.path(),
            Command::new(bin_dir.join("initdb"))
                .args(["-D", DATA])
                .args(["-U", ADMIN, "-A", "trust", "-E", "UTF8", "--locale=C"])
                .args(["--no-sync", "--no-instructions", "--wal-segsize=1"]),
            None,
        )?;
        for (script, text) in [
            ("cat >>data/postgresql.conf", SETTINGS),
            ("cat >data/pg_hba.conf", HBA),
        ] {
            let command = &mut Command::new("sh");
            run(
                &owner,
                folder.path(),
                command.args(["-c", script]),
                Some(text),
            )?;
        }
        // Single-user mode takes one statement per line.
        let mut sql = format!(
            "CREATE DATABASE databricks_postgres\n\
             REVOKE CREATE ON DATABASE databricks_postgres FROM PUBLIC\n\
             CREATE ROLE {NATIVE_GROUP} NOLOGIN\n\
             CREATE ROLE databricks_superuser NOLOGIN CREATEDB CREATEROLE BYPASSRLS\n\
             GRANT pg_read_all_data, pg_write_all_data TO databricks_superuser\n"
        );
        sql.push_str(FORGET_SERVER_ROLES);
        run(
            &owner,
            folder.path(),
            Command::new(bin_dir.join("postgres"))
                .args(["--single", "-F", "-D"])
                .arg(&data)
                .arg("postgres"),
            Some(&sql),
        )?;
        Ok(Self {
            owner,
            bin_dir,
            folder,
        })
    }

    /// An empty folder for a server of these programs.
    pub(super) async fn new_folder(&self) -> Result<Folder, Error> {
        let (owner, bin_dir) = (self.owner, self.bin_dir.clone());
        tokio::task::spawn_blocking(move || Folder::create(owner, Some(&bin_dir)))
            .await
            .map_err(|error| Error::because("cannot make a folder", error))?
    }

    /// A folder with a copy of this cluster.
    pub(super) async fn copy(&self) -> Result<Folder, Error> {
        let mut command = Command::new("cp");
        command.arg("-Rp").arg(self.folder.data()).arg(DATA);
        self.fill(self.new_folder().await?, command, None).await
    }

    /// Runs a program in a folder. The folder is not removed before the program has ended, even if nobody waits.
    pub(super) async fn fill(
        &self,
        folder: Folder,
        mut command: Command,
        input: Option<String>,
    ) -> Result<Folder, Error> {
        let owner = self.owner;
        tokio::task::spawn_blocking(move || {
            run(&owner, folder.path(), &mut command, input.as_deref())?;
            Ok(folder)
        })
        .await
        .map_err(|error| Error::because("cannot copy the database cluster", error))?
    }
}

/// Runs a program to its end as the owner, who alone writes in this folder.
fn run(
    owner: &Owner,
    folder: &Path,
    command: &mut Command,
    input: Option<&str>,
) -> Result<(), Error> {
    use std::io::Write as _;

    let name = command.get_program().to_string_lossy().into_owned();
    let failed = |error: std::io::Error| Error::because(format!("cannot run {name}"), error);
    let mut child = owner
        .prepare(command)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        stdin.write_all(input.as_bytes()).map_err(failed)?;
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::new(format!(
        "{name} failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}
