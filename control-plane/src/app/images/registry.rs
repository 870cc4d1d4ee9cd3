//! Registries of images, asked by the protocol of the OCI Distribution Specification: whether an image is there, for what
//! platforms, and how large, without its layers.

use super::{
    manifest::{ACCEPTED, Manifest, Platform},
    reach::{PublicOnly, is_public_host},
};
use crate::crypto::sha256_hex;
use orion_containers::RegistryCredentials;
use orion_domain::{
    Secret,
    container::{DOCKER_HUB, ImageName, RegistryStanding},
};
use orion_fleet::Pulls;
use reqwest::{Client, Response, StatusCode, Url, header, redirect::Policy};
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{sync::Semaphore, time::timeout};

/// Questions to registries that one process has under way.
const AT_ONCE_MAX: usize = 16;
/// Longest wait for the whole answer: several requests, and the wait for a place among [`AT_ONCE_MAX`].
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// Longest wait for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Largest manifest that is read: the specification's limit.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Redirects of a blob that are followed.
const REDIRECTS_MAX: usize = 3;
/// Platform whose size is told where none is asked for.
const USUAL_PLATFORM: &str = "linux/amd64";

/// An image in a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// Digest of its manifest, or of its index.
    pub digest: String,
    /// Platforms that it is for.
    pub platforms: Vec<String>,
    /// The platform that layers and bytes are of.
    pub platform: Option<String>,
    /// Number of layers.
    pub layers: usize,
    /// Compressed bytes of the layers.
    pub size_bytes: u64,
}

/// Reason why nothing was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotFound {
    /// The registry says that there is no such image, or none for these credentials.
    Absent(String),
    /// The registry did not answer, or in a way that nobody understands.
    NoAnswer(String),
}

/// What a question goes to: who may be dialled, and how.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Name of the image.
    pub image: &'a ImageName,
    /// What the operator says of its registry; never [`RegistryStanding::Refused`].
    pub standing: RegistryStanding,
    /// Credentials of the user for that registry.
    pub credentials: Option<&'a RegistryCredentials>,
    /// Platform whose size is wanted.
    pub platform: Option<&'a str>,
}

/// Asks registries. Those that the operator names may be anywhere, all others have public addresses and TLS.
#[derive(Debug)]
pub struct Registries {
    public: OnceLock<Result<Client, String>>,
    anywhere: OnceLock<Result<Client, String>>,
    places: Semaphore,
    /// Questions that go on, by who asks.
    pub of_users: Pulls,
}

impl Default for Registries {
    fn default() -> Self {
        Self {
            public: OnceLock::new(),
            anywhere: OnceLock::new(),
            places: Semaphore::new(AT_ONCE_MAX),
            of_users: Pulls::default(),
        }
    }
}

impl Registries {
    /// Asks for an image; the error says why there is none.
    pub async fn find(&self, question: Question<'_>) -> Result<Remote, NotFound> {
        let answered = timeout(ANSWER_LIMIT, async {
            let _place = self.places.acquire().await;
            Conversation::new(self, question).map_err(NotFound::NoAnswer)?.find().await
        });
        answered.await.unwrap_or_else(|_| {
            Err(NotFound::NoAnswer(format!(
                "the registry did not answer within {} s",
                ANSWER_LIMIT.as_secs()
            )))
        })
    }

    fn client(&self, is_listed: bool) -> Result<&Client, String> {
        let made = if is_listed { &self.anywhere } else { &self.public };
        made.get_or_init(|| new_client(is_listed)).as_ref().map_err(Clone::clone)
    }
}

fn new_client(is_listed: bool) -> Result<Client, String> {
    // It only fails where one is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder()
        .user_agent(concat!("orion/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_LIMIT)
        .redirect(Policy::none())
        // A proxy would dial whatever it is told to.
        .no_proxy();
    let builder = if is_listed { builder } else { builder.dns_resolver(Arc::new(PublicOnly)) };
    builder.build().map_err(|error| format!("HTTP could not be set up: {}", with_causes(&error)))
}

/// The requests of one question.
struct Conversation<'a> {
    question: Question<'a>,
    client: &'a Client,
    base: Url,
    is_listed: bool,
    is_plain: bool,
    /// Value of `Authorization`, once the registry asked for one.
    authorization: Option<Secret>,
}

impl<'a> Conversation<'a> {
    fn new(registries: &'a Registries, question: Question<'a>) -> Result<Self, String> {
        let (is_listed, is_plain) = match question.standing {
            RegistryStanding::Listed { is_plain } => (true, is_plain),
            RegistryStanding::Unlisted | RegistryStanding::Refused => (false, false),
        };
        let host = match question.image.registry() {
            DOCKER_HUB => "registry-1.docker.io",
            other => other,
        };
        let scheme = if is_plain { "http" } else { "https" };
        let base = Url::parse(&format!("{scheme}://{host}/v2/{}/", question.image.repository()));
        let base = base.map_err(|error| format!("the registry's address: {error}"))?;
        let client = registries.client(is_listed)?;
        Ok(Self { question, client, base, is_listed, is_plain, authorization: None })
    }

    async fn find(mut self) -> Result<Remote, NotFound> {
        let image = self.question.image;
        let (digest, top) = self.manifest(image.reference()).await?;
        let entries: Vec<_> = top.entries().into_iter().cloned().collect();
        if entries.is_empty() {
            let platform = self.platform_of(&top).await?;
            if let (Some(wanted), Some(platform)) = (self.question.platform, &platform)
                && !platform.is(wanted)
            {
                return Err(not_for(wanted, &[platform.to_string()]));
            }
            let (layers, size_bytes) = top.size();
            let platform = platform.map(|platform| platform.to_string());
            return Ok(Remote {
                digest,
                platforms: platform.iter().cloned().collect(),
                platform,
                layers,
                size_bytes,
            });
        }
        let platforms: Vec<String> =
            entries.iter().filter_map(|entry| entry.platform()).map(ToString::to_string).collect();
        let is = |wanted: &str| entries.iter().find(|entry| entry.platform().is_some_and(|is| is.is(wanted)));
        let entry = match self.question.platform {
            Some(wanted) => is(wanted).ok_or_else(|| not_for(wanted, &platforms))?,
            None => is(USUAL_PLATFORM).or_else(|| entries.first()).ok_or_else(nonsense)?,
        };
        let (_, manifest) = self.manifest(&entry.digest).await?;
        let (layers, size_bytes) = manifest.size();
        let platform = entry.platform().map(ToString::to_string);
        Ok(Remote { digest, platforms, platform, layers, size_bytes })
    }

    /// Gets a manifest by tag or digest, and its digest.
    async fn manifest(&mut self, reference: &str) -> Result<(String, Manifest), NotFound> {
        let url = self.base.join(&format!("manifests/{reference}")).map_err(|_| nonsense())?;
        let body = self.get(url, ACCEPTED).await?;
        let digest = format!("sha256:{}", sha256_hex(&body));
        if reference.starts_with("sha256:") && reference != digest {
            return Err(NotFound::NoAnswer("what the registry sent has another digest".into()));
        }
        let manifest = serde_json::from_slice(&body).map_err(|_| nonsense())?;
        Ok((if reference.contains(':') { reference.to_owned() } else { digest }, manifest))
    }

    /// Returns the platform of an image that has one alone: its configuration says so.
    async fn platform_of(&mut self, manifest: &Manifest) -> Result<Option<Platform>, NotFound> {
        let Some(config) = &manifest.config else { return Ok(None) };
        let url = self.base.join(&format!("blobs/{}", config.digest)).map_err(|_| nonsense())?;
        let body = self.get(url, "*/*").await?;
        Ok(serde_json::from_slice(&body).ok())
    }

    /// Gets what is at `url` of the registry; with the authorization that it asks for.
    async fn get(&mut self, url: Url, accept: &str) -> Result<Vec<u8>, NotFound> {
        let mut reply = self.send(&url, accept).await?;
        if reply.status() == StatusCode::UNAUTHORIZED && self.authorization.is_none() {
            self.authorization = Some(self.authorize(&reply).await?);
            reply = self.send(&url, accept).await?;
        }
        for _ in 0..REDIRECTS_MAX {
            if !reply.status().is_redirection() {
                break;
            }
            let to = reply.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
            let to = to.and_then(|to| reply.url().join(to).ok()).ok_or_else(nonsense)?;
            reply = self.send(&to, accept).await?;
        }
        match reply.status() {
            status if status.is_success() => whole(reply).await,
            StatusCode::NOT_FOUND => Err(NotFound::Absent("the registry has no such image".into())),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.denied()),
            StatusCode::TOO_MANY_REQUESTS => {
                Err(NotFound::NoAnswer("the registry was asked too often; try again later".into()))
            }
            status => Err(NotFound::NoAnswer(format!("the registry answered {status}"))),
        }
    }

    fn denied(&self) -> NotFound {
        let registry = self.question.image.registry();
        NotFound::Absent(match self.question.credentials {
            Some(_) => "the registry has no such image, or not for your credentials".into(),
            None => {
                format!("the registry has no such image, or wants credentials (orion image login {registry})")
            }
        })
    }

    async fn send(&self, url: &Url, accept: &str) -> Result<Response, NotFound> {
        self.check(url)?;
        let request = self.client.get(url.clone()).header(header::ACCEPT, accept);
        // What a registry redirects to has its own authorization in its address.
        let is_own = url.origin() == self.base.origin();
        let request = match self.authorization.as_ref().filter(|_| is_own) {
            Some(value) => request.header(header::AUTHORIZATION, value.expose()),
            None => request,
        };
        request.send().await.map_err(unreached)
    }

    /// Refuses what must not be dialled.
    fn check(&self, url: &Url) -> Result<(), NotFound> {
        if url.scheme() != "https" && !(self.is_plain && url.scheme() == "http") {
            return Err(NotFound::NoAnswer("the registry leads to an address without TLS".into()));
        }
        if !self.is_listed && !is_public_host(url) {
            let why = "the registry has no public address, and the operator does not name it in ORION_IMAGE_REGISTRIES";
            return Err(NotFound::NoAnswer(why.into()));
        }
        Ok(())
    }

    /// Gets the authorization that a registry asks for with status 401.
    async fn authorize(&self, reply: &Response) -> Result<Secret, NotFound> {
        let challenges = reply.headers().get_all(header::WWW_AUTHENTICATE);
        let challenges: Vec<&str> = challenges.iter().filter_map(|value| value.to_str().ok()).collect();
        let of = |scheme: &str| challenges.iter().find_map(|challenge| parameters(challenge, scheme));
        if let Some(asked) = of("bearer") {
            return self.token(&asked).await;
        }
        match (of("basic"), self.question.credentials) {
            (Some(_), Some(credentials)) => Ok(basic(credentials)),
            (Some(_) | None, _) => Err(self.denied()),
        }
    }

    async fn token(&self, asked: &[(String, String)]) -> Result<Secret, NotFound> {
        let parameter =
            |name: &str| asked.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let mut url: Url = parameter("realm").and_then(|realm| realm.parse().ok()).ok_or_else(nonsense)?;
        self.check(&url)?;
        let scope = format!("repository:{}:pull", self.question.image.repository());
        url.query_pairs_mut().append_pair("scope", &scope);
        if let Some(service) = parameter("service") {
            url.query_pairs_mut().append_pair("service", service);
        }
        let request = self.client.get(url);
        let request = match self.question.credentials {
            Some(credentials) => request.header(header::AUTHORIZATION, basic(credentials).expose()),
            None => request,
        };
        let reply = request.send().await.map_err(unreached)?;
        match reply.status() {
            status if status.is_success() => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(self.denied()),
            status => {
                return Err(NotFound::NoAnswer(format!("the registry's token service answered {status}")));
            }
        }
        let Token { token, access_token } = json(reply).await?;
        let token = token.or(access_token).ok_or_else(nonsense)?;
        Ok(Secret::new(format!("Bearer {}", token.expose())))
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<Secret>,
    access_token: Option<Secret>,
}

fn basic(credentials: &RegistryCredentials) -> Secret {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let pair = format!("{}:{}", credentials.username, credentials.password.expose());
    Secret::new(format!("Basic {}", STANDARD.encode(pair)))
}

fn not_for(wanted: &str, platforms: &[String]) -> NotFound {
    NotFound::Absent(format!("the image is not for {wanted}; it is for {}", platforms.join(", ")))
}

fn nonsense() -> NotFound {
    NotFound::NoAnswer("the registry's answer is not as the specification says".into())
}

/// Returns the error with what caused it: "builder error" alone says nothing.
fn with_causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn unreached(error: reqwest::Error) -> NotFound {
    let text = format!("the registry cannot be reached: {}", with_causes(&error.without_url()));
    NotFound::NoAnswer(text.chars().take(300).collect())
}

async fn whole(mut reply: Response) -> Result<Vec<u8>, NotFound> {
    let mut body = Vec::new();
    while let Some(chunk) = reply.chunk().await.map_err(unreached)? {
        if body.len() + chunk.len() > BODY_BYTES_MAX {
            return Err(NotFound::NoAnswer("the registry's answer is larger than 4 MiB".into()));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

async fn json<T: DeserializeOwned>(reply: Response) -> Result<T, NotFound> {
    serde_json::from_slice(&whole(reply).await?).map_err(|_| nonsense())
}

/// Reads the parameters of a challenge of `scheme`: `Bearer realm="…",service="…"`.
fn parameters(challenge: &str, scheme: &str) -> Option<Vec<(String, String)>> {
    let (named, mut rest) = challenge.trim().split_once(' ')?;
    if !named.eq_ignore_ascii_case(scheme) {
        return None;
    }
    let mut found = Vec::new();
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_matches([' ', ',']).to_ascii_lowercase();
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_once(',').unwrap_or((after, "")),
        };
        found.push((name, value.trim().to_owned()));
        rest = after;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_read_with_commas_in_its_values() {
        let challenge = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        let found = parameters(challenge, "bearer").unwrap();
        let value =
            |name: &str| found.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        assert_eq!(value("realm"), Some("https://auth.docker.io/token"));
        assert_eq!(
            (value("service"), value("scope")),
            (Some("registry.docker.io"), Some("repository:a/b:pull,push"))
        );
        assert!(parameters(challenge, "basic").is_none());
        assert_eq!(parameters("Basic realm=x", "basic"), Some(vec![("realm".into(), "x".into())]));
        assert_eq!(parameters("Bearer realm=\"x", "bearer"), None);
    }
}
