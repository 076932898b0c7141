//! The roots to trust as a file: libpq knows no other way, and sqlx no system store.

use std::error::Error;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use lakebase_core::{Config, Target};

use crate::args;

/// The file that the configuration names; else one with the system's and Mozilla's, in the user's cache, under
/// a name made of its content, so that it can stay there. Nothing secret.
pub(crate) fn file(config: &Config, target: &Target) -> Result<Option<String>, Box<dyn Error>> {
    let Some(pem) = target.roots_pem() else {
        return Ok(None);
    };
    if let Some(path) = args::setting(config, "sslrootcert").filter(|path| path != "system") {
        return text(&std::path::absolute(path)?).map(Some);
    }
    let mut hasher = DefaultHasher::new();
    pem.hash(&mut hasher);
    let folder = cache()?;
    let path = folder.join(format!("roots-{:016x}.pem", hasher.finish()));
    let failed = |error: &dyn Error| {
        format!(
            "cannot write {}: {error}. Set XDG_CACHE_HOME to a folder of your own, or PGSSLROOTCERT to a file of roots",
            path.display()
        )
    };
    make_own(&folder).map_err(|error| failed(&*error))?;
    if !fs::read(&path).is_ok_and(|known| known == pem) {
        // All of it or nothing: others may be reading.
        let mut file = tempfile::NamedTempFile::new_in(&folder).map_err(|error| failed(&error))?;
        file.write_all(&pem).map_err(|error| failed(&error))?;
        file.persist(&path).map_err(|error| failed(&error))?;
    }
    text(&path).map(Some)
}

fn text(path: &Path) -> Result<String, Box<dyn Error>> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| format!("{} is not UTF-8", path.display()).into())
}

/// Who may write to it could let us trust anybody.
fn make_own(folder: &Path) -> Result<(), Box<dyn Error>> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};

        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(folder)?;
        let found = fs::metadata(folder)?;
        if found.uid() != nix::unistd::geteuid().as_raw() || found.mode() & 0o022 != 0 {
            return Err("the folder is not ours alone to write to".into());
        }
    }
    #[cfg(not(unix))]
    fs::create_dir_all(folder)?;
    Ok(())
}

fn cache() -> Result<PathBuf, Box<dyn Error>> {
    let folder = |name| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    folder("XDG_CACHE_HOME")
        .or_else(|| Some(folder("HOME")?.join(".cache")))
        .map(|cache| cache.join("lakebase"))
        .ok_or_else(|| {
            "there is no folder for the roots to trust: set HOME or XDG_CACHE_HOME, or PGSSLROOTCERT to a file of roots".into()
        })
}
