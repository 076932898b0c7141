//! The URL and the token as text.

use std::error::Error;

use lakebase_core::{Lakebase, Target};
use serde_json::json;
use url::Url;

use crate::{args, roots};

/// Returns the URL with a password and everything else that a login needs, or with a masked password.
pub(crate) async fn url(
    wanted: &args::Target,
    with_password: bool,
) -> Result<String, Box<dyn Error>> {
    let config = wanted.config()?;
    let lakebase = Lakebase::new(config.clone())?;
    let target = lakebase.target().await?;
    if !with_password {
        return Ok(url_of(&target, Reader::Driver, Some("***"), None)?.into());
    }
    let roots = roots::file(&config, &target)?;
    let credential = lakebase.credential().await?;
    let password = Some(credential.expose());
    Ok(url_of(&target, Reader::Driver, password, roots.as_deref())?.into())
}

/// The program that parses a URL.
#[derive(Clone, Copy)]
pub(crate) enum Reader {
    /// libpq or sqlx.
    Driver,
    /// These crates, which add the search path and always verify the name.
    Lakebase,
}

/// Builds the URL for this parser. `roots` is the path of a file.
pub(crate) fn url_of(
    target: &Target,
    reader: Reader,
    password: Option<&str>,
    roots: Option<&str>,
) -> Result<Url, Box<dyn Error>> {
    let host = match target.host().contains(':') {
        true => format!("[{}]", target.host()),
        false => target.host().to_owned(),
    };
    let mut url = Url::parse(&format!("postgresql://{host}:{}", target.port()))?;
    let odd = |()| "cannot build a URL from the host, user and password";
    // The setters do not encode a percent sign.
    url.set_username(&percent_encoded(target.user()))
        .map_err(odd)?;
    let password = password.map(percent_encoded);
    url.set_password(password.as_deref()).map_err(odd)?;
    url.set_path(&percent_encoded(target.database()));
    let mut query = vec![("sslmode", sslmode(target).to_owned())];
    if let Some(roots) = roots {
        query.push(("sslrootcert", roots.to_owned()));
    }
    match (reader, target.startup_options(), target.hostaddr()) {
        (Reader::Driver, Some(options), _) => query.push(("options", options)),
        (Reader::Lakebase, _, Some(address)) => query.push(("hostaddr", address.to_string())),
        _ => {}
    }
    let query: Vec<String> = query
        .into_iter()
        .map(|(name, value)| format!("{name}={}", percent_encoded(&value)))
        .collect();
    url.set_query(Some(&query.join("&")));
    Ok(url)
}

/// The value of libpq's `sslmode`.
fn sslmode(target: &Target) -> &'static str {
    match target.uses_tls() {
        true => "verify-full",
        false => "disable",
    }
}

/// Encodes text for the path or query of a URL. libpq does not decode a plus sign as a space.
fn percent_encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes())
        .collect::<String>()
        .replace('+', "%20")
}

pub(crate) async fn token(lakebase: &Lakebase, as_json: bool) -> Result<String, Box<dyn Error>> {
    if !lakebase.uses_tokens() {
        let text = "PGPASSWORD is set: a native role has no token";
        return Err(lakebase_core::Error::config(text).into());
    }
    let credential = lakebase.credential().await?;
    if !as_json {
        return Ok(format!("{}\n", credential.expose()));
    }
    let expires_at = credential
        .expires_at()
        .map(jiff::Timestamp::try_from)
        .transpose()?;
    let expires_at = expires_at
        .map(|at| at.round(jiff::Unit::Second))
        .transpose()?;
    let text = json!({
        "token": credential.expose(),
        "expires_at": expires_at.map(|at| at.to_string()),
        "user": lakebase.target().await?.user(),
    });
    Ok(format!("{text:#}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_characters_in_a_url_are_encoded() {
        for (text, encoded) in [
            ("my db+x", "my%20db%2Bx"),
            (
                "-c search_path=\"a b\",public",
                "-c%20search_path%3D%22a%20b%22%2Cpublic",
            ),
            ("/tmp/a&b?c#d", "%2Ftmp%2Fa%26b%3Fc%23d"),
            ("100%41", "100%2541"),
        ] {
            assert_eq!(percent_encoded(text), encoded);
        }
    }
}
