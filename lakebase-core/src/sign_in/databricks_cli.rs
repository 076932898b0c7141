//! `databricks-cli`: whoever has logged in with `databricks auth login`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::Value;

use super::command::{Program, on_path};
use super::token::{Token, is_header_safe};
use super::{Configured, Not, Refusal, Settings, SignIn, Site, jwt};
use crate::credential::refresh::Validity;
use crate::credential::remembered::Remembered;
use crate::error::Error;
use crate::error::Kind;
use crate::settings::attributes::Attribute;

/// It may have to refresh over the network; its own limit is an hour.
const TOKEN_LIMIT: Duration = Duration::from_secs(30);
const VERSION_LIMIT: Duration = Duration::from_secs(5);
/// The Python tool of the same name, which cannot do this: a small script that says so.
const LARGEST_LEGACY: u64 = 1024 * 1024;
const LEGACY_MARK: &str = "from databricks_cli.cli import ";

const KNOWS_PROFILES: Version = Version(0, 207, 1);
const KNOWS_FORCE_REFRESH: Version = Version(0, 296, 0);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u64, u64, u64);

struct Cli {
    program: Program,
    version: Remembered<Version>,
    host: String,
    profile: Option<String>,
    /// Other than the usual ones: the login must have been made for them.
    scopes: Option<String>,
    is_forced: bool,
}

pub(super) fn configure(settings: &Settings) -> Configured {
    let profile = settings.owned(Attribute::Profile);
    let Some(host) = settings.owned(Attribute::Host) else {
        return Err(match (settings.is_forced(), &profile) {
            (true, None) => Not::Complete("cannot configure CLI token source: neither profile nor host is configured: host is not set".to_owned()),
            // It could tell a token, but not where to use it.
            (_, Some(_)) => Not::Complete(settings.missing(Attribute::Host)),
            (false, None) => Not::Meant,
        });
    };
    settings.refuse_group("databricks-cli")?;
    let path = find(settings).map_err(Not::Complete)?;
    Ok(Box::new(Cli {
        // It reads the file and the profile that we have read, whatever else the environment says.
        program: Program::new(path, Arc::clone(&settings.vars))
            .with(
                "DATABRICKS_CONFIG_FILE",
                settings.owned(Attribute::ConfigFile),
            )
            .with("DATABRICKS_CONFIG_PROFILE", profile.clone()),
        version: Remembered::default(),
        host,
        profile,
        scopes: settings.get(Attribute::Scopes).map(|_| settings.scopes()),
        is_forced: settings.is_forced(),
    }))
}

/// A path is taken as it is; a name is looked for, and the legacy tool passed over.
fn find(settings: &Settings) -> Result<PathBuf, String> {
    let name = settings
        .value(Attribute::DatabricksCliPath)
        .unwrap_or("databricks");
    if name.contains(std::path::is_separator) {
        let path = PathBuf::from(name);
        return match path.is_file() {
            true => Ok(path),
            false => Err(format!("the Databricks CLI is not at {name}")),
        };
    }
    let mut legacy = false;
    for path in on_path(name, &settings.vars) {
        if is_legacy(&path) {
            legacy = true;
            continue;
        }
        return Ok(path);
    }
    Err(match legacy {
        true => "Databricks CLI version <0.100.0 detected: upgrade it".to_owned(),
        false => "most likely the Databricks CLI is not installed".to_owned(),
    })
}

fn is_legacy(path: &Path) -> bool {
    let is_small = path
        .metadata()
        .is_ok_and(|file| file.len() < LARGEST_LEGACY);
    is_small
        && std::fs::read(path)
            .is_ok_and(|content| String::from_utf8_lossy(&content).contains(LEGACY_MARK))
}

impl Cli {
    /// `None` if it cannot be told, or is a developer's build: then the oldest way of asking is used.
    async fn version(&self) -> Option<Version> {
        let ask = async {
            let args = ["version", "--output", "json"];
            let output = self.program.run(&args, VERSION_LIMIT).await.map_err(drop)?;
            parse_version(&output.stdout).ok_or(())
        };
        // An answer that cannot be read is asked for again next time.
        let version = self.version.get_or_find(ask).await.ok()?;
        (version != Version(0, 0, 0)).then_some(version)
    }

    async fn command(&self) -> Vec<String> {
        let version = self.version().await;
        let knows = |feature: Version| version.is_some_and(|version| version >= feature);
        let mut command = vec!["auth".to_owned(), "token".to_owned()];
        match &self.profile {
            Some(profile) if knows(KNOWS_PROFILES) => {
                command.extend(["--profile".to_owned(), profile.clone()]);
            }
            _ => command.extend(["--host".to_owned(), self.host.clone()]),
        }
        if knows(KNOWS_FORCE_REFRESH) {
            command.push("--force-refresh".to_owned());
        }
        command
    }

    /// The login may have been made for other scopes than those configured.
    fn check_scopes(&self, token: &str) -> Result<(), Refusal> {
        let Some(wanted) = &self.scopes else {
            return Ok(());
        };
        let Some(claim) = jwt::claims(token).and_then(|claims| claims.get("scope").cloned()) else {
            return Ok(());
        };
        let words: Vec<&str> = match &claim {
            Value::String(text) => text.split_whitespace().collect(),
            Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
            _ => return Ok(()),
        };
        let mut granted: Vec<&str> = words
            .into_iter()
            .filter(|scope| *scope != "offline_access")
            .collect();
        granted.sort_unstable();
        granted.dedup();
        let wanted_alone: Vec<&str> = wanted
            .split(' ')
            .filter(|scope| *scope != "offline_access")
            .collect();
        if granted == wanted_alone {
            return Ok(());
        }
        let text =
            format!("the scopes of the CLI's login do not match the configured scopes ({wanted})");
        Err(match self.is_forced {
            true => Refusal::Failed(
                Error::new(Kind::SignIn, text)
                    .with_hint("Run `databricks auth login` with these scopes"),
            ),
            false => Refusal::Declined(text),
        })
    }
}

impl SignIn for Cli {
    fn name(&self) -> &'static str {
        "databricks-cli"
    }

    fn fetch<'a>(&'a self, site: &'a Site) -> BoxFuture<'a, Result<Token, Refusal>> {
        async {
            let command = self.command().await;
            let args: Vec<&str> = command.iter().map(String::as_str).collect();
            let asked = site.http.now();
            let output = self.program.run(&args, TOKEN_LIMIT).await?;
            if !output.success {
                let text = format!("cannot get access token: {}", output.complaint);
                let has = |text: &str| text.contains("databricks OAuth is not");
                if has(&output.stderr) || has(&output.stdout) {
                    return Err(Refusal::Declined(text));
                }
                return Err(Error::new(Kind::SignIn, text)
                    .with_hint(self.advice())
                    .into());
            }
            let unusable = |what: &str| {
                Error::new(
                    Kind::Platform,
                    format!("cannot unmarshal CLI result: {what}"),
                )
                .with_hint("Update the Databricks CLI")
            };
            let answer: Value =
                serde_json::from_str(&output.stdout).map_err(|_| unusable("it is not JSON"))?;
            let token = answer
                .get("access_token")
                .and_then(Value::as_str)
                .filter(|token| is_header_safe(token))
                .ok_or_else(|| unusable("`access_token` is missing or not a token"))?;
            let expiry = answer
                .get("expiry")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let expiry = parse_expiry(expiry).ok_or_else(|| unusable("`expiry` is not a date"))?;
            // Made on this machine, so by this machine's clock.
            let validity = Validity::measure(expiry, None, asked, site.http.now())
                .ok_or_else(|| {
                    Error::new(Kind::SignIn, "the CLI handed out a token that has expired")
                        .with_hint("Check this machine's clock, or log in again with `databricks auth login`")
                })?;
            self.check_scopes(token)?;
            let kind = answer
                .get("token_type")
                .and_then(Value::as_str)
                .unwrap_or_default();
            Ok(Token::new(kind, token, Some(validity)))
        }
        .boxed()
    }

    fn made_of(&self) -> &'static [Attribute] {
        &[
            Attribute::Host,
            Attribute::Profile,
            Attribute::DatabricksCliPath,
        ]
    }

    fn advice(&self) -> &'static str {
        "Run `databricks auth login`"
    }
}

fn parse_version(stdout: &str) -> Option<Version> {
    let answer: Value = serde_json::from_str(stdout).ok()?;
    let part = |name: &str| answer.get(name)?.as_u64();
    Some(Version(part("Major")?, part("Minor")?, part("Patch")?))
}

/// RFC 3339, or a date and a time of this machine's zone.
pub(super) fn parse_expiry(text: &str) -> Option<SystemTime> {
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Some(at.into());
    }
    let local: jiff::civil::DateTime = text.parse().ok()?;
    let at = local.to_zoned(jiff::tz::TimeZone::system()).ok()?;
    Some(at.timestamp().into())
}

impl fmt::Debug for Cli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_json_and_anything_else_is_unknown() {
        for (stdout, expected) in [
            (
                r#"{"Major":0,"Minor":296,"Patch":0,"Prerelease":"rc.1"}"#,
                Some(Version(0, 296, 0)),
            ),
            (
                r#"{"Major":0,"Minor":207,"Patch":1}"#,
                Some(Version(0, 207, 1)),
            ),
            ("not json", None),
            ("", None),
            ("Databricks CLI v0.207.1", None),
            (r#"{"Minor":207,"Patch":1}"#, None),
            (r#"{"Major":"oops","Minor":207,"Patch":1}"#, None),
        ] {
            assert_eq!(parse_version(stdout), expected, "{stdout:?}");
        }
    }

    #[test]
    fn an_expiry_has_an_offset_or_is_local_time() {
        let utc = |text: &str| text.parse::<jiff::Timestamp>().ok().map(SystemTime::from);
        for (text, expected) in [
            (
                "2023-12-01T15:19:48.007742617Z",
                utc("2023-12-01T15:19:48.007742617Z"),
            ),
            (
                "2023-12-05T15:59:01.40081+11:00",
                utc("2023-12-05T04:59:01.40081Z"),
            ),
            ("March 20, 2024", None),
            ("", None),
        ] {
            assert_eq!(parse_expiry(text), expected, "{text:?}");
        }
        let local: jiff::civil::DateTime = "2023-12-06 10:06:05".parse().expect("a date");
        let zoned = local
            .to_zoned(jiff::tz::TimeZone::system())
            .expect("a time");
        assert_eq!(
            parse_expiry("2023-12-06 10:06:05"),
            Some(zoned.timestamp().into())
        );
    }
}
