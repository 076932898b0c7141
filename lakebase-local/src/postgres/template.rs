//! A new cluster, created once per process and copied for each server. A copy takes a tenth of the time of `initdb`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Weak};

use tokio::sync::Mutex;

use super::folder::{DATA, Folder};
use super::owner::Owner;
use super::{ADMIN, NATIVE_GROUP};
use crate::Error;

/// Fast and unsafe settings, as the data is temporary.
const SETTINGS: &str = "
listen_addresses = ''
# Otherwise PGPORT applies, which may be that of a local Lakebase.
port = 5432
unix_socket_permissions = 0700
max_connections = 250
shared_buffers = 16MB
# Commits survive a crash of the server, but not of the machine.
fsync = off
full_page_writes = off
# For backups, from which branches are created: WAL must not be recycled while it is copied.
wal_level = replica
wal_keep_size = 64MB
max_wal_senders = 0
# Otherwise, a server that is killed leaves files in /dev/shm.
dynamic_shared_memory_type = mmap
logging_collector = off
log_statement = none
";

/// Only our user and the server's user can reach the socket. Postgres checks the passwords of native roles; the
/// gateway has checked the tokens of the others.
const HBA: &str = "
local all +lakebase_native scram-sha-256
local all all trust
";

/// Before Postgres 16, a role with CREATEROLE may grant these, and their members can read and write files and run
/// programs as the server's user. Postgres checks them by OID, so without their rows no role can be a member.
/// `DROP ROLE` rejects predefined roles.
const FORGET_SERVER_ROLES: &str = "DELETE FROM pg_authid WHERE rolname IN \
    ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files')\n";

#[derive(Debug)]
pub(crate) struct Template {
    owner: Owner,
    bin_dir: PathBuf,
    folder: Folder,
}

impl Template {
    /// Returns the process's template for these programs. It exists as long as it is in use.
    pub(crate) async fn get(bin_dir: &Path) -> Result<Arc<Self>, Error> {
        static CURRENT: Mutex<Weak<Template>> = Mutex::const_new(Weak::new());
        let mut current = CURRENT.lock().await;
        if let Some(template) = current.upgrade().filter(|known| known.bin_dir == bin_dir) {
            return Ok(template);
        }
        let bin_dir = bin_dir.to_path_buf();
        let template = tokio::task::spawn_blocking(move || Self::make(bin_dir))
            .await
            .map_err(|error| Error::because("cannot create a database cluster", error))??;
        let template = Arc::new(template);
        *current = Arc::downgrade(&template);
        Ok(template)
    }

    fn make(bin_dir: PathBuf) -> Result<Self, Error> {
        let owner = Owner::of_postgres()?;
        let folder = Folder::create(owner, Some(&bin_dir))?;
        let data = folder.data();
        // A relative path, as initdb creates missing parents and could create the folder again after its removal.
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

    /// Runs a program in a folder. The folder is removed only after the program has ended, even if the caller is cancelled.
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
