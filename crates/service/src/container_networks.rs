//! The settings of the networks and ports of containers.

use crate::settings::{SettingsError, Sources};
use ipnet::Ipv4Net;
use orion_domain::container::AppsDomain;
use orion_fleet::{Apps, ContainerNetworks};
use std::{net::Ipv4Addr, ops::RangeInclusive, path::PathBuf};

/// Widest network for containers: `/8` has room for a million leases.
const NET_PREFIX_MIN: u8 = 8;
/// Narrowest one: room for one lease.
const NET_PREFIX_MAX: u8 = 28;
/// Networks that `egress_deny` and `proxy_addresses` name at most: the list goes to each node.
const LISTED_MAX: usize = 100;
/// The API where nothing is said of it: on the machine of Caddy.
const API_DEFAULT: &str = "127.0.0.1:8080";
/// Lowest port that containers get: below it are those of the system.
const PORT_MIN: u16 = 1024;

/// Returns what the operator says of the networks of containers, or the defaults.
///
/// # Errors
/// The first setting that makes no sense.
pub fn container_networks(sources: &Sources) -> Result<ContainerNetworks, SettingsError> {
    let mut networks = ContainerNetworks::default();
    let nets = sources.list("container_nets", container_net)?;
    if !nets.is_empty() {
        networks.nets = nets;
    }
    networks.egress_deny = list(sources, "egress_deny")?;
    networks.proxies = list(sources, "proxy_addresses")?;
    if let Some(ports) = sources.get("container_ports", port_range)? {
        networks.ports = ports;
    }
    networks.apps = apps(sources)?;
    Ok(networks)
}

/// The names of ports. Refused where a browser could take the API and a container for one site.
fn apps(sources: &Sources) -> Result<Option<Apps>, SettingsError> {
    let caddy = sources.list("caddy_admin", socket)?;
    let Some(domain) = sources.get("apps_domain", str::parse::<AppsDomain>)? else {
        let about = |key| Err(SettingsError::about(key, "is set, and apps_domain is not"));
        return if caddy.is_empty() { Ok(None) } else { about("caddy_admin") };
    };
    let sites = sources.list("site", |name| Ok::<_, String>(name.to_owned()))?;
    if let Some(site) = sites.iter().find(|site| domain.is_same_site(host_of(site))) {
        let what = format!(
            "'{domain}' is of the same site as the API's '{site}': containers would share cookies with it; take another \
             registered domain"
        );
        return Err(SettingsError::about("apps_domain", what));
    }
    if sites.is_empty() && !domain.name().ends_with(".localhost") {
        let what =
            "is not set: name the API's own names, with commas, so that apps_domain is compared with them";
        return Err(SettingsError::about("site", what));
    }
    let mut auth = sources.list("apps_auth", upstream)?;
    if auth.is_empty() {
        auth.push(API_DEFAULT.to_owned());
    }
    Ok(Some(Apps { domain, caddy, auth }))
}

/// The host of a name as Caddy takes it: `https://orion.example:8443`.
fn host_of(site: &str) -> &str {
    let site = site.rsplit_once("://").map_or(site, |(_, rest)| rest);
    site.split([':', '/']).next().unwrap_or(site)
}

fn socket(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text.strip_prefix("unix/").unwrap_or(text));
    if path.is_absolute() { Ok(path) } else { Err(format!("'{text}' is no absolute path of a unix socket")) }
}

fn upstream(text: &str) -> Result<String, String> {
    let is_one = text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if is_one { Ok(text.to_owned()) } else { Err(format!("'{text}' is not of the form host:port")) }
}

fn list(sources: &Sources, key: &'static str) -> Result<Vec<Ipv4Net>, SettingsError> {
    let networks = sources.list(key, network)?;
    match networks.len() {
        0..=LISTED_MAX => Ok(networks),
        many => Err(SettingsError::about(key, format!("names {many} networks; at most {LISTED_MAX}"))),
    }
}

fn network(text: &str) -> Result<Ipv4Net, String> {
    let address = || text.parse::<Ipv4Addr>().map(Ipv4Net::from);
    text.parse::<Ipv4Net>().or_else(|_| address()).map(|network| network.trunc()).map_err(|_| {
        format!("'{text}' is neither an IPv4 address nor a network, such as 10.0.0.5 or 10.0.0.0/24")
    })
}

fn container_net(text: &str) -> Result<Ipv4Net, String> {
    let net = network(text)?;
    if (NET_PREFIX_MIN..=NET_PREFIX_MAX).contains(&net.prefix_len()) {
        return Ok(net);
    }
    Err(format!("'{text}' must be a network between /{NET_PREFIX_MIN} and /{NET_PREFIX_MAX}"))
}

fn port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let ends = text.split_once('-').and_then(|(first, last)| {
        Some((first.trim().parse::<u16>().ok()?, last.trim().parse::<u16>().ok()?))
    });
    match ends {
        Some((first, last)) if (PORT_MIN..=last).contains(&first) => Ok(first..=last),
        Some(_) | None => {
            Err(format!("'{text}' is no range of ports from {PORT_MIN} on, such as 20000-29999"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn read(key: &'static str, text: &str) -> Result<ContainerNetworks, String> {
        let given = BTreeMap::from([(key, text.to_owned())]);
        let sources = Sources::from_parts(None, given, BTreeMap::new()).unwrap();
        container_networks(&sources).map_err(|error| error.to_string())
    }

    #[test]
    fn a_domain_that_browsers_take_for_the_apis_own_is_refused() {
        let read = |values: &[(&'static str, &str)]| {
            let given = values.iter().map(|(key, text)| (*key, (*text).to_owned())).collect();
            let sources = Sources::from_parts(None, given, BTreeMap::new()).unwrap();
            container_networks(&sources).map(|networks| networks.apps).map_err(|error| error.to_string())
        };
        let apps = |domain, site| read(&[("apps_domain", domain), ("site", site)]);
        assert!(
            apps("apps-of-example.org", "orion.example.org, https://example.net:8443").unwrap().is_some()
        );
        assert!(apps("apps.localhost", "localhost").unwrap().is_some());
        for (domain, site) in [
            ("apps.example.org", "orion.example.org"),
            ("apps.example.org", "x.net, https://example.org:8443/"),
        ] {
            let error = apps(domain, site).unwrap_err();
            assert!(error.contains("ORION_APPS_DOMAIN") && error.contains("same site"), "{error}");
        }
        let error = read(&[("apps_domain", "apps.example.org")]).unwrap_err();
        assert!(error.contains("ORION_SITE"), "{error}");
        let with_caddy = [("apps_domain", "apps.localhost"), ("caddy_admin", "/run/a.sock,unix//run/b.sock")];
        let apps = read(&with_caddy).unwrap().unwrap();
        assert_eq!(apps.caddy, [PathBuf::from("/run/a.sock"), PathBuf::from("/run/b.sock")]);
        assert_eq!(apps.auth, [API_DEFAULT]);
        assert!(read(&[("caddy_admin", "/run/a.sock")]).is_err());
        assert!(read(&[("apps_domain", "apps.localhost"), ("apps_auth", "http://x")]).is_err());
    }

    #[test]
    fn networks_and_ports_are_read_and_what_makes_no_sense_is_named() {
        let networks = read("container_nets", "172.30.0.0/16, 10.9.8.7/24").unwrap();
        assert_eq!(networks.nets, ["172.30.0.0/16".parse().unwrap(), "10.9.8.0/24".parse().unwrap()]);
        assert_eq!(read("egress_deny", "10.0.0.7").unwrap().egress_deny, ["10.0.0.7/32".parse().unwrap()]);
        assert_eq!(read("container_ports", "3000-3999").unwrap().ports, 3000..=3999);
        for (key, wrong) in [
            ("container_nets", "10.0.0.0/30"),
            ("container_nets", "10.0.0.0/4"),
            ("container_nets", "fd00::/64"),
            ("egress_deny", "example.org"),
            ("proxy_addresses", "::1"),
            ("container_ports", "80-90"),
            ("container_ports", "4000-3000"),
            ("container_ports", "4000"),
        ] {
            let error = read(key, wrong).unwrap_err();
            assert!(error.contains(wrong), "{error}");
        }
    }
}
