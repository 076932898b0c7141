//! Proxies, as the environment names them.

use reqwest::{NoProxy, Proxy};

use crate::Error;
use crate::config::attributes::Vars;

/// What is on this machine or next to it (the metadata service of a cloud) is never asked through a
/// proxy.
const NEVER: &str = "localhost,127.0.0.0/8,::1,169.254.169.254";

/// `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in lower case, too.
pub(super) fn from_vars(vars: &Vars) -> Result<Vec<Proxy>, Error> {
    let find = |name: &str| {
        [name.to_lowercase(), name.to_owned()]
            .into_iter()
            .find_map(|name| {
                let value = vars.get(&name).filter(|value| !value.trim().is_empty())?;
                Some((name, value.trim()))
            })
    };
    let exceptions = match find("NO_PROXY") {
        Some((_, exceptions)) => format!("{exceptions},{NEVER}"),
        None => NEVER.to_owned(),
    };
    let mut proxies = Vec::new();
    type Make = fn(&str) -> reqwest::Result<Proxy>;
    let kinds: [(&str, Make); 3] = [
        ("HTTPS_PROXY", |url| Proxy::https(url)),
        ("HTTP_PROXY", |url| Proxy::http(url)),
        ("ALL_PROXY", |url| Proxy::all(url)),
    ];
    for (name, make) in kinds {
        let Some((name, url)) = find(name) else {
            continue;
        };
        // Its text may hold a password, and so may its error's.
        let wrong = || {
            Error::config(format!("{name} is not the URL of an HTTP proxy"))
                .with_hint("Write it as http://host:port; SOCKS is not supported")
        };
        let scheme = url.split_once("://").map_or("http", |(scheme, _)| scheme);
        if !matches!(scheme.to_lowercase().as_str(), "http" | "https") {
            return Err(wrong());
        }
        let proxy = make(url).map_err(|_| wrong())?;
        proxies.push(proxy.no_proxy(NoProxy::from_string(&exceptions)));
    }
    Ok(proxies)
}
