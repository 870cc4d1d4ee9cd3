//! Images: whether they are there, pulling them, and whether a registry has them.

use super::{Engine, Pace, inventory::gone};
use crate::{
    EngineError,
    http::{Call, JsonLines, escaped, shortened},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use orion_domain::{Secret, container::ImageName};
use serde::Deserialize;
use serde_json::json;
use std::{collections::HashMap, time::Duration};
use tokio::time::timeout;

/// Longest that a registry may take until its first word.
const REGISTRY_LIMIT: Duration = Duration::from_secs(30);
/// Longest silence in a pull: unpacking one large layer says nothing.
const PULL_SILENCE_MAX: Duration = Duration::from_secs(180);
const REMOVE_LIMIT: Duration = Duration::from_secs(60);
/// Largest number of layers that are counted.
const LAYERS_MAX: usize = 1_000;

/// Credentials for one registry: given to the engine with a call, and kept by it nowhere.
#[derive(Debug, Clone)]
pub struct RegistryCredentials {
    /// Name of the user.
    pub username: String,
    /// Password or token.
    pub password: Secret,
}

/// An image on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// The engine's id.
    pub id: String,
    /// Names with tags.
    pub tags: Vec<String>,
    /// Bytes on the disk, with the layers that it shares.
    pub size_bytes: u64,
}

/// An image in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteImage {
    /// Digest of its manifest.
    pub digest: String,
    /// Platforms that it is for, `linux/amd64`.
    pub platforms: Vec<String>,
}

/// State of a pull.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// Layers that are known so far.
    pub layers: usize,
    /// Layers that are complete.
    pub layers_done: usize,
    /// Bytes that were fetched.
    pub bytes: u64,
    /// Bytes of all layers whose size is known.
    pub bytes_total: u64,
}

/// A pull that goes on. Dropping it ends the pull.
pub struct Pull {
    lines: JsonLines,
    layers: HashMap<String, Layer>,
}

#[derive(Default)]
struct Layer {
    bytes: u64,
    total: u64,
    done: bool,
}

impl std::fmt::Debug for Pull {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pull").field("progress", &self.progress()).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct PullLine {
    id: Option<String>,
    #[serde(default)]
    status: String,
    #[serde(rename = "progressDetail")]
    detail: Option<Detail>,
    error: Option<String>,
}

#[derive(Default, Deserialize)]
struct Detail {
    current: Option<u64>,
    total: Option<u64>,
}

impl Pull {
    /// Returns the next state of the pull; none when the image is there.
    pub async fn next(&mut self) -> Option<Result<PullProgress, EngineError>> {
        match timeout(PULL_SILENCE_MAX, self.lines.next::<PullLine>()).await {
            Err(_elapsed) => Some(Err(EngineError::TimedOut("pull"))),
            Ok(None) => None,
            Ok(Some(Err(error))) => Some(Err(error)),
            // A pull that fails says so in its stream, and its status was 200 long before.
            Ok(Some(Ok(PullLine { error: Some(error), .. }))) => {
                Some(Err(EngineError::of_reply(500, &shortened(&error))))
            }
            Ok(Some(Ok(line))) => {
                self.note(line);
                Some(Ok(self.progress()))
            }
        }
    }

    /// Waits for the end of the pull.
    ///
    /// # Errors
    /// See [`EngineError::meaning`].
    pub async fn finish(mut self) -> Result<(), EngineError> {
        while let Some(progress) = self.next().await {
            progress?;
        }
        Ok(())
    }

    fn note(&mut self, line: PullLine) {
        let Some(id) = line.id else { return };
        // "Pulling from x" has the tag for its id.
        let is_layer = !line.status.starts_with("Pulling from");
        if !is_layer || (self.layers.len() >= LAYERS_MAX && !self.layers.contains_key(&id)) {
            return;
        }
        let layer = self.layers.entry(id).or_default();
        let detail = line.detail.unwrap_or_default();
        match line.status.as_str() {
            "Downloading" => {
                layer.bytes = detail.current.unwrap_or(layer.bytes);
                layer.total = detail.total.unwrap_or(layer.total);
            }
            "Download complete" | "Extracting" | "Verifying Checksum" => {
                layer.total = layer.total.max(detail.total.unwrap_or_default());
                layer.bytes = layer.total;
            }
            "Pull complete" | "Already exists" => {
                layer.done = true;
                layer.bytes = layer.total;
            }
            _ => {}
        }
    }

    fn progress(&self) -> PullProgress {
        PullProgress {
            layers: self.layers.len(),
            layers_done: self.layers.values().filter(|layer| layer.done).count(),
            bytes: self.layers.values().map(|layer| layer.bytes).sum(),
            bytes_total: self.layers.values().map(|layer| layer.total).sum(),
        }
    }
}

/// The value of `X-Registry-Auth`.
fn registry_auth(image: &ImageName, credentials: Option<&RegistryCredentials>) -> Option<String> {
    let credentials = credentials?;
    let server = match image.registry() {
        orion_domain::container::DOCKER_HUB => "https://index.docker.io/v1/",
        other => other,
    };
    let auth = json!({
        "username": credentials.username,
        "password": credentials.password.expose(),
        "serveraddress": server,
    });
    Some(URL_SAFE.encode(auth.to_string()))
}

/// The path keeps the slashes of the name: the API takes them as they are.
fn image_path(image: &ImageName) -> String {
    image.familiar().split('/').map(escaped).collect::<Vec<_>>().join("/")
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
    repo_tags: Option<Vec<String>>,
    size: u64,
}

impl From<Listed> for ImageInfo {
    fn from(listed: Listed) -> Self {
        Self { id: listed.id, tags: listed.repo_tags.unwrap_or_default(), size_bytes: listed.size }
    }
}

impl Engine {
    /// Returns the image if it is on the node.
    ///
    /// # Errors
    /// See [`EngineError::meaning`].
    pub async fn image(&self, image: &ImageName) -> Result<Option<ImageInfo>, EngineError> {
        let call = Call::get(format!("/images/{}/json", image_path(image)), "inspect image");
        match self.ask::<Listed>(call).await {
            Ok(found) => Ok(Some(found.into())),
            Err(EngineError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lists the images on the node.
    ///
    /// # Errors
    /// See [`EngineError::meaning`].
    pub async fn images(&self) -> Result<Vec<ImageInfo>, EngineError> {
        let listed: Vec<Listed> = self.ask(Call::get("/images/json", "list images")).await?;
        Ok(listed.into_iter().map(ImageInfo::from).collect())
    }

    /// Removes an image by name or id; one that is gone is fine.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] while a container uses it.
    pub async fn remove_image(&self, id: &str) -> Result<(), EngineError> {
        let call = Call::delete(format!("/images/{}", escaped(id)), "remove image").within(REMOVE_LIMIT);
        gone(self.call(call).await.map(drop))
    }

    /// Begins a pull; [`Pull::next`] says how far it is.
    ///
    /// # Errors
    /// [`EngineError::Denied`] and [`EngineError::NotFound`], here or in the course of the pull.
    pub async fn pull(
        &self,
        image: &ImageName,
        credentials: Option<&RegistryCredentials>,
    ) -> Result<Pull, EngineError> {
        let (from, tag) = (escaped(&image.familiar_repository()), escaped(image.reference()));
        let mut call = Call::post(format!("/images/create?fromImage={from}&tag={tag}"), "pull");
        call.registry_auth = registry_auth(image, credentials);
        let lines = self.json_lines(&call.within(REGISTRY_LIMIT), Pace::AtOnce).await?;
        Ok(Pull { lines, layers: HashMap::new() })
    }

    /// Asks the registry for an image, by the node's engine and without a pull.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] or [`EngineError::Denied`] where the registry has none for these credentials.
    pub async fn test_image(
        &self,
        image: &ImageName,
        credentials: Option<&RegistryCredentials>,
    ) -> Result<RemoteImage, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Found {
            descriptor: Descriptor,
            platforms: Option<Vec<Platform>>,
        }
        #[derive(Deserialize)]
        struct Descriptor {
            digest: String,
        }
        #[derive(Deserialize)]
        struct Platform {
            #[serde(default)]
            os: String,
            #[serde(default)]
            architecture: String,
        }
        let mut call = Call::get(format!("/distribution/{}/json", image_path(image)), "test image");
        call.registry_auth = registry_auth(image, credentials);
        let found: Found = self.ask(call.within(REGISTRY_LIMIT)).await?;
        let platform = |platform: Platform| format!("{}/{}", platform.os, platform.architecture);
        Ok(RemoteImage {
            digest: found.descriptor.digest,
            platforms: found.platforms.into_iter().flatten().map(platform).collect(),
        })
    }
}
