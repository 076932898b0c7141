//! `default_profile` of the settings section, and the fallback.

use std::ops::RangeInclusive;

use crate::home::Home;
use crate::{Pairs, configured, setting};

pub(crate) const VECTORS: &[RangeInclusive<u16>] = &[32..=41];

const MINE: &str = "[my-workspace]\nhost = https://mine\ntoken = t\n";
const OTHERS: &str =
    "[other]\nhost = https://other\ntoken = t\n[DEFAULT]\nhost = https://default\ntoken = t\n";

#[test]
fn the_default_profile_is_the_one_that_the_settings_name() {
    let settings = |name: &str| format!("[__settings__]\ndefault_profile = {name}\n{MINE}");
    // Number, file, explicit attributes, and the host with its profile, or the error.
    type Expected = Result<(&'static str, &'static str), &'static str>;
    let cases: Vec<(u16, String, Pairs<'_>, Expected)> = vec![
        (
            32,
            settings("my-workspace"),
            &[],
            Ok(("https://mine", "my-workspace")),
        ),
        (
            33,
            settings("my-workspace") + OTHERS,
            &[],
            Ok(("https://mine", "my-workspace")),
        ),
        (
            34,
            format!("{MINE}{OTHERS}"),
            &[],
            Ok(("https://default", "DEFAULT")),
        ),
        (
            35,
            format!("[__settings__]\nx = 1\n{OTHERS}"),
            &[],
            Ok(("https://default", "DEFAULT")),
        ),
        (
            36,
            settings("my-workspace"),
            &[("profile", "__settings__")],
            Err("__settings__ is a reserved section name"),
        ),
        (
            37,
            settings("__settings__"),
            &[],
            Err("__settings__ is a reserved section name"),
        ),
        (
            38,
            settings("my-workspace") + OTHERS,
            &[("profile", "other")],
            Ok(("https://other", "other")),
        ),
        (
            39,
            settings("deleted-profile"),
            &[],
            Err("has no deleted-profile profile configured"),
        ),
        (
            40,
            settings("DEFAULT") + OTHERS,
            &[],
            Ok(("https://default", "DEFAULT")),
        ),
        (
            41,
            settings("my-workspace"),
            &[("host", "https://explicit")],
            Err("Config: host=https://explicit"),
        ),
        (
            41,
            settings("my-workspace"),
            &[("token", "t")],
            Err("Config: token=***"),
        ),
    ];
    for (number, file, explicit, expected) in cases {
        let home = Home::with_profiles(&file);
        let outcome = configured(explicit, &[("HOME", home.as_str())]);
        match (expected, outcome) {
            (Ok((host, profile)), Ok(config)) => {
                assert_eq!(setting(&config, "host").as_deref(), Some(host), "{number}");
                let found = setting(&config, "profile");
                assert_eq!(found.as_deref(), Some(profile), "{number}");
            }
            (Err(text), Err(error)) => {
                assert!(error.to_string().contains(text), "{number}: {error}");
                let is_unread = !error.to_string().contains("my-workspace");
                assert!(number != 41 || is_unread, "{number}: {error}");
            }
            (expected, outcome) => panic!("{number}: {expected:?}, {outcome:?}"),
        }
    }
}

#[test]
fn a_later_source_never_replaces_what_an_earlier_one_has_set() {
    let home = Home::with_profiles(MINE);
    let vars = [
        ("HOME", home.as_str()),
        ("DATABRICKS_CONFIG_PROFILE", "my-workspace"),
        ("DATABRICKS_HOST", "https://env"),
    ];
    let config = configured(&[], &vars).expect("a configuration");
    assert_eq!(setting(&config, "host").as_deref(), Some("https://env"));
    // An empty value counts as unset, in code as well.
    let config = configured(&[("host", "")], &vars).expect("a configuration");
    assert_eq!(setting(&config, "host").as_deref(), Some("https://env"));
}

#[test]
fn the_file_may_be_elsewhere_and_missing_is_said() {
    let home = Home::new();
    std::fs::write(home.path().join("cfg"), MINE).expect("a file");
    let vars = |file| {
        [
            ("HOME", home.as_str()),
            ("DATABRICKS_CONFIG_PROFILE", "my-workspace"),
            ("DATABRICKS_CONFIG_FILE", file),
        ]
    };
    configured(&[], &vars("~/cfg")).expect("the file in the home folder");
    let error = configured(&[], &vars("~/nothing")).expect_err("no file");
    let expected = format!("there is no file {}/nothing", home.as_str());
    assert!(error.to_string().contains(&expected), "{error}");
    let error = configured(&[("profile", "p")], &[]).expect_err("no home");
    assert!(error.to_string().contains("HOME is not set"), "{error}");
    let error = configured(&[], &vars("~")).expect_err("a folder");
    assert!(error.to_string().contains("cannot read"), "{error}");
}
