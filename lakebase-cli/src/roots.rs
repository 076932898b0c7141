//! The roots to trust as a file: libpq knows no other way, and sqlx no system store.

use std::error::Error;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::path::PathBuf;

use lakebase_core::Target;

/// In the user's cache, under a name made of its content, so that it can stay there. Nothing secret.
pub(crate) fn file(target: &Target) -> Result<Option<PathBuf>, Box<dyn Error>> {
    let Some(pem) = target.roots_pem() else {
        return Ok(None);
    };
    let mut hasher = DefaultHasher::new();
    pem.hash(&mut hasher);
    let folder = cache()?;
    let path = folder.join(format!("roots-{:016x}.pem", hasher.finish()));
    if fs::read(&path).is_ok_and(|known| known == pem) {
        return Ok(Some(path));
    }
    let failed = |error: &dyn Error| format!("cannot write {}: {error}", path.display());
    fs::create_dir_all(&folder).map_err(|error| failed(&error))?;
    // All of it or nothing: others may be reading.
    let mut file = tempfile::NamedTempFile::new_in(&folder).map_err(|error| failed(&error))?;
    file.write_all(&pem).map_err(|error| failed(&error))?;
    file.persist(&path).map_err(|error| failed(&error))?;
    Ok(Some(path))
}

/// Never a folder that others may write to: they could trust themselves.
fn cache() -> Result<PathBuf, Box<dyn Error>> {
    let folder = |name| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    folder("XDG_CACHE_HOME")
        .or_else(|| Some(folder("HOME")?.join(".cache")))
        .map(|cache| cache.join("lakebase"))
        .ok_or_else(|| {
            "neither XDG_CACHE_HOME nor HOME is set: there is no folder for the roots to trust"
                .into()
        })
}
