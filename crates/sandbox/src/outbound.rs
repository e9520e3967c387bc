//! The hosts that an app may send requests to, and how they are sent.
//!
//! A request goes out only to a host on the manifest's list, and only to an address of the public internet
//! (or one that the operator listed): the name is looked up here, each address is checked, and the connection
//! goes to the checked address itself, so that a second lookup can't answer otherwise. Redirects are the
//! guest's own business: each hop is a request of its own and is checked like one.

mod address;
mod send;

use std::fmt;
use std::str::FromStr;

use base::limits::{DOMAIN_BYTES_MAX, LABEL_BYTES_MAX};

pub(crate) use send::{Network, Sender};

/// The hosts of a manifest's `[outbound]`. Empty: nowhere.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outbound {
    hosts: Vec<HostPattern>,
}

impl Outbound {
    #[must_use]
    pub fn new(hosts: Vec<HostPattern>) -> Self {
        Self { hosts }
    }

    fn allows(&self, target: &Target) -> bool {
        self.hosts.iter().any(|pattern| pattern.matches(target))
    }
}

/// `api.example.com`, `*.example.com` (every name below it, not itself), or either with `:port`.
/// Without a port it is the scheme's own: 443 for https, 80 for http.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostPattern {
    /// For `*.example.com`: `.example.com`.
    name: String,
    below: bool,
    port: Option<u16>,
}

/// Text that is not a host pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a host: write api.example.com, *.example.com or api.example.com:8443, \
     without https:// or a path"
)]
pub struct HostPatternError(String);

impl HostPattern {
    fn matches(&self, target: &Target) -> bool {
        let name = if self.below {
            target.host.len() > self.name.len() && target.host.ends_with(&self.name)
        } else {
            target.host == self.name
        };
        name && target.port == self.port.unwrap_or(target.scheme_port())
    }
}

impl FromStr for HostPattern {
    type Err = HostPatternError;

    fn from_str(text: &str) -> Result<Self, HostPatternError> {
        let refused = || HostPatternError(text.chars().take(80).collect());
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => {
                let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
                let port: u16 = port.parse().ok().filter(|port| digits && *port != 0).ok_or_else(refused)?;
                (host, Some(port))
            }
            None => (text, None),
        };
        let (name, below) = host.strip_prefix("*.").map_or((host, false), |name| (name, true));
        let label = |label: &str| {
            let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            !label.is_empty() && label.len() <= LABEL_BYTES_MAX && label.bytes().all(inner)
        };
        if name.len() > DOMAIN_BYTES_MAX || !name.split('.').all(label) {
            return Err(refused());
        }
        let name = name.to_ascii_lowercase();
        Ok(Self { name: if below { format!(".{name}") } else { name }, below, port })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.below { "*" } else { "" }, self.name)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Where one request wants to go.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Target {
    /// Lower case, no trailing dot, an IPv6 address without brackets.
    host: String,
    port: u16,
    tls: bool,
}

impl Target {
    /// `None` if the URI names no host, or has more before it than a host.
    fn of(uri: &http::Uri) -> Option<Self> {
        let tls = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        if authority.as_str().contains('@') {
            return None;
        }
        let host = authority.host();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let port = match authority.port() {
            Some(port) => port.as_u16(),
            // `example.com:` and `example.com:99999` have a port that isn't one.
            None if authority.as_str().len() != authority.host().len() => return None,
            None => {
                if tls {
                    443
                } else {
                    80
                }
            }
        };
        (!host.is_empty() && port != 0).then_some(Self { host, port, tls })
    }

    fn scheme_port(&self) -> u16 {
        if self.tls { 443 } else { 80 }
    }

    /// What the manifest would have to say.
    fn pattern(&self) -> String {
        if self.port == self.scheme_port() { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(pattern: &str, uri: &str) -> bool {
        let outbound = Outbound::new(vec![pattern.parse().expect("a pattern")]);
        Target::of(&uri.parse().expect("a URI")).is_some_and(|target| outbound.allows(&target))
    }

    #[test]
    fn a_pattern_takes_its_host_and_no_other() {
        for (pattern, uri, wanted) in [
            ("api.example.com", "https://api.example.com/x?y", true),
            ("api.example.com", "http://api.example.com", true),
            ("api.example.com", "https://API.Example.com.", true),
            ("API.example.com", "https://api.example.com", true),
            ("api.example.com", "https://api.example.com:8443", false),
            ("api.example.com", "http://api.example.com:443", false),
            ("api.example.com", "https://xapi.example.com", false),
            ("api.example.com", "https://api.example.com.evil.net", false),
            ("api.example.com", "https://api.example.com@evil.net", false),
            ("api.example.com", "https://evil.net@api.example.com", false),
            ("*.example.com", "https://a.example.com", true),
            ("*.example.com", "https://a.b.example.com", true),
            ("*.example.com", "https://example.com", false),
            ("*.example.com", "https://.example.com", false),
            ("*.example.com", "https://notexample.com", false),
            ("h:8443", "https://h:8443", true),
            ("h:8443", "http://h:8443", true),
            ("h:8443", "https://h", false),
            ("*.x.y:81", "http://z.x.y:81", true),
            ("203.0.113.5", "https://203.0.113.5", true),
        ] {
            assert_eq!(allows(pattern, uri), wanted, "{pattern} {uri}");
        }
    }

    #[test]
    fn nothing_is_allowed_by_an_empty_list() {
        let target = Target::of(&"https://a.example".parse().expect("a URI")).expect("a target");
        assert!(!Outbound::default().allows(&target));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for wrong in [
            "",
            "*",
            "*.",
            "https://a.b",
            "a.b/c",
            "a..b",
            "a.b:",
            "a.b:0",
            "a.b:+1",
            "a.b:70000",
            "a b",
            "*.*.c",
            "é.x",
        ] {
            assert!(wrong.parse::<HostPattern>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_pattern_reads_back() {
        for text in ["api.example.com", "*.example.org:8443"] {
            assert_eq!(text.parse::<HostPattern>().map(|pattern| pattern.to_string()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn a_target_is_one_host() {
        for wrong in ["ftp://a.b", "/path", "https://u:p@a.b", "https://a.b:"] {
            let uri: Result<http::Uri, _> = wrong.parse();
            assert!(uri.map_or(true, |uri| Target::of(&uri).is_none()), "{wrong}");
        }
        let target = Target::of(&"http://[::1]:81/".parse().expect("a URI")).expect("a target");
        assert_eq!(target, Target { host: "::1".to_owned(), port: 81, tls: false });
        assert_eq!(target.pattern(), "::1:81");
    }
}
