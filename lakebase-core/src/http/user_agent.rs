//! Who we say we are, in the form that Databricks asks of its clients.

use std::fmt;

use crate::error::Error;
use crate::settings::attributes::Vars;

/// `key/value` pairs, the application's own first.
#[derive(Clone, Debug)]
pub(crate) struct UserAgent {
    pairs: Vec<(String, String)>,
}

/// Build services, by the variables that tell them. The first that fits counts.
const CI: &[(&str, &[(&str, &str)])] = &[
    ("aws-code-build", &[("CODEBUILD_BUILD_ARN", "")]),
    ("azure-devops", &[("TF_BUILD", "True")]),
    ("bitbucket", &[("BITBUCKET_BUILD_NUMBER", "")]),
    ("circle", &[("CIRCLECI", "true")]),
    ("github", &[("GITHUB_ACTIONS", "true")]),
    ("gitlab", &[("GITLAB_CI", "true")]),
    (
        "google-cloud-build",
        &[
            ("PROJECT_ID", ""),
            ("BUILD_ID", ""),
            ("PROJECT_NUMBER", ""),
            ("LOCATION", ""),
        ],
    ),
    ("jenkins", &[("JENKINS_URL", "")]),
    ("tf-cloud", &[("TFC_RUN_ID", "")]),
    ("travis", &[("TRAVIS", "true")]),
];

impl UserAgent {
    /// `product` and `extras` come from the application, the rest from the environment.
    pub(crate) fn new(
        product: Option<&(String, String)>,
        extras: &[(String, String)],
        vars: &Vars,
    ) -> Result<Self, Error> {
        let ours = (
            "lakebase-core".to_owned(),
            env!("CARGO_PKG_VERSION").to_owned(),
        );
        let mut pairs = Vec::new();
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
            pairs.push((name.clone(), version.clone()));
        }
        pairs.push(ours);
        let rust = env!("CARGO_PKG_RUST_VERSION");
        pairs.push(("rust".to_owned(), rust.to_owned()));
        pairs.push(("os".to_owned(), std::env::consts::OS.to_owned()));
        for (key, value) in extras {
            if !is_word(key) || !is_word(value) {
                return Err(Error::config(format!(
                    "user_agent_extra: {key:?}/{value:?} may hold letters, digits and _.+- only"
                )));
            }
            let pair = (key.clone(), value.clone());
            if !pairs.contains(&pair) {
                pairs.push(pair);
            }
        }
        pairs.extend(from_vars(vars));
        Ok(Self { pairs })
    }

    /// With the sign-in in use.
    pub(crate) fn with_auth(&self, auth_type: &str) -> Self {
        let mut agent = self.clone();
        let at = agent
            .pairs
            .iter()
            .position(|(key, _)| key == "os")
            .map_or(agent.pairs.len(), |os| os + 1);
        agent
            .pairs
            .insert(at, ("auth".to_owned(), auth_type.to_owned()));
        agent
    }
}

fn from_vars(vars: &Vars) -> Vec<(String, String)> {
    let find = |name: &str| vars.get(name).filter(|value| !value.is_empty());
    let mut pairs = Vec::new();
    let upstream = find("DATABRICKS_SDK_UPSTREAM").zip(find("DATABRICKS_SDK_UPSTREAM_VERSION"));
    if let Some((name, version)) = upstream {
        pairs.push(("upstream".to_owned(), word(name)));
        pairs.push(("upstream-version".to_owned(), word(version)));
    }
    if let Some(version) = find("DATABRICKS_RUNTIME_VERSION") {
        pairs.push(("runtime".to_owned(), word(version)));
    }
    let fits = |(name, expected): &(&str, &str)| {
        find(name).is_some_and(|value| expected.is_empty() || value == expected)
    };
    if let Some((name, _)) = CI.iter().find(|(_, signs)| signs.iter().all(fits)) {
        pairs.push(("cicd".to_owned(), (*name).to_owned()));
    }
    pairs
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_word_char)
}

fn is_word_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_.+-".contains(c)
}

/// Foreign text made into one word.
fn word(text: &str) -> String {
    let replaced = |c| if is_word_char(c) { c } else { '-' };
    text.chars().map(replaced).collect()
}

/// Numbers with dots, and whatever semantic versions have behind them.
fn is_version(text: &str) -> bool {
    let numbers = text.split(['-', '+']).next().unwrap_or_default();
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    is_word(text) && numbers.split('.').all(is_number)
}

impl fmt::Display for UserAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.pairs.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{key}/{value}")?;
        }
        Ok(())
    }
}
