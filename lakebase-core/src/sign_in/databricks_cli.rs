//! `databricks-cli`: the login of `databricks auth login`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use secrecy::ExposeSecret;
use serde_json::Value;

use super::command::{Program, on_path};
use super::token::{AccessToken, CliFormat};
use super::{Configured, Failure, NotConfigured, Settings, Site, Source, Strategy, jwt};
use crate::error::Error;
use crate::error::Kind;
use crate::settings::attributes::Attribute::{
    ConfigFile, DatabricksCliPath, Host, Profile, Scopes,
};

pub(super) static STRATEGY: Strategy = Strategy {
    name: "databricks-cli",
    attributes: &[Host, Profile, DatabricksCliPath],
    advice: "Run `databricks auth login`",
    configure,
};

/// The tool may refresh its token over the network. Its own limit is an hour.
const TOKEN_LIMIT: Duration = Duration::from_secs(30);
const VERSION_LIMIT: Duration = Duration::from_secs(5);
/// The legacy Python tool has the same name. It is a small script with this mark.
const LARGEST_LEGACY: u64 = 1024 * 1024;
const LEGACY_MARK: &str = "from databricks_cli.cli import ";

const FORMAT: CliFormat = CliFormat {
    tool: "Databricks CLI",
    login: "`databricks auth login`",
    token: "access_token",
    scheme: "token_type",
    expiry: "expiry",
};

/// Major, minor and patch.
type Version = (u64, u64, u64);

const DEVELOPMENT: Version = (0, 0, 0);
const KNOWS_PROFILES: Version = (0, 207, 1);
const KNOWS_FORCE_REFRESH: Version = (0, 296, 0);

pub(super) struct DatabricksCli {
    program: Program,
    version: OnceLock<Version>,
}

fn configure(settings: &Settings) -> Configured {
    let profile = settings.owned(Profile);
    if !settings.is_any_set(&[Host]) {
        return Err(match (settings.is_forced(), &profile) {
            (true, None) => NotConfigured::Incomplete("cannot configure CLI token source: neither profile nor host is configured: host is not set".to_owned()),
            // The tool prints a token, but no host.
            (_, Some(_)) => NotConfigured::Incomplete(settings.missing(Host)),
            (false, None) => NotConfigured::Unused,
        });
    }
    settings.reject_group(STRATEGY.name)?;
    let path = find(settings).map_err(NotConfigured::Incomplete)?;
    let file = settings.owned(ConfigFile);
    Ok(Source::DatabricksCli(DatabricksCli {
        // The tool must use the same file and profile, even if the environment names others.
        program: Program::new(path, Arc::clone(&settings.vars))
            .with("DATABRICKS_CONFIG_FILE", file)
            .with("DATABRICKS_CONFIG_PROFILE", profile),
        version: OnceLock::new(),
    }))
}

/// A name is searched on the `PATH`, without the legacy tool.
fn find(settings: &Settings) -> Result<PathBuf, String> {
    let name = settings.value(DatabricksCliPath);
    let name = name.unwrap_or("databricks");
    if name.contains(std::path::is_separator) {
        let path = PathBuf::from(name);
        return match path.is_file() {
            true => Ok(path),
            false => Err(format!("the Databricks CLI is not at {name}")),
        };
    }
    let found = on_path(name, &settings.vars);
    let current = found.iter().find(|path| !is_legacy(path));
    current.cloned().ok_or_else(|| match found.is_empty() {
        true => "most likely the Databricks CLI is not installed".to_owned(),
        false => "Databricks CLI version <0.100.0 detected: upgrade it".to_owned(),
    })
}

fn is_legacy(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|file| file.len() < LARGEST_LEGACY)
        && std::fs::read(path)
            .is_ok_and(|content| String::from_utf8_lossy(&content).contains(LEGACY_MARK))
}

impl DatabricksCli {
    pub(super) async fn token(&self, site: &Site) -> Result<AccessToken, Failure> {
        let settings = site.settings();
        let version = self.version().await;
        let knows = |feature: Version| version.is_some_and(|version| version >= feature);
        let host = settings.value(Host).unwrap_or_default();
        let mut args = vec!["auth", "token"];
        args.extend(match settings.value(Profile) {
            Some(profile) if knows(KNOWS_PROFILES) => ["--profile", profile],
            _ => ["--host", host],
        });
        if knows(KNOWS_FORCE_REFRESH) {
            args.push("--force-refresh");
        }
        let started = site.http.now();
        let output = self.program.run(&args, TOKEN_LIMIT).await?;
        if !output.success {
            let no_login = "databricks OAuth is not";
            if output.stderr.contains(no_login) || output.stdout.contains(no_login) {
                return Err(Failure::Declined(output.no_token()));
            }
            let error = Error::new(Kind::SignIn, output.no_token());
            return Err(error.with_hint(STRATEGY.advice).into());
        }
        let token = AccessToken::from_cli(&FORMAT, &output.stdout, started, site.http.now())?;
        check_scopes(settings, token.secret.expose_secret())?;
        Ok(token)
    }

    /// `None` if the version is unknown or a development build; then the oldest arguments are used.
    async fn version(&self) -> Option<Version> {
        if self.version.get().is_none() {
            let args = ["version", "--output", "json"];
            let output = self.program.run(&args, VERSION_LIMIT).await.ok()?;
            let _ = self.version.set(parse_version(&output.stdout)?);
        }
        let version = self.version.get().copied();
        version.filter(|version| *version != DEVELOPMENT)
    }
}

fn parse_version(stdout: &str) -> Option<Version> {
    let answer: Value = serde_json::from_str(stdout).ok()?;
    let part = |name: &str| answer.get(name)?.as_u64();
    Some((part("Major")?, part("Minor")?, part("Patch")?))
}

/// Rejects a token with other scopes than the configured ones.
fn check_scopes(settings: &Settings, token: &str) -> Result<(), Failure> {
    if !settings.is_any_set(&[Scopes]) {
        return Ok(());
    }
    let claims = jwt::claims(token).unwrap_or_default();
    let mut granted: BTreeSet<&str> = match &claims["scope"] {
        Value::String(text) => text.split_whitespace().collect(),
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        _ => return Ok(()),
    };
    let scopes = settings.scopes();
    let mut wanted: BTreeSet<&str> = scopes.split(' ').collect();
    for set in [&mut granted, &mut wanted] {
        set.remove("offline_access");
    }
    if granted == wanted {
        return Ok(());
    }
    let text =
        format!("the scopes of the CLI's login do not match the configured scopes ({scopes})");
    Err(match settings.is_forced() {
        true => Error::new(Kind::SignIn, text)
            .with_hint("Run `databricks auth login` with these scopes")
            .into(),
        false => Failure::Declined(text),
    })
}
