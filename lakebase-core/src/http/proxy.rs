//! HTTP proxies of the environment. Exceptions follow the rules of Go, as in the official tools, and may also be separated
//! by spaces.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use url::{Host, Url};

use crate::error::Error;
use crate::settings::attributes::Vars;
use crate::settings::host_name::is_loopback;

/// The metadata service of a cloud machine, which is never behind a proxy.
const METADATA_SERVICE: &str = "169.254.169.254";
/// Time limit of the request that finds out why a proxy fails.
const DIAGNOSIS_LIMIT: Duration = Duration::from_secs(2);

/// The proxies of `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in upper or lower case.
pub(super) struct Proxies {
    https: Option<Proxy>,
    http: Option<Proxy>,
    exceptions: Vec<Exception>,
}

/// A proxy, and the variable that names it.
pub(super) struct Proxy {
    variable: String,
    pub(super) url: Url,
}

impl Proxies {
    pub(super) fn from_vars(vars: &Vars) -> Result<Self, Error> {
        let find = |name: &str| {
            let mut names = [name.to_owned(), name.to_lowercase()].into_iter();
            names.find_map(|name| {
                let value = vars.get(&name)?.trim();
                (!value.is_empty()).then(|| (name, value.to_owned()))
            })
        };
        let proxy = |name: &str| find(name).map(Proxy::parse).transpose();
        // Not parsed if it is not used: desktops set it to a SOCKS proxy besides the others.
        let or_all = |name: &str| match proxy(name)? {
            Some(proxy) => Ok(Some(proxy)),
            None => proxy("ALL_PROXY"),
        };
        let (_, exceptions) = find("NO_PROXY").unwrap_or_default();
        Ok(Self {
            https: or_all("HTTPS_PROXY")?,
            http: or_all("HTTP_PROXY")?,
            exceptions: exceptions
                .split([',', ' '])
                .map(str::trim)
                .filter_map(Exception::parse)
                .collect(),
        })
    }

    /// The proxy for a URL.
    pub(super) fn of(&self, url: &Url) -> Option<&Proxy> {
        let name = url.host_str()?;
        let (host, port) = (url.host()?, url.port_or_known_default()?);
        let proxy = match url.scheme() {
            "https" => self.https.as_ref(),
            _ => self.http.as_ref(),
        };
        let is_local = is_loopback(name) || name == METADATA_SERVICE;
        proxy.filter(|_| !is_local && !self.exceptions.iter().any(|e| e.covers(&host, port)))
    }
}

impl Proxy {
    /// The error does not contain the text, which may contain a password.
    fn parse((variable, text): (String, String)) -> Result<Self, Error> {
        let with_scheme = match text.contains("://") {
            true => text,
            false => format!("http://{text}"),
        };
        match Url::parse(&with_scheme) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
                Ok(Self { variable, url })
            }
            _ => Err(
                Error::config(format!("{variable} is not the URL of an HTTP proxy"))
                    .with_hint("Write it as http://host:port; SOCKS is not supported"),
            ),
        }
    }

    /// Adds to an error that the proxy may be the cause, with the status of the proxy if it rejected the request.
    pub(super) async fn explain(&self, error: Error, to: &Url) -> Error {
        let address = self.url.host_str().unwrap_or_default();
        let port = self.url.port_or_known_default().unwrap_or_default();
        let answer = match tokio::time::timeout(DIAGNOSIS_LIMIT, self.rejection(to)).await {
            Ok(Some(status)) => format!(" answers HTTP {status}"),
            _ => String::new(),
        };
        error.with_hint(format!(
            "The proxy {address}:{port} ({}){answer}: check it, or except the host in NO_PROXY",
            self.variable
        ))
    }

    /// The status with which the proxy rejects a tunnel, which the HTTP client does not report.
    async fn rejection(&self, to: &Url) -> Option<u16> {
        if self.url.scheme() != "http" || to.scheme() != "https" {
            return None;
        }
        let proxy = (self.url.host_str()?, self.url.port_or_known_default()?);
        let to = format!("{}:{}", to.host_str()?, to.port_or_known_default()?);
        let mut request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n");
        if !self.url.username().is_empty() {
            let password = self.url.password().unwrap_or_default();
            let secret = format!("{}:{password}", self.url.username());
            let basic = STANDARD.encode(percent_decode_str(&secret).collect::<Vec<u8>>());
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
struct Exception {
    hosts: Hosts,
    port: Option<u16>,
}

enum Hosts {
    All,
    Network(IpNet),
    /// The hosts below a name, and perhaps the name itself.
    Domain {
        name: String,
        has_itself: bool,
    },
}

impl Exception {
    fn parse(entry: &str) -> Option<Self> {
        let address = |text: &str| text.trim_matches(['[', ']']).parse::<IpAddr>().ok();
        let any_port = |hosts| Some(Self { hosts, port: None });
        if entry == "*" {
            return any_port(Hosts::All);
        }
        // Go and std reject leading zeros; ipnet accepts them.
        let is_address = address(entry.split('/').next().unwrap_or_default()).is_some();
        let network = entry.parse().ok().filter(|_| is_address);
        if let Some(network) = network.or_else(|| Some(address(entry)?.into())) {
            return any_port(Hosts::Network(network));
        }
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (entry, None),
        };
        let hosts = match address(host) {
            Some(address) => Hosts::Network(address.into()),
            None => {
                let name = match host.strip_prefix('*') {
                    Some(below) if below.starts_with('.') => below,
                    _ => host,
                };
                let parent = name.strip_prefix('.');
                // Normalised as in a URL.
                let Ok(Host::Domain(name)) = Host::parse(parent.unwrap_or(name)) else {
                    return None;
                };
                let has_itself = parent.is_none();
                Hosts::Domain { name, has_itself }
            }
        };
        Some(Self { hosts, port })
    }

    fn covers(&self, host: &Host<&str>, port: u16) -> bool {
        let has_host = match (&self.hosts, host) {
            (Hosts::All, _) => true,
            (Hosts::Network(network), Host::Ipv4(address)) => {
                network.contains(&IpAddr::V4(*address))
            }
            (Hosts::Network(network), Host::Ipv6(address)) => {
                network.contains(&IpAddr::V6(*address))
            }
            (Hosts::Domain { name, has_itself }, Host::Domain(host)) => {
                match host.trim_end_matches('.').strip_suffix(name.as_str()) {
                    Some("") => *has_itself,
                    Some(below) => below.len() > 1 && below.ends_with('.'),
                    None => false,
                }
            }
            _ => false,
        };
        has_host && self.port.is_none_or(|only| only == port)
    }
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
            ("010.0.0.0/8", "https://10.9.8.7", true),
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
