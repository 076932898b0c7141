//! The roots to trust, and a file of them for libpq and sqlx.

use std::error::Error;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lakebase_core::{Config, Target};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, TrustAnchor};

use crate::args;

/// Returns the configured file, else a file with the system's and Mozilla's roots in the user's cache. Its name is a
/// hash of its content, so it can stay there.
pub(crate) fn file(config: &Config, target: &Target) -> Result<Option<String>, Box<dyn Error>> {
    if !target.uses_tls() {
        return Ok(None);
    }
    if let Some(path) = configured(config) {
        return text(&std::path::absolute(path)?).map(Some);
    }
    let pem: Vec<u8> = default_roots().iter().flat_map(to_pem).collect();
    let mut hasher = DefaultHasher::new();
    pem.hash(&mut hasher);
    let folder = cache()?;
    let path = folder.join(format!("roots-{:016x}.pem", hasher.finish()));
    let failed = |error: &dyn Error| {
        format!(
            "cannot write {}: {error}. Set XDG_CACHE_HOME to a writable folder, or PGSSLROOTCERT to a file of roots",
            path.display()
        )
    };
    make_own(&folder).map_err(|error| failed(&*error))?;
    if !fs::read(&path).is_ok_and(|known| known == pem) {
        // Atomic, as other processes may be reading it.
        let mut file = tempfile::NamedTempFile::new_in(&folder).map_err(|error| failed(&error))?;
        file.write_all(&pem).map_err(|error| failed(&error))?;
        file.persist(&path).map_err(|error| failed(&error))?;
    }
    text(&path).map(Some)
}

/// Returns the roots of the configured file, else the system's and Mozilla's.
pub(crate) fn certificates(
    config: &Config,
) -> Result<Vec<CertificateDer<'static>>, Box<dyn Error>> {
    match configured(config) {
        Some(path) => Ok(CertificateDer::pem_file_iter(path)?.collect::<Result<_, _>>()?),
        None => Ok(default_roots()),
    }
}

fn configured(config: &Config) -> Option<String> {
    args::setting(config, "sslrootcert").filter(|path| path != "system")
}

/// Omits roots that Mozilla trusts for some names only, as a certificate does not contain that limit.
fn default_roots() -> Vec<CertificateDer<'static>> {
    let bundled = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned();
    let mut roots: Vec<_> = bundled
        .chain(rustls_native_certs::load_native_certs().certs)
        .filter(|root| {
            let mut store = RootCertStore::empty();
            let is_limited = |anchor: &TrustAnchor<'_>| {
                let mut limited = webpki_roots::TLS_SERVER_ROOTS
                    .iter()
                    .filter(|known| known.name_constraints.is_some());
                limited.any(|known| {
                    known.subject == anchor.subject
                        && known.subject_public_key_info == anchor.subject_public_key_info
                })
            };
            store.add(root.clone()).is_ok() && !store.roots.iter().any(is_limited)
        })
        .collect();
    roots.sort_by(|one, other| one.as_ref().cmp(other.as_ref()));
    roots.dedup();
    roots
}

fn to_pem(certificate: &CertificateDer<'_>) -> Vec<u8> {
    let mut pem = b"-----BEGIN CERTIFICATE-----\n".to_vec();
    for line in STANDARD.encode(certificate).as_bytes().chunks(64) {
        pem.extend_from_slice(line);
        pem.push(b'\n');
    }
    pem.extend_from_slice(b"-----END CERTIFICATE-----\n");
    pem
}

fn text(path: &Path) -> Result<String, Box<dyn Error>> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| format!("{} is not UTF-8", path.display()).into())
}

/// Creates the folder. Only our user may write to it, as its files decide which servers are trusted.
fn make_own(folder: &Path) -> Result<(), Box<dyn Error>> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};

        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(folder)?;
        let found = fs::metadata(folder)?;
        if found.uid() != nix::unistd::geteuid().as_raw() || found.mode() & 0o022 != 0 {
            return Err("other users can write to the folder".into());
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
            "no folder for the roots to trust: set HOME or XDG_CACHE_HOME, or PGSSLROOTCERT to a file of roots".into()
        })
}
