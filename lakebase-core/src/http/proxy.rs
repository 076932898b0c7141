//! Proxies, as the environment names them. Exceptions follow Go's rules, which the official tools have;
//! spaces separate them as well.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;
use reqwest::Proxy;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use url::{Host, Url};

use crate::error::Error;
use crate::settings::attributes::Vars;
use crate::settings::host_name::is_loopback;

/// The metadata service of a cloud is next to this machine and never behind a proxy.
const METADATA_SERVICE: &str = "169.254.169.254";
/// For asking a proxy once more why it refuses.
const DIAGNOSIS_LIMIT: Duration = Duration::from_secs(2);

/// `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in lower case, too.
#[derive(Clone)]
pub(super) struct Proxies(Arc<Inner>);

struct Inner {
    https: Option<Named>,
    http: Option<Named>,
    exceptions: Vec<Exception>,
}

/// A proxy, and the variable that names it.
#[derive(Clone)]
pub(super) struct Named {
    variable: String,
    url: Url,
}

impl Proxies {
    pub(super) fn from_vars(vars: &Vars) -> Result<Self, Error> {
        let find = |name: &str| {
            [name.to_owned(), name.to_lowercase()]
                .into_iter()
                .find_map(|name| {
                    let value = vars.get(&name).filter(|value| !value.trim().is_empty())?;
                    Some((name, value.trim().to_owned()))
                })
        };
        let named = |name: &str| find(name).map(Named::parse).transpose();
        // Asked for only where it counts: desktops set it to a SOCKS proxy beside the others.
        let or_all = |name: &str| match named(name)? {
            Some(proxy) => Ok(Some(proxy)),
            None => named("ALL_PROXY"),
        };
        let exceptions = find("NO_PROXY").map(|(_, list)| list).unwrap_or_default();
        Ok(Self(Arc::new(Inner {
            https: or_all("HTTPS_PROXY")?,
            http: or_all("HTTP_PROXY")?,
            exceptions: exceptions
                .split([',', ' '])
                .filter_map(Exception::parse)
                .collect(),
        })))
    }

    /// The proxy for a URL, if there is one.
    pub(super) fn of(&self, url: &Url) -> Option<&Named> {
        let host = url.host_str()?.trim_matches(['[', ']']);
        let port = url.port_or_known_default()?;
        let proxy = match url.scheme() {
            "https" => self.0.https.as_ref(),
            _ => self.0.http.as_ref(),
        };
        let is_local = is_loopback(host) || host == METADATA_SERVICE;
        proxy.filter(|_| !is_local && !self.0.exceptions.iter().any(|e| e.covers(host, port)))
    }

    pub(super) fn into_reqwest(self) -> Proxy {
        Proxy::custom(move |url| self.of(url).map(|proxy| proxy.url.clone()))
    }
}

impl Named {
    /// The text may hold a password, so that no error repeats it.
    fn parse((variable, text): (String, String)) -> Result<Self, Error> {
        let with_scheme = match text.contains("://") {
            true => text,
            false => format!("http://{text}"),
        };
        Url::parse(&with_scheme)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .map(|url| Self {
                variable: variable.clone(),
                url,
            })
            .ok_or_else(|| {
                Error::config(format!("{variable} is not the URL of an HTTP proxy"))
                    .with_hint("Write it as http://host:port; SOCKS is not supported")
            })
    }

    /// Adds to a failure that the proxy may be the reason, and with which status it refused.
    pub(super) async fn blame(&self, error: Error, to: &Url) -> Error {
        let address = self.url.host_str().unwrap_or_default();
        let port = self.url.port_or_known_default().unwrap_or_default();
        let answer = match tokio::time::timeout(DIAGNOSIS_LIMIT, self.refusal(to)).await {
            Ok(Some(status)) => format!(" answers HTTP {status}"),
            _ => String::new(),
        };
        error.with_hint(format!(
            "The proxy {address}:{port} ({}){answer}: check it, or except the host in NO_PROXY",
            self.variable
        ))
    }

    /// The status with which it refuses a tunnel. The HTTP client does not report it.
    async fn refusal(&self, to: &Url) -> Option<u16> {
        if self.url.scheme() != "http" || to.scheme() != "https" {
            return None;
        }
        let proxy = (self.url.host_str()?, self.url.port_or_known_default()?);
        let to = format!("{}:{}", to.host_str()?, to.port_or_known_default()?);
        let mut request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n");
        if !self.url.username().is_empty() {
            let decode = |text| percent_decode_str(text).decode_utf8().ok();
            let user = decode(self.url.username())?;
            let password = decode(self.url.password().unwrap_or_default())?;
            let basic = STANDARD.encode(format!("{user}:{password}"));
            request.push_str(&format!("Proxy-Authorization: Basic {basic}\r\n"));
        }
        request.push_str("\r\n");
        let mut socket = BufReader::new(TcpStream::connect(proxy).await.ok()?);
        socket.write_all(request.as_bytes()).await.ok()?;
        let mut line = String::new();
        socket.read_line(&mut line).await.ok()?;
        let status = line.split(' ').nth(1)?.parse().ok()?;
        (!(200..300).contains(&status)).then_some(status)
    }
}

/// One entry of `NO_PROXY`.
#[derive(Debug)]
enum Exception {
    All,
    Network(IpAddr, u32),
    Address(IpAddr, Option<u16>),
    /// The name itself, and everything below it.
    Name(String, Option<u16>),
    /// Only what is below it.
    Below(String, Option<u16>),
}

impl Exception {
    fn parse(entry: &str) -> Option<Self> {
        let entry = entry.trim().to_lowercase();
        if entry == "*" {
            return Some(Self::All);
        }
        if let Some((address, bits)) = entry.split_once('/') {
            let (network, bits): (IpAddr, u32) = (address.parse().ok()?, bits.parse().ok()?);
            let width = if network.is_ipv4() { 32 } else { 128 };
            return (bits <= width).then_some(Self::Network(network, bits));
        }
        if let Ok(address) = entry.trim_matches(['[', ']']).parse() {
            return Some(Self::Address(address, None));
        }
        let (name, port) = match entry.rsplit_once(':') {
            Some((name, "")) => (name, None),
            Some((name, port)) => (name, Some(port.parse().ok()?)),
            None => (entry.as_str(), None),
        };
        if let Ok(address) = name.trim_matches(['[', ']']).parse() {
            return Some(Self::Address(address, port));
        }
        let name = name
            .strip_prefix('*')
            .filter(|rest| rest.starts_with('.'))
            .unwrap_or(name);
        match name.strip_prefix('.') {
            _ if name.is_empty() => None,
            Some(parent) => Some(Self::Below(ascii(parent)?, port)),
            None => Some(Self::Name(ascii(name)?, port)),
        }
    }

    fn covers(&self, host: &str, port: u16) -> bool {
        let host = host.trim_end_matches('.').to_lowercase();
        let is_port = |only: &Option<u16>| only.is_none_or(|only| only == port);
        let is_below = |parent: &str| {
            host.strip_suffix(parent)
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        };
        match self {
            Self::All => true,
            Self::Network(network, bits) => host
                .parse()
                .is_ok_and(|address| is_within(address, *network, *bits)),
            Self::Address(address, only) => host.parse() == Ok(*address) && is_port(only),
            Self::Name(name, only) => (host == *name || is_below(name)) && is_port(only),
            Self::Below(parent, only) => is_below(parent) && is_port(only),
        }
    }
}

/// A name as URLs have it.
fn ascii(name: &str) -> Option<String> {
    match Host::parse(name).ok()? {
        Host::Domain(name) => Some(name),
        Host::Ipv4(_) | Host::Ipv6(_) => None,
    }
}

fn is_within(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    let (address, network, width) = match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => (u128::from(a.to_bits()), u128::from(n.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(n)) => (a.to_bits(), n.to_bits(), 128),
        _ => return false,
    };
    let ignored = width - bits.min(width);
    ignored == 128 || address >> ignored == network >> ignored
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_follow_the_rules_of_the_official_tools() {
        for (no_proxy, url, proxied) in [
            ("", "https://a.corp.test", true),
            ("*", "https://a.corp.test", false),
            ("*.corp.test", "https://a.corp.test", false),
            ("*.corp.test", "https://a.b.corp.test", false),
            ("*.corp.test", "https://corp.test", true),
            (".corp.test", "https://a.corp.test", false),
            (".corp.test", "https://corp.test", true),
            ("corp.test", "https://corp.test", false),
            ("CORP.test", "https://a.Corp.test", false),
            ("corp.test", "https://acorp.test", true),
            ("corp.test:8443", "https://corp.test:8443", false),
            ("corp.test:8443", "https://corp.test", true),
            ("other.test, corp.test", "https://corp.test", false),
            ("other.test corp.test", "https://corp.test", false),
            ("10.0.0.0/8", "https://10.9.8.7", false),
            ("10.0.0.0/8", "https://11.9.8.7", true),
            ("0.0.0.0/0", "https://11.9.8.7", false),
            ("10.0.0.0/33", "https://10.0.0.0", true),
            ("corp.test:", "https://corp.test:8443", false),
            ("bücher.test", "https://www.bücher.test", false),
            ("10.9.8.7", "https://10.9.8.7", false),
            ("10.9.8.7:443", "https://10.9.8.7", false),
            ("fd00::/8", "https://[fd12::1]", false),
            ("fd12::1", "https://[fd12::1]", false),
            ("", "https://localhost:1", false),
            ("", "https://127.0.0.2", false),
            ("", "http://169.254.169.254", false),
        ] {
            let vars = [
                ("HTTPS_PROXY", "proxy.test:3128"),
                ("HTTP_PROXY", "http://proxy.test"),
                ("NO_PROXY", no_proxy),
            ];
            let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned()));
            let proxies = Proxies::from_vars(&vars.into_iter().collect()).expect("proxies");
            let url = Url::parse(url).expect("a URL");
            assert_eq!(proxies.of(&url).is_some(), proxied, "{no_proxy:?} {url}");
        }
    }
}
