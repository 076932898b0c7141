//! A connection as text.

use std::error::Error;

use lakebase_core::{Lakebase, Target};
use serde_json::json;
use url::Url;

/// With the password, or with stars in its place.
pub(crate) async fn url(
    lakebase: &Lakebase,
    with_password: bool,
) -> Result<String, Box<dyn Error>> {
    let target = lakebase.target().await?;
    let credential = match with_password {
        true => Some(lakebase.credential().await?),
        false => None,
    };
    let password = credential.as_ref().map(|credential| credential.expose());
    Ok(url_of(&target, password, None)?.into())
}

/// What parsers of libpq and sqlx agree on. `roots` is a file.
pub(crate) fn url_of(
    target: &Target,
    password: Option<&str>,
    roots: Option<&str>,
) -> Result<Url, Box<dyn Error>> {
    let host = match target.host().contains(':') {
        true => format!("[{}]", target.host()),
        false => target.host().to_owned(),
    };
    let mut url = Url::parse(&format!("postgresql://{host}:{}", target.port()))?;
    let odd = |()| "the parts do not make a URL";
    url.set_username(target.user()).map_err(odd)?;
    url.set_password(Some(password.unwrap_or("***")))
        .map_err(odd)?;
    url.set_path(&percent_encoded(target.database()));
    let mut query = vec![(
        "sslmode",
        if target.uses_tls() {
            "verify-full"
        } else {
            "disable"
        }
        .to_owned(),
    )];
    if let Some(roots) = roots {
        query.push(("sslrootcert", roots.to_owned()));
    }
    if let Some(options) = search_path(target) {
        query.push(("options", options));
    }
    let query: Vec<String> = query
        .into_iter()
        .map(|(name, value)| format!("{name}={}", percent_encoded(&value)))
        .collect();
    url.set_query(Some(&query.join("&")));
    Ok(url)
}

/// Startup options that put the schema on the search path.
pub(crate) fn search_path(target: &Target) -> Option<String> {
    let path = target.search_path()?;
    // A backslash protects a space there.
    let path = path.replace('\\', r"\\").replace(' ', r"\ ");
    Some(format!("-c search_path={path}"))
}

/// For a path or a query of a URL. Not as a form does it: to libpq a plus sign is one.
fn percent_encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes())
        .collect::<String>()
        .replace('+', "%20")
}

pub(crate) async fn token(lakebase: &Lakebase, as_json: bool) -> Result<String, Box<dyn Error>> {
    if !lakebase.uses_tokens() {
        return Err("PGPASSWORD is set: a native role has no token".into());
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
    fn what_a_url_gives_a_meaning_to_is_encoded() {
        for (text, encoded) in [
            ("my db+x", "my%20db%2Bx"),
            (
                "-c search_path=\"a b\",public",
                "-c%20search_path%3D%22a%20b%22%2Cpublic",
            ),
            ("/tmp/a&b?c#d", "%2Ftmp%2Fa%26b%3Fc%23d"),
        ] {
            assert_eq!(percent_encoded(text), encoded);
        }
    }
}
