//! Which profile is the default.

use crate::home::Home;
use crate::{Pairs, configured, setting};

const MINE: &str = "[my-workspace]\nhost = https://mine\ntoken = t\n";
const OTHERS: &str =
    "[other]\nhost = https://other\ntoken = t\n[DEFAULT]\nhost = https://default\ntoken = t\n";

#[test]
fn the_settings_section_names_the_default_profile() {
    let settings = |name: &str| format!("[__settings__]\ndefault_profile = {name}\n{MINE}");
    // File, explicit attributes, and the host with its profile or the error.
    type Expected = Result<(&'static str, &'static str), &'static str>;
    let cases: Vec<(String, Pairs<'_>, Expected)> = vec![
        (
            settings("my-workspace"),
            &[],
            Ok(("https://mine", "my-workspace")),
        ),
        (
            settings("my-workspace") + OTHERS,
            &[],
            Ok(("https://mine", "my-workspace")),
        ),
        (
            format!("{MINE}{OTHERS}"),
            &[],
            Ok(("https://default", "DEFAULT")),
        ),
        (
            format!("[__settings__]\nx = 1\n{OTHERS}"),
            &[],
            Ok(("https://default", "DEFAULT")),
        ),
        (
            settings("my-workspace"),
            &[("profile", "__settings__")],
            Err("__settings__ is a reserved section name"),
        ),
        (
            settings("__settings__"),
            &[],
            Err("__settings__ is a reserved section name"),
        ),
        (
            settings("my-workspace") + OTHERS,
            &[("profile", "other")],
            Ok(("https://other", "other")),
        ),
        (
            settings("deleted-profile"),
            &[],
            Err("has no deleted-profile profile configured"),
        ),
        (
            settings("DEFAULT") + OTHERS,
            &[],
            Ok(("https://default", "DEFAULT")),
        ),
        // With a host or a credential, the file is not read.
        (
            settings("my-workspace"),
            &[("host", "https://explicit")],
            Err("Config: host=https://explicit. Set elsewhere: host from attribute host"),
        ),
        (
            settings("my-workspace"),
            &[("token", "t")],
            Err("Config: token=***. Set elsewhere: token from attribute token"),
        ),
    ];
    for (file, explicit, expected) in cases {
        let home = Home::with_profiles(&file);
        let outcome = configured(explicit, &[("HOME", home.as_str())]);
        match (expected, outcome) {
            (Ok((host, profile)), Ok(config)) => {
                assert_eq!(setting(&config, "host").as_deref(), Some(host), "{file}");
                let found = setting(&config, "profile");
                assert_eq!(found.as_deref(), Some(profile), "{file}");
            }
            (Err(text), Err(error)) => {
                assert!(error.to_string().contains(text), "{error}");
            }
            (expected, outcome) => panic!("{file}: {expected:?}, {outcome:?}"),
        }
    }
}

#[test]
fn a_later_source_never_replaces_a_setting_of_an_earlier_one() {
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
fn another_profile_file_can_be_named_and_a_missing_one_is_reported() {
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
