//! Profiles in `~/.databrickscfg`.
//!
//! The file has the INI dialect of the official Go tools, with keys in any case. No crate parses it: quotes and comments
//! have rules of their own.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use super::attributes::Attribute;
use super::resolved::Settings;
use super::setting::{Setting, quoted};
use crate::error::Error;

/// Section with settings of the tools, which is not a profile.
const SETTINGS: &str = "__settings__";
const FALLBACK: &str = "DEFAULT";

/// Fills unset attributes from the configured profile, or else from the default one. The default profile is ignored if a
/// host or a credential is set, as it may belong to another workspace or identity.
///
/// Reads the file, which blocks.
pub(crate) fn load(settings: &mut Settings) -> Result<(), Error> {
    let configured = settings.get(Attribute::Profile).cloned();
    let is_known = settings.is_any_set(&[Attribute::Host]) || !settings.families().is_empty();
    if configured.is_none() && is_known {
        return Ok(());
    }
    let Some(path) = path(settings) else {
        return configured.map_or(Ok(()), |profile| {
            Err(Error::config(format!(
                "{}: cannot find the file with profile {}: HOME is not set",
                profile.from,
                quoted(&profile.value)
            ))
            .with_hint("Add the environment (`env`), or set the attribute `config_file`"))
        });
    };
    let shown = path.display().to_string();
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound => {
                settings.missing_file = configured.map(|_| path);
                return Ok(());
            }
            io::ErrorKind::InvalidData => {
                return Err(Error::config(format!(
                    "{shown}: the profile file is not UTF-8"
                )));
            }
            _ => {
                let text = format!("cannot read the profile file {shown}");
                return Err(Error::config(text).with_source(error));
            }
        },
    };
    let file = Ini::parse(&text)
        .map_err(|(line, what)| Error::config(format!("{shown}: line {line}: {what}")))?;
    let default = || {
        let value = file.get(SETTINGS, "default_profile")?.trim();
        (!value.is_empty()).then(|| Setting::new(value, format!("default_profile in {shown}")))
    };
    let named = configured.or_else(default);
    let is_named = named.is_some();
    let profile = named.unwrap_or_else(|| Setting::new(FALLBACK, shown.as_str()));
    let name = profile.value.clone();
    let section = file.sections.get(&name);
    let section = section.filter(|section| !section.is_empty());
    if section.is_none() && !is_named {
        return Ok(());
    }
    settings.fill(Attribute::Profile, profile);
    if name == SETTINGS {
        return Err(settings.explain(format!(
            "resolve: {shown}: {SETTINGS} is a reserved section name and cannot be used as a profile"
        )));
    }
    let Some(section) = section else {
        let mut others: Vec<&str> = file.sections.keys().map(String::as_str).collect();
        others.retain(|other| *other != SETTINGS && *other != name);
        others.sort_unstable();
        let text = format!("resolve: {shown} has no {name} profile configured");
        let hint = format!("Profiles there are: {}", others.join(", "));
        return Err(settings.explain(text).with_hint(hint));
    };
    for attribute in Attribute::all() {
        for key in attribute.names() {
            if let Some(value) = section.get(key) {
                let from = format!("profile {name} in {shown} ({key})");
                settings.fill(attribute, Setting::new(value, from));
            }
        }
    }
    Ok(())
}

fn path(settings: &Settings) -> Option<PathBuf> {
    let home = ["HOME", "USERPROFILE"]
        .iter()
        .find_map(|&name| settings.vars.get(name).filter(|home| !home.is_empty()));
    let Some(path) = settings.value(Attribute::ConfigFile) else {
        return Some(Path::new(home?).join(".databrickscfg"));
    };
    Some(match (path.strip_prefix('~'), home) {
        (Some(""), Some(home)) => PathBuf::from(home),
        (Some(rest), Some(home)) if rest.starts_with('/') => Path::new(home).join(&rest[1..]),
        _ => PathBuf::from(path),
    })
}

#[derive(Debug, Default, PartialEq)]
struct Ini {
    sections: HashMap<String, HashMap<String, String>>,
}

impl Ini {
    fn get(&self, section: &str, key: &str) -> Option<&str> {
        Some(self.sections.get(section)?.get(key)?.as_str())
    }

    /// Errors are a line number and the mistake, without the line, which may contain a secret.
    fn parse(text: &str) -> Result<Self, (usize, &'static str)> {
        let mut ini = Self::default();
        let mut section = FALLBACK.to_owned();
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut lines = text.lines().enumerate();
        while let Some((index, line)) = lines.next() {
            let number = index + 1;
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            if let Some(rest) = line.strip_prefix('[') {
                let (name, _) = rest
                    .rsplit_once(']')
                    .ok_or((number, "the section is not closed"))?;
                section = name.trim().to_owned();
                if section.is_empty() {
                    return Err((number, "the section has no name"));
                }
                ini.sections.entry(section.clone()).or_default();
                continue;
            }
            let at = line
                .find(['=', ':'])
                .ok_or((number, "there is no `=` between a key and its value"))?;
            let key = line[..at].trim().trim_matches(['"', '`']).to_lowercase();
            if key.is_empty() {
                return Err((number, "the key has no name"));
            }
            let mut value = line[at + 1..].trim().to_owned();
            while let Some(start) = value.strip_suffix('\\') {
                value = start.to_owned();
                let Some((_, next)) = lines.next() else { break };
                value.push_str(next.trim());
            }
            let values = ini.sections.entry(section.clone()).or_default();
            values.insert(key, bare(&value).to_owned());
        }
        Ok(ini)
    }
}

/// A value without its comment and its quotes.
fn bare(value: &str) -> &str {
    let end = value.find(" #").or_else(|| value.find(" ;"));
    let value = value[..end.unwrap_or(value.len())].trim();
    for quote in ['"', '\'', '`'] {
        let inner = value
            .strip_prefix(quote)
            .and_then(|value| value.strip_suffix(quote));
        if let Some(inner) = inner {
            return inner;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_by_the_official_go_tools() {
        for (text, expected) in [
            ("[a]\nhost = \"https://q\"", "https://q"),
            ("[a]\nhost = 'abc'", "abc"),
            ("[a]\nhost = abc # c", "abc"),
            ("[a]\nhost = abc ; c", "abc"),
            ("[a]\nhost = abc ; c # d", "abc ; c"),
            ("[a]\nhost = \"abc\" # c", "abc"),
            ("[a]\nhost = abc#d", "abc#d"),
            ("[a]\nHOST = abc", "abc"),
            ("[a]\nhost: x", "x"),
            ("[a]\nhost: https://x", "https://x"),
            ("[a]\nhost = %Y#X$Z", "%Y#X$Z"),
            ("[a]\nhost = ab\\\n   cd", "abcd"),
            ("[a]\nhost = 1\n[b]\nhost = 2\n[a]\nhost = 3", "3"),
            ("; full line\n# another\n[ a ]\n\thost=abc\r\n", "abc"),
            ("\u{feff}[a]\nhost=abc", "abc"),
            ("[a]\nhost = \"", "\""),
            ("[a]\nhost =", ""),
        ] {
            let ini = Ini::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error:?}"));
            assert_eq!(ini.get("a", "host"), Some(expected), "{text:?}");
        }
        let bare_keys = Ini::parse("host = abc").expect("keys before any section");
        assert_eq!(bare_keys.get("DEFAULT", "host"), Some("abc"));
    }

    #[test]
    fn the_error_of_an_invalid_file_has_the_line_number_and_not_the_line() {
        for (text, line) in [
            ("[a]\nhush-hush", 2),
            ("[a", 1),
            ("[]", 1),
            ("[a]\n\n= hush-hush", 3),
        ] {
            let (number, what) = Ini::parse(text).expect_err(text);
            assert_eq!(number, line, "{text:?}");
            assert!(!what.contains("hush"), "{what}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_file_is_read_or_rejected_without_a_panic(text in "(?s).{0,200}") {
            let _ = Ini::parse(&text);
        }

        #[test]
        fn a_plain_value_is_read_unchanged(
            section in "[a-zA-Z0-9._-]{1,20}",
            key in "[a-z_]{1,20}",
            value in "[a-zA-Z0-9:/._=-]{0,40}",
        ) {
            let ini = Ini::parse(&format!("[{section}]\n{key} = {value}\n"));
            let ini = ini.expect("plain text");
            proptest::prop_assert_eq!(ini.get(&section, &key), Some(value.as_str()));
        }
    }
}
