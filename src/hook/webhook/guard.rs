//! Which URLs are called: the rules for all URLs, and stricter rules for URLs that a request named.

use std::net::IpAddr;

use ipnet::IpNet;
use url::{Host, Url};

use crate::{
    error::ConfigError,
    hook::{
        CallbackRefused,
        webhook::address::{canonical, is_in, is_public, network},
    },
    task::Accepted,
};

/// The longest URL that is called, in characters: as much as a record keeps of a callback URL in bytes.
const URL_LENGTH: usize = Accepted::CALLBACK_BYTES;

/// Names that are never those of a public host, and neither are names below them.
const LOCAL_NAMES: [&str; 5] = [
    "localhost",
    "local",
    "internal",
    "home.arpa",
    "metadata.google.internal",
];

/// Parses a URL by the rules for all URLs: http or https, a host, no user, no fragment, and not too long.
pub(super) fn read_url(text: &str) -> Result<Url, &'static str> {
    if text.chars().count() > URL_LENGTH {
        return Err("it is longer than 2,048 characters");
    }
    let url = Url::parse(text).map_err(|_| "it is no URL")?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("its scheme is neither https nor http");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it holds a user or a password");
    }
    if url.fragment().is_some() {
        return Err("it has a fragment, which is never sent");
    }
    match url.host() {
        None => Err("it has no host"),
        Some(_) => Ok(url),
    }
}

/// The hosts that may be called.
#[derive(Clone, Debug, Default)]
pub(super) struct Guard {
    /// All hosts: for URLs that the operator sets.
    open: bool,
    /// All public hosts.
    public: bool,
    /// Over http, too.
    pub(super) http: bool,
    /// Names, wherever they lead; and addresses that the URL itself has.
    hosts: Vec<UrlHost>,
    /// Networks, which may be private; and names that lead into these networks only.
    networks: Vec<IpNet>,
}

/// A URL that may be called, as far as this can be decided before its addresses are known.
#[derive(Clone, Debug)]
pub(super) struct CheckedUrl {
    pub(super) url: Url,
    pub(super) host: UrlHost,
    pub(super) port: u16,
    /// Whether the operator listed the host: its addresses do not matter then.
    listed: bool,
    /// Whether scheme, port and name may be those of a public host.
    plain: bool,
}

/// The host of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum UrlHost {
    /// A name, to be resolved.
    Name(String),
    /// An address.
    Address(IpAddr),
}

impl Guard {
    /// Permits public hosts.
    pub(super) fn public() -> Self {
        Self {
            public: true,
            ..Self::default()
        }
    }

    /// Permits all hosts, for URLs that the operator sets.
    pub(super) fn open() -> Self {
        Self {
            open: true,
            ..Self::default()
        }
    }

    /// Permits this host or network, with any scheme, port and address.
    pub(super) fn allow(&mut self, entry: &str) -> Result<(), ConfigError> {
        let entry = entry.trim();
        if let Some(network) = network(entry) {
            self.networks.push(network);
            return Ok(());
        }
        let address: Result<IpAddr, _> = entry.trim_matches(['[', ']']).parse();
        if let Ok(address) = address {
            self.hosts.push(UrlHost::Address(canonical(address)));
            return Ok(());
        }
        match Host::parse(entry) {
            Ok(Host::Domain(name)) if !name.contains('/') => {
                self.hosts.push(UrlHost::Name(bare(&name)));
                Ok(())
            }
            _ => Err(ConfigError::new(
                "callbacks",
                format!("{entry:?} is neither a host, an address, nor a network such as 10.1.0.0/16"),
            )),
        }
    }

    /// Checks everything that can be checked without resolving a name.
    pub(super) fn check_url(&self, text: &str) -> Result<CheckedUrl, CallbackRefused> {
        let url = read_url(text).map_err(|_| CallbackRefused)?;
        let host = match url.host().ok_or(CallbackRefused)? {
            Host::Ipv4(address) => UrlHost::Address(address.into()),
            Host::Ipv6(address) => UrlHost::Address(canonical(address.into())),
            Host::Domain(name) => UrlHost::Name(bare(name)),
        };
        let port = url.port_or_known_default().ok_or(CallbackRefused)?;
        let scheme = url.scheme() == "https" || self.http;
        let name = matches!(&host, UrlHost::Name(name) if is_local(name));
        let url = CheckedUrl {
            listed: self.open || self.hosts.contains(&host),
            plain: self.public && scheme && matches!(port, 443 | 80) && !name,
            url,
            host,
            port,
        };
        match &url.host {
            UrlHost::Address(address) => self.check_addresses(&url, &[*address])?,
            // Without networks, no address of the name could make it permitted.
            UrlHost::Name(_) if !url.listed && !url.plain && self.networks.is_empty() => {
                return Err(CallbackRefused);
            }
            UrlHost::Name(_) => {}
        }
        Ok(url)
    }

    /// Checks all addresses of a URL, since any of them may be connected to.
    pub(super) fn check_addresses(&self, url: &CheckedUrl, addresses: &[IpAddr]) -> Result<(), CallbackRefused> {
        let named = |address: &IpAddr| self.networks.iter().any(|network| is_in(network, *address));
        let good = !addresses.is_empty()
            && (url.listed
                || addresses.iter().all(named)
                || url.plain && addresses.iter().all(|address| is_public(*address) || named(address)));
        good.then_some(()).ok_or(CallbackRefused)
    }
}

impl CheckedUrl {
    /// Whether the operator listed the host: its addresses need no check.
    pub(super) const fn is_listed(&self) -> bool {
        self.listed
    }
}

/// A name without the dot at its end. `Url` has converted it to lower-case ASCII already.
fn bare(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

fn is_local(name: &str) -> bool {
    let below = |local: &str| name == local || name.strip_suffix(local).is_some_and(|rest| rest.ends_with('.'));
    !name.contains('.') || LOCAL_NAMES.into_iter().any(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowing(mut guard: Guard, entries: &[&str]) -> Guard {
        for entry in entries {
            guard.allow(entry).unwrap();
        }
        guard
    }

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// Private addresses and names in every notation that disguises them.
    #[test]
    fn every_trick_is_refused_before_anything_is_looked_up() {
        for host in [
            "2130706433",
            "0x7f.1",
            "0177.0.0.1",
            "127.1",
            "\u{ff11}\u{ff12}\u{ff17}.\u{ff10}.\u{ff10}.\u{ff11}",
            "%31%32%37.0.0.1",
            "127.0.0.1.",
            "127.0.0.1",
            "0.0.0.0",
            "0",
            "[::1]",
            "[::]",
            "[::ffff:7f00:1]",
            "[::ffff:127.0.0.1]",
            "[0:0:0:0:0:ffff:a9fe:a9fe]",
            "[fd00:ec2::254]",
            "169.254.169.254",
            "localhost",
            "LOCALHOST.",
            "a.localhost",
            "printer.local",
            "db.internal",
            "metadata.google.internal",
            "METADATA.google.internal.",
            "router.home.arpa",
            "\u{ff4c}ocalhost",
            "intranet",
            "intranet.",
        ] {
            let url = format!("https://{host}/hook");
            assert!(Guard::public().check_url(&url).is_err(), "{url}");
        }
    }

    #[test]
    fn the_url_itself_must_be_plain() {
        for good in [
            "https://example.org/hook?a=b",
            "https://example.org:443/",
            "https://EXAMPLE.org.:80/",
            "https://8.8.8.8/",
        ] {
            assert!(Guard::public().check_url(good).is_ok(), "{good}");
        }
        let long = format!("https://example.org/{}", "a".repeat(URL_LENGTH));
        for bad in [
            "http://example.org/",
            "ftp://example.org/",
            "file:///etc/passwd",
            "gopher://example.org/",
            "https://user@example.org/",
            "https://user:password@example.org/",
            "https://:password@example.org/",
            "https://example.org/#fragment",
            "https://example.org:8443/",
            "https://example.org:22/",
            "https://",
            "https:///hook",
            "//example.org/",
            "/hook",
            "",
            "https://exa mple.org/",
            "https://example.org:99999/",
            long.as_str(),
        ] {
            assert!(Guard::public().check_url(bad).is_err(), "{bad}");
        }
        let with_http = Guard {
            http: true,
            ..Guard::public()
        };
        assert!(with_http.check_url("http://example.org/").is_ok());
    }

    #[test]
    fn of_several_addresses_all_must_be_public() {
        let guard = Guard::public();
        let url = guard.check_url("https://example.org/").unwrap();
        let check = |texts: &[&str]| guard.check_addresses(&url, &addresses(texts)).is_ok();
        assert!(check(&["93.184.216.34"]) && check(&["93.184.216.34", "2606:4700::1111"]));
        assert!(!check(&["93.184.216.34", "10.0.0.1"]) && !check(&["::1", "93.184.216.34"]));
        assert!(!check(&[]), "a name that leads nowhere");
    }

    #[test]
    fn what_the_operator_names_may_be_private_and_nothing_else_may() {
        let guard = allowing(Guard::public(), &["hooks.internal", "10.1.0.0/16", "127.0.0.1"]);
        for good in [
            "http://hooks.internal:8080/",
            "https://HOOKS.internal./",
            "http://10.1.2.3:9/",
            "http://127.0.0.1:3000/x",
        ] {
            assert!(guard.check_url(good).is_ok(), "{good}");
        }
        for bad in [
            "https://other.internal/",
            "https://10.2.0.1/",
            "https://127.0.0.2/",
            "http://example.org/",
            "http://user@hooks.internal/",
            "http://hooks.internal/#a",
            "ftp://hooks.internal/",
            "https://localhost/",
        ] {
            let refused = match guard.check_url(bad) {
                Ok(url) => guard.check_addresses(&url, &addresses(&["93.184.216.34"])).is_err(),
                Err(_) => true,
            };
            assert!(refused, "{bad}");
        }
        let listed = guard.check_url("http://hooks.internal:8080/").unwrap();
        assert!(guard.check_addresses(&listed, &addresses(&["192.168.0.1"])).is_ok());
        let within = guard.check_url("http://other.example:8080/").unwrap();
        assert!(guard.check_addresses(&within, &addresses(&["10.1.0.1"])).is_ok());
        assert!(
            guard.check_addresses(&within, &addresses(&["127.0.0.1"])).is_err(),
            "an address is let through where the URL has it itself, and not where a name leads to it"
        );
        assert!(
            guard
                .check_addresses(&within, &addresses(&["10.1.0.1", "93.184.216.34"]))
                .is_err(),
            "its port"
        );
    }

    #[test]
    fn without_the_public_only_what_is_listed_is_called() {
        let guard = allowing(Guard::default(), &["hooks.example.org"]);
        assert!(guard.check_url("https://hooks.example.org/").is_ok());
        assert!(guard.check_url("https://example.org/").is_err());
        assert!(guard.check_url("https://8.8.8.8/").is_err());
        for bad in ["", "a b", "10.0.0.0/99", "https://example.org", "exa/mple"] {
            assert!(Guard::default().allow(bad).is_err(), "{bad}");
        }
    }
}
