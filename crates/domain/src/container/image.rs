//! Names of images, by the grammar of Docker's `distribution/reference`, and the registries that are allowed.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr};

/// Registry of names that name none.
pub const DOCKER_HUB: &str = "docker.io";

const REPOSITORY_MAX: usize = 255;
const TAG_MAX: usize = 128;

/// A checked name of an image, complete: `alpine` is `docker.io/library/alpine:latest`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageName {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl ImageName {
    /// Returns the host of the registry, with its port if one was given.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Returns the path in the registry, `library/alpine`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Returns the tag; `latest` where neither a tag nor a digest was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Returns the digest, `sha256:…`.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// Returns registry and repository, as an engine takes them; without Docker Hub's own prefixes.
    pub fn familiar_repository(&self) -> String {
        if self.registry != DOCKER_HUB {
            return format!("{}/{}", self.registry, self.repository);
        }
        self.repository.strip_prefix("library/").unwrap_or(&self.repository).to_owned()
    }

    /// Returns what identifies the image in its repository: the digest where there is one, else the tag.
    pub fn reference(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }

    /// Returns the shortest name that an engine takes for this image. A digest makes the tag superfluous.
    pub fn familiar(&self) -> String {
        let separator = if self.digest.is_some() { '@' } else { ':' };
        format!("{}{separator}{}", self.familiar_repository(), self.reference())
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for ImageName {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        check_characters(text)?;
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(checked_digest(digest)?)),
            None => (text, None),
        };
        let (name, tag) = split_tag(name)?;
        let (registry, path) = split_registry(name)?;
        let repository = checked_repository(registry, path)?;
        let tag = tag.or_else(|| digest.is_none().then(|| "latest".to_owned()));
        Ok(Self { registry: registry.into(), repository, tag, digest })
    }
}

/// Refuses at once what no part of a name has, with the most helpful reason.
fn check_characters(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("is empty; name an image, such as debian:12 or ghcr.io/owner/name:tag".into());
    }
    if text.len() > REPOSITORY_MAX * 2 {
        return Err(format!("is longer than {} characters", REPOSITORY_MAX * 2));
    }
    if text.starts_with('-') {
        return Err("begins with '-'; options are fields of the request, not part of the image's name".into());
    }
    if text.contains("://") {
        return Err("is a URL; write it without the scheme, such as ghcr.io/owner/name:tag".into());
    }
    match text.chars().find(|c| !(c.is_ascii_alphanumeric() || "./-_:@[]".contains(*c))) {
        Some(c) if c.is_whitespace() => {
            Err("contains white space; the command and its arguments are fields of their own".into())
        }
        Some(c) => Err(format!("contains the character {c:?}, which no name of an image has")),
        None => Ok(()),
    }
}

fn checked_digest(digest: &str) -> Result<String, String> {
    let hex = |length: usize, text: &str| {
        text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let is_digest = match digest.split_once(':') {
        Some(("sha256", value)) => hex(64, value),
        Some(("sha512", value)) => hex(128, value),
        Some(_) | None => false,
    };
    if is_digest {
        return Ok(digest.into());
    }
    Err("has a digest that is none; it is sha256: and 64 hexadecimal digits in lower case".into())
}

/// The colon of a tag stands after the last slash; one before it is a registry's port.
fn split_tag(name: &str) -> Result<(&str, Option<String>), String> {
    let path_at = name.rfind('/').map_or(0, |at| at + 1);
    let Some(colon) = name.rfind(':').filter(|at| *at >= path_at) else { return Ok((name, None)) };
    let (name, tag) = (name.get(..colon).unwrap_or_default(), name.get(colon + 1..).unwrap_or_default());
    let first = tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let rest = tag.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
    if !first || !rest || tag.len() > TAG_MAX {
        return Err(format!(
            "has the tag '{tag}'; a tag has 1 to {TAG_MAX} characters of letters, digits and _ . -, and begins with none of . -"
        ));
    }
    Ok((name, Some(tag.to_owned())))
}

/// The first part is a registry if it looks like a host; else the whole is a path on Docker Hub.
fn split_registry(name: &str) -> Result<(&str, &str), String> {
    let Some((first, path)) = name.split_once('/') else { return Ok((DOCKER_HUB, name)) };
    if !looks_like_host(first) {
        return Ok((DOCKER_HUB, name));
    }
    if first == "index.docker.io" || first == "registry-1.docker.io" {
        return Ok((DOCKER_HUB, path));
    }
    if is_registry(first) {
        return Ok((first, path));
    }
    Err(format!("has the registry '{first}'; a registry is a host in lower case, or host:port"))
}

fn looks_like_host(text: &str) -> bool {
    text == "localhost" || text.contains(['.', ':', '['])
}

/// Whether a name of an image may have this registry.
fn is_host(text: &str) -> bool {
    looks_like_host(text) && is_registry(text)
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        Some(_) | None => (text, None),
    };
    let port_is_fine = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|number| number > 0));
    if let Some(v6) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return port_is_fine && v6.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    port_is_fine && host.len() <= 253 && host.split('.').all(label)
}

fn checked_repository(registry: &str, path: &str) -> Result<String, String> {
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(format!("is '{path}' in its registry; write it in lower case"));
    }
    if !path.split('/').all(is_path_component) {
        return Err(format!(
            "is '{path}' in its registry; its parts have a-z and 0-9, with single . or _, __ or - in between"
        ));
    }
    // With a tag an engine takes it for the id of an image, or the beginning of one: of any tenant's.
    if registry == DOCKER_HUB
        && matches!(path.strip_prefix("library/").unwrap_or(path), "sha256" | "sha384" | "sha512")
    {
        return Err("is the id of an image; name its repository, too".into());
    }
    let is_bare_id = path.len() == 64 && path.bytes().all(|b| b.is_ascii_hexdigit());
    if is_bare_id {
        return Err("is the id of an image; name its repository, too".into());
    }
    let whole = match registry {
        DOCKER_HUB if !path.contains('/') => format!("library/{path}"),
        _ => path.to_owned(),
    };
    if registry.len() + 1 + whole.len() > REPOSITORY_MAX {
        return Err(format!("is longer than {REPOSITORY_MAX} characters without its tag"));
    }
    Ok(whole)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !text.starts_with(is_plain) || !text.ends_with(is_plain) {
        return false;
    }
    text.split(is_plain)
        .all(|between| matches!(between, "" | "." | "_" | "__") || between.bytes().all(|byte| byte == b'-'))
}

impl Serialize for ImageName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ImageName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Registries that images may come from: `docker.io`, `*.example.org`, `ghcr.io/owner`, and `http://10.0.0.5:5000` for one
/// that has no TLS. An empty list allows all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedRegistries(Vec<Pattern>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    /// `*.` stands for any number of labels before the rest; never for none.
    host: String,
    /// Path in the registry that the repository is, or lies below; empty for all of the registry.
    path: String,
    /// Whether the registry speaks HTTP without TLS.
    is_plain: bool,
}

/// Operator's word on the registry of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistryStanding {
    /// The operator names it.
    Listed {
        /// Whether it speaks HTTP without TLS.
        is_plain: bool,
    },
    /// No registry is named, so that all are allowed.
    Unlisted,
    /// Others are named, and it is not.
    Refused,
}

impl AllowedRegistries {
    /// Returns the list that names none and allows all.
    pub const fn none_named() -> Self {
        Self(Vec::new())
    }

    /// Returns whether an image of this name may be used.
    pub fn allows(&self, image: &ImageName) -> bool {
        self.standing(image) != RegistryStanding::Refused
    }

    /// Returns what the operator says of the registry of an image.
    pub fn standing(&self, image: &ImageName) -> RegistryStanding {
        match self.0.iter().find(|pattern| pattern.matches(image)) {
            Some(pattern) => RegistryStanding::Listed { is_plain: pattern.is_plain },
            None if self.0.is_empty() => RegistryStanding::Unlisted,
            None => RegistryStanding::Refused,
        }
    }

    /// Refuses an image of another registry, with the list.
    ///
    /// # Errors
    /// The rest of a sentence that begins with the field's name.
    pub fn check(&self, image: &ImageName) -> Result<(), String> {
        if self.allows(image) {
            return Ok(());
        }
        Err(format!("is {image}, and images come from these registries only: {self}"))
    }
}

impl fmt::Display for AllowedRegistries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, pattern) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            let slash = if pattern.path.is_empty() { "" } else { "/" };
            write!(f, "{comma}{}{slash}{}", pattern.host, pattern.path)?;
        }
        Ok(())
    }
}

impl Pattern {
    fn matches(&self, image: &ImageName) -> bool {
        let host_matches = match self.host.strip_prefix('*') {
            Some(end) => image.registry.len() > end.len() && image.registry.ends_with(end),
            None => image.registry == self.host,
        };
        let below = image.repository.strip_prefix(self.path.as_str());
        host_matches
            && below.is_some_and(|rest| self.path.is_empty() || rest.is_empty() || rest.starts_with('/'))
    }
}

impl FromStr for AllowedRegistries {
    type Err = String;
    /// Patterns with commas between them.
    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(read_pattern).collect::<Result<_, _>>().map(Self)
    }
}

fn read_pattern(text: &str) -> Result<Pattern, String> {
    let plain = text.strip_prefix("http://");
    let (host, path) = plain.unwrap_or(text).split_once('/').unwrap_or((plain.unwrap_or(text), ""));
    let bare = host.strip_prefix("*.").unwrap_or(host);
    let path_is_fine = path.is_empty() || path.split('/').all(is_path_component);
    if !is_host(bare) || !path_is_fine {
        return Err(format!(
            "'{text}' is no registry; write host, host:port, *.domain, host/path, or http://host:port for one without TLS"
        ));
    }
    Ok(Pattern { host: host.into(), path: path.into(), is_plain: plain.is_some() })
}

/// Host of a registry, with its port if it is not 443: `docker.io`, `ghcr.io`, `registry.example:5000`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RegistryHost(String);

impl RegistryHost {
    /// Returns the host and its port, as names of images have it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RegistryHost {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let host = match text {
            "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB,
            other => other,
        };
        if is_host(host) {
            return Ok(Self(host.into()));
        }
        Err(format!(
            "is '{text}'; a registry is a host in lower case, or host:port, such as docker.io or ghcr.io"
        ))
    }
}

#[cfg(test)]
mod tests;
