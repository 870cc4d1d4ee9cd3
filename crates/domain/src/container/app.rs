//! Names under which browsers reach the ports of containers: `<lease>-<port>.<domain>`.

use crate::LeaseId;
use std::{fmt, str::FromStr};

/// Cookie of a visitor: of one host, and for it alone (RFC 6265bis, `__Host-`).
pub const APP_COOKIE: &str = "__Host-orion";
/// Longest domain: `<lease>-<port>.` has up to 26 characters, and a name 253.
const DOMAIN_MAX: usize = 220;

/// Domain below which each port of a container has a name, with the port of the proxy where that is not 443.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppsDomain {
    name: String,
    port: Option<u16>,
}

impl AppsDomain {
    /// Returns the domain's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the host name of a port of a lease's containers.
    pub fn host(&self, lease: LeaseId, port: u16) -> String {
        format!("{lease}-{port}.{}", self.name)
    }

    /// Returns the host name of the first port of a lease's containers.
    pub fn first_host(&self, lease: LeaseId) -> String {
        format!("{lease}.{}", self.name)
    }

    /// Returns the URL of a host below the domain.
    pub fn url(&self, host: &str) -> String {
        match self.port {
            Some(port) => format!("https://{host}:{port}/"),
            None => format!("https://{host}/"),
        }
    }

    /// Returns the lease and the port that a host name stands for, in the form that [`Self::host`] gives; no port for the
    /// lease's first. None: it is no such name.
    pub fn app_of(&self, host: &str) -> Option<(LeaseId, Option<u16>)> {
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        let label = host.strip_suffix(&self.name)?.strip_suffix('.')?;
        let (lease, port) = match label.split_once('-') {
            Some((lease, port)) => (lease, Some(port.parse().ok()?)),
            None => (label, None),
        };
        let lease = LeaseId(lease.parse().ok()?);
        // One name only for each: `017-80` is none.
        let is_plain = host == port.map_or_else(|| self.first_host(lease), |port| self.host(lease, port));
        is_plain.then_some((lease, port))
    }

    /// Returns whether browsers may take a host to be of the same site as this domain, and share cookies between the two.
    /// Names below `localhost` share none.
    pub fn is_same_site(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let is_local = |name: &str| name == "localhost" || name.ends_with(".localhost");
        if is_local(&self.name) {
            return self.name == host || host.ends_with(&format!(".{}", self.name));
        }
        site_of(&self.name) == site_of(&host)
    }
}

/// The part of a name that one owner registers. Below a country's domain a short second label (`co.uk`) is taken for a
/// registry's own.
fn site_of(name: &str) -> String {
    let labels: Vec<&str> = name.split('.').collect();
    let is_registry = |second: &str, top: &str| top.len() == 2 && second.len() <= 3;
    let count = match labels.as_slice() {
        [.., second, top] if is_registry(second, top) => 3,
        _ => 2,
    };
    labels[labels.len().saturating_sub(count)..].join(".")
}

impl FromStr for AppsDomain {
    type Err = String;
    /// `apps.example.org`, or with the port of the proxy `apps.example.org:8443`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no domain, such as apps.example.org or apps.example.org:8443");
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => {
                let port = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
                (name, Some(port).filter(|port| *port != 443))
            }
            None => (text, None),
        };
        let name: crate::names::Hostname = name.parse().map_err(|_| wrong())?;
        let name = name.as_str().to_owned();
        if !name.contains('.')
            || name.len() > DOMAIN_MAX
            || name.split('.').all(|label| label.parse::<u8>().is_ok())
        {
            return Err(wrong());
        }
        Ok(Self { name, port })
    }
}

impl fmt::Display for AppsDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(text: &str) -> AppsDomain {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_stands_for_one_port_of_one_lease() {
        let apps = domain("apps.example.org:8443");
        let host = apps.host(LeaseId(17), 8080);
        assert_eq!(host, "17-8080.apps.example.org");
        assert_eq!(apps.url(&host), "https://17-8080.apps.example.org:8443/");
        assert_eq!(domain("apps.example.org:443").url(&host), "https://17-8080.apps.example.org/");
        assert_eq!(apps.app_of(&host), Some((LeaseId(17), Some(8080))));
        assert_eq!(apps.app_of("17-8080.apps.example.org:8443"), Some((LeaseId(17), Some(8080))));
        assert_eq!(apps.app_of("17.apps.example.org"), Some((LeaseId(17), None)));
        for other in [
            "017-8080.apps.example.org",
            "17-08080.apps.example.org",
            "17-.apps.example.org",
            "-8080.apps.example.org",
            "+17-80.apps.example.org",
            "x.17-8080.apps.example.org",
            "17-8080apps.example.org",
            "17-8080.example.org",
            "apps.example.org",
            "",
        ] {
            assert_eq!(apps.app_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_domain_that_shares_cookies_with_the_api_is_known() {
        for (apps, api, same) in [
            ("apps.example.org", "orion.example.org", true),
            ("apps.example.org", "example.org", true),
            ("example.org", "orion.example.org", true),
            ("example-apps.org", "orion.example.org", false),
            ("apps.example.co.uk", "orion.other.co.uk", false),
            ("apps.example.co.uk", "example.co.uk", true),
            ("apps.localhost", "localhost", false),
            ("apps.localhost", "orion.localhost", false),
            ("apps.localhost", "apps.localhost", true),
        ] {
            assert_eq!(domain(apps).is_same_site(api), same, "{apps} {api}");
        }
        for wrong in [
            "localhost",
            "",
            "10.0.0.1",
            "a b.org",
            "apps.example.org:0",
            "apps.example.org:x",
            "*.example.org",
        ] {
            assert!(wrong.parse::<AppsDomain>().is_err(), "{wrong}");
        }
    }
}
