//! Finds the programs of a Postgres server on this machine.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::owner::{Owner, program_folders};
use crate::Error;

/// Folder with `initdb` and `postgres`.
const BIN_DIR_VARIABLE: &str = "LAKEBASE_LOCAL_PG_BIN";

/// Folders with one folder for each version; the newest is used first.
const USUAL_PARENTS: &[&str] = &[
    "/usr/lib/postgresql",
    "/usr/local/opt",
    "/opt/homebrew/opt",
    "/usr",
];

pub(crate) fn checked(dir: PathBuf) -> Result<PathBuf, Error> {
    if is_bin_dir(&dir) {
        // Absolute, as the programs run in other folders.
        return std::path::absolute(&dir)
            .map_err(|error| Error::because("cannot read the working folder", error));
    }
    Err(Error::new(format!(
        "{} holds no `initdb` and `postgres`: name the bin folder of a Postgres server",
        dir.display()
    )))
}

/// Searches the variable, `pg_config`, PATH and the usual folders, and downloads a Postgres otherwise.
pub(crate) async fn find_bin_dir(scratch: &Path) -> Result<PathBuf, Error> {
    if let Some(dir) = std::env::var_os(BIN_DIR_VARIABLE).filter(|dir| !dir.is_empty()) {
        return checked(PathBuf::from(dir));
    }
    let mut candidates = Vec::new();
    let folders = program_folders();
    let pg_config = folders.iter().map(|dir| dir.join("pg_config"));
    if let Some(pg_config) = pg_config.into_iter().find(|file| file.is_file()) {
        let mut command = std::process::Command::new(pg_config);
        Owner::ourselves().prepare(command.arg("--bindir"));
        if let Ok(output) = Command::from(command).output().await {
            let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            candidates.push(PathBuf::from(text));
        }
    }
    // Distributions link `postgres` but not `initdb` into PATH, so follow the link.
    candidates.extend(folders.iter().filter_map(|dir| {
        let program = dir.join("postgres").canonicalize().ok()?;
        program.parent().map(Path::to_path_buf)
    }));
    candidates.extend(
        USUAL_PARENTS
            .iter()
            .flat_map(|parent| versions_below(parent)),
    );
    let is_usable = |dir: &PathBuf| dir.is_absolute() && is_bin_dir(dir);
    match candidates.into_iter().find(is_usable) {
        Some(dir) => Ok(dir),
        None => bring_one(scratch).await,
    }
}

fn is_bin_dir(dir: &Path) -> bool {
    ["initdb", "postgres"]
        .iter()
        .all(|program| dir.join(program).is_file())
}

fn versions_below(parent: &str) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = std::fs::read_dir(parent)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .collect();
    dirs.sort();
    dirs.reverse();
    dirs
}

#[cfg(feature = "embedded")]
async fn bring_one(scratch: &Path) -> Result<PathBuf, Error> {
    use postgresql_embedded::{PostgreSQL, Settings, VersionReq};

    const RELEASES: &str = "https://github.com/theseus-rs/postgresql-binaries";

    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        let text = format!("{}; the download failed", nothing_found());
        Error::because(text, error)
    };
    // `setup` installs, and then creates a cluster unless it finds one. `Settings::new` would create folders, so its
    // fields are set here.
    let data_dir = scratch.join("download");
    std::fs::create_dir(&data_dir)
        .and_then(|()| std::fs::write(data_dir.join("postgresql.conf"), ""))
        .map_err(|error| failed(error.into()))?;
    let settings = Settings {
        releases_url: RELEASES.to_owned(),
        version: VersionReq::STAR,
        installation_dir: super::owner::cache_dir().join("postgresql"),
        password_file: data_dir.join("unused"),
        data_dir,
        host: String::new(),
        port: 0,
        username: String::new(),
        password: String::new(),
        temporary: false,
        timeout: None,
        configuration: std::collections::HashMap::new(),
        trust_installation_dir: false,
        socket_dir: None,
    };
    let mut postgres = PostgreSQL::new(settings);
    postgres
        .setup()
        .await
        .map_err(|error| failed(error.into()))?;
    checked(postgres.settings().binary_dir())
}

#[cfg(not(feature = "embedded"))]
async fn bring_one(_: &Path) -> Result<PathBuf, Error> {
    Err(Error::new(nothing_found()))
}

fn nothing_found() -> String {
    format!(
        "no Postgres server was found: install one (Debian: `apt-get install postgresql`, macOS: `brew install postgresql@17`) or set {BIN_DIR_VARIABLE} to the folder that holds `initdb` and `postgres`"
    )
}
