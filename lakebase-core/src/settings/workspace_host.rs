//! The workspace's URL, normalised as the official clients do.

use url::Url;

use super::attributes::{Attribute, Attributes};
use super::setting::Setting;
use crate::error::Error;
use crate::settings::host_name::is_loopback;

const EXPECTED: &str = "a workspace URL such as https://dbc-a1b2c3d4-e5f6.cloud.databricks.com";

/// The base URL: `https` unless said otherwise, path and query dropped. Plain `http` would show
/// secrets, so only loopback may have it.
///
/// Browsers show URLs with the ids of workspace and account; these fill what is unset.
pub(crate) fn normalise(attributes: &mut Attributes) -> Result<Option<Url>, Error> {
    let Some(host) = attributes.get(Attribute::Host).cloned() else {
        return Ok(None);
    };
    let mut url = parse(&host)?;
    for (attribute, value) in promoted(&url) {
        attributes.fill(
            attribute,
            Setting::new(value, format!("{} (query)", host.from)),
        );
    }
    url.set_path("/");
    url.set_query(None);
    url.set_fragment(None);
    let shown = Setting::new(url.as_str().trim_end_matches('/'), host.from);
    attributes.replace(Attribute::Host, shown);
    Ok(Some(url))
}

fn parse(host: &Setting) -> Result<Url, Error> {
    let text = host.no_secret()?.value.trim();
    let with_scheme = if text.contains("://") {
        text.to_owned()
    } else {
        format!("https://{text}")
    };
    let url = Url::parse(&with_scheme).map_err(|error| match error {
        url::ParseError::EmptyHost => Error::config(format!("{}: no host configured", host.from))
            .with_hint(format!("Set it to {EXPECTED}")),
        _ => host.wrong(EXPECTED),
    })?;
    let name = url
        .host_str()
        .filter(|name| !name.is_empty())
        .ok_or_else(|| host.wrong(EXPECTED))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::config(format!(
            "{} holds a user or password",
            host.from
        )));
    }
    match url.scheme() {
        "https" => {}
        "http" if is_loopback(name) => {}
        "http" => {
            return Err(host
                .wrong("protected: http would send secrets in clear")
                .with_hint("Use https; http is for loopback hosts only"));
        }
        _ => return Err(host.wrong(EXPECTED)),
    }
    if is_account_console(name) {
        return Err(host.wrong("a workspace: it is the account console").with_hint(
            "Lakebase lives in a workspace; its URL is in the browser's address bar when you are in it",
        ));
    }
    Ok(url)
}

fn is_account_console(name: &str) -> bool {
    name.starts_with("accounts.") || name.starts_with("accounts-dod.")
}

/// `w` is the newer name and may be of any form; the others must be numbers, or they are something
/// else's.
fn promoted(url: &Url) -> Vec<(Attribute, String)> {
    let find = |name: &str| {
        let mut pairs = url.query_pairs();
        let (_, value) = pairs.find(|(key, value)| key == name && !value.is_empty())?;
        let printable = value.chars().all(|c| c.is_ascii_graphic());
        printable.then(|| value.into_owned())
    };
    let number = |name| find(name).filter(|id: &String| id.parse::<i64>().is_ok());
    let workspace = find("w")
        .or_else(|| number("o"))
        .or_else(|| number("workspace_id"));
    let account = find("a").or_else(|| find("account_id"));
    [
        (Attribute::WorkspaceId, workspace),
        (Attribute::AccountId, account),
    ]
    .into_iter()
    .filter_map(|(attribute, value)| Some((attribute, value?)))
    .collect()
}
