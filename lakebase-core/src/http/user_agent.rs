//! The user agent, in the form that Databricks requires.

use std::env::consts::OS;
use std::fmt;

use crate::error::Error;
use crate::settings::attributes::Vars;

/// Parts of the form `key/value`, the application's first.
#[derive(Clone, Debug)]
pub(crate) struct UserAgent(Vec<String>);

/// Build services, recognised by variables that are set, or set to this value. The first match counts.
const CI: &[(&str, &[&str])] = &[
    ("aws-code-build", &["CODEBUILD_BUILD_ARN"]),
    ("azure-devops", &["TF_BUILD=True"]),
    ("bitbucket", &["BITBUCKET_BUILD_NUMBER"]),
    ("circle", &["CIRCLECI=true"]),
    ("github", &["GITHUB_ACTIONS=true"]),
    ("gitlab", &["GITLAB_CI=true"]),
    (
        "google-cloud-build",
        &["PROJECT_ID", "BUILD_ID", "PROJECT_NUMBER", "LOCATION"],
    ),
    ("jenkins", &["JENKINS_URL"]),
    ("tf-cloud", &["TFC_RUN_ID"]),
    ("travis", &["TRAVIS=true"]),
];

impl UserAgent {
    /// `product` and `extras` come from the application, the rest from the environment.
    pub(crate) fn new(
        product: Option<&(String, String)>,
        extras: &[(String, String)],
        vars: &Vars,
    ) -> Result<Self, Error> {
        let mut words = Vec::new();
        if let Some((name, version)) = product {
            if !is_word(name) {
                return Err(Error::config(format!(
                    "product: {name:?} is not a product name (letters, digits and _.+-)"
                )));
            }
            if !is_version(version) {
                return Err(Error::config(format!(
                    "product: {version:?} is not a version such as 1.2.3"
                )));
            }
            words.push(format!("{name}/{version}"));
        }
        words.push(concat!("lakebase-core/", env!("CARGO_PKG_VERSION")).to_owned());
        words.push(concat!("rust/", env!("CARGO_PKG_RUST_VERSION")).to_owned());
        words.push(format!("os/{OS}"));
        for (key, value) in extras {
            if !is_word(key) || !is_word(value) {
                return Err(Error::config(format!(
                    "user_agent_extra: {key:?}/{value:?} may hold letters, digits and _.+- only"
                )));
            }
            let word = format!("{key}/{value}");
            if !words.contains(&word) {
                words.push(word);
            }
        }
        words.extend(from_vars(vars));
        Ok(Self(words))
    }

    /// With the strategy of the authentication.
    pub(crate) fn with_auth(&self, auth_type: &str) -> String {
        let mut words = self.0.clone();
        let os = words.iter().position(|word| word.starts_with("os/"));
        words.insert(
            os.map_or(words.len(), |os| os + 1),
            format!("auth/{auth_type}"),
        );
        words.join(" ")
    }
}

fn from_vars(vars: &Vars) -> Vec<String> {
    let find = |name: &str| vars.get(name).filter(|value| !value.is_empty());
    let mut words = Vec::new();
    let upstream = find("DATABRICKS_SDK_UPSTREAM").zip(find("DATABRICKS_SDK_UPSTREAM_VERSION"));
    if let Some((name, version)) = upstream {
        words.push(format!("upstream/{}", to_word(name)));
        words.push(format!("upstream-version/{}", to_word(version)));
    }
    if let Some(version) = find("DATABRICKS_RUNTIME_VERSION") {
        words.push(format!("runtime/{}", to_word(version)));
    }
    let is_there = |sign: &&str| match sign.split_once('=') {
        Some((name, expected)) => find(name).is_some_and(|value| value == expected),
        None => find(sign).is_some(),
    };
    if let Some((name, _)) = CI.iter().find(|(_, signs)| signs.iter().all(is_there)) {
        words.push(format!("cicd/{name}"));
    }
    words
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_word_char)
}

fn is_word_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_.+-".contains(c)
}

/// Replaces characters that a word cannot have.
fn to_word(text: &str) -> String {
    text.replace(|c: char| !is_word_char(c), "-")
}

/// Numbers with dots, and the suffixes of semantic versions.
fn is_version(text: &str) -> bool {
    let numbers = text.split(['-', '+']).next().unwrap_or_default();
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    is_word(text) && numbers.split('.').all(is_number)
}

impl fmt::Display for UserAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" "))
    }
}
