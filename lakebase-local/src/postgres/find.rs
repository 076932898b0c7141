//! Finds the server programs of a Postgres on this machine.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::Error;

/// Names a folder with `initdb` and `postgres` in it.
const BIN_DIR_VARIABLE: &str = "LAKEBASE_LOCAL_PG_BIN";

/// Folders of folders by version, newest first.
const USUAL_PARENTS: &[&str] = &[
    "/usr/lib/postgresql",
    "/usr/local/opt",
    "/opt/homebrew/opt",
    "/usr",
];

pub(crate) fn checked(dir: PathBuf) -> Result<PathBuf, Error> {
    if is_bin_dir(&dir) {
        return Ok(dir);
    }
    Err(Error::new(format!(
        "{} holds no `initdb` and `postgres`: name the bin folder of a Postgres server",
        dir.display()
    )))
}

/// From the variable, `pg_config`, PATH or the usual folders; else from a download.
pub(crate) async fn find_bin_dir() -> Result<PathBuf, Error> {
    if let Some(dir) = std::env::var_os(BIN_DIR_VARIABLE).filter(|dir| !dir.is_empty()) {
        return checked(PathBuf::from(dir));
    }
    let mut candidates = Vec::new();
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output().await {
        candidates.push(PathBuf::from(
            String::from_utf8_lossy(&output.stdout).trim(),
        ));
    }
    if let Some(path) = std::env::var_os("PATH") {
        // Distributions link `postgres` but not `initdb` into PATH: follow the link.
        candidates.extend(std::env::split_paths(&path).filter_map(|dir| {
            let program = dir.join("postgres").canonicalize().ok()?;
            program.parent().map(Path::to_path_buf)
        }));
    }
    candidates.extend(
        USUAL_PARENTS
            .iter()
            .flat_map(|parent| versions_below(parent)),
    );
    match candidates.into_iter().find(|dir| is_bin_dir(dir)) {
        Some(dir) => Ok(dir),
        None => bring_one().await,
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
async fn bring_one() -> Result<PathBuf, Error> {
    use postgresql_embedded::{PostgreSQL, Settings};

    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        let text = format!("{}; and none could be downloaded", nothing_found());
        Error::because(text, error)
    };
    let mut settings = Settings::new();
    // It makes folders for a cluster of its own, which we do not want.
    let unwanted = [Some(&*settings.data_dir), settings.password_file.parent()];
    for folder in unwanted.into_iter().flatten() {
        let _ = std::fs::remove_dir_all(folder);
    }
    // Its `setup` installs and then makes a cluster, unless there seems to be one.
    let scratch = tempfile::tempdir().map_err(|error| failed(error.into()))?;
    std::fs::write(scratch.path().join("postgresql.conf"), "")
        .map_err(|error| failed(error.into()))?;
    settings.installation_dir = super::owner::cache_dir().join("postgresql");
    settings.data_dir = scratch.path().to_owned();
    settings.password_file = scratch.path().join("unused");
    let mut postgres = PostgreSQL::new(settings);
    postgres
        .setup()
        .await
        .map_err(|error| failed(error.into()))?;
    checked(postgres.settings().binary_dir())
}

#[cfg(not(feature = "embedded"))]
async fn bring_one() -> Result<PathBuf, Error> {
    Err(Error::new(nothing_found()))
}

fn nothing_found() -> String {
    format!(
        "no Postgres server was found: install one (Debian: `apt-get install postgresql`, macOS: `brew install postgresql@17`) or set {BIN_DIR_VARIABLE} to the folder that holds `initdb` and `postgres`"
    )
}
