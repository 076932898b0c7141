//! The URL of the workspace, normalised as in the official clients.

use url::Url;

use super::attributes::Attribute;
use super::resolved::Settings;
use super::setting::Setting;
use crate::error::Error;
use crate::settings::host_name::is_loopback;

const EXPECTED: &str = "a workspace URL such as https://dbc-a1b2c3d4-e5f6.cloud.databricks.com";

/// Sets the base URL, with `https` by default and without path and query. Plain `http` is for loopback only.
///
/// A URL from a browser has the ids of workspace and account in its query, which fill unset attributes. `w` may have any
/// form; `o` and `workspace_id` count only if they are numbers.
pub(crate) fn normalise(settings: &mut Settings) -> Result<(), Error> {
    let Some(host) = settings.get(Attribute::Host).cloned() else {
        return Ok(());
    };
    let mut url = parse(&host)?;
    let find = |name: &str| {
        let mut pairs = url.query_pairs();
        let (_, value) = pairs.find(|(key, value)| key == name && !value.is_empty())?;
        let is_printable = value.chars().all(|c| c.is_ascii_graphic());
        is_printable.then(|| value.into_owned())
    };
    let number = |name| find(name).filter(|id| id.parse::<i64>().is_ok());
    let workspace = find("w")
        .or_else(|| number("o"))
        .or_else(|| number("workspace_id"));
    let account = find("a").or_else(|| find("account_id"));
    let from = format!("{} (query)", host.from);
    for (attribute, id) in [
        (Attribute::WorkspaceId, workspace),
        (Attribute::AccountId, account),
    ] {
        settings.fill(
            attribute,
            Setting::new(id.unwrap_or_default(), from.as_str()),
        );
    }
    url.set_path("/");
    url.set_query(None);
    url.set_fragment(None);
    let shown = Setting::new(url.as_str().trim_end_matches('/'), host.from.as_str());
    settings.replace(Attribute::Host, shown);
    settings.host = Some(url);
    Ok(())
}

fn parse(host: &Setting) -> Result<Url, Error> {
    let text = host.no_secret()?.value.trim();
    let with_scheme = match text.contains("://") {
        true => text.to_owned(),
        false => format!("https://{text}"),
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
            "{} contains a user or password",
            host.from
        )));
    }
    match url.scheme() {
        "https" => {}
        "http" if is_loopback(name) => {}
        "http" => {
            return Err(host
                .wrong("an https URL: http would send secrets in plaintext")
                .with_hint("http is for loopback hosts only"));
        }
        _ => return Err(host.wrong(EXPECTED)),
    }
    if name.starts_with("accounts.") || name.starts_with("accounts-dod.") {
        return Err(host.wrong("a workspace: it is the account console").with_hint(
            "Set it to the URL of a workspace, as in the browser's address bar inside of the workspace",
        ));
    }
    Ok(url)
}
