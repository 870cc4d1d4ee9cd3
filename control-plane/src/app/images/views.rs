//! What the API shows of images.

use super::registry::{NotFound, Remote};
use orion_containers::RemoteImage;
use orion_domain::container::ImageName;
use serde::Serialize;
use utoipa::ToSchema;

/// An image, as its registry describes it.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = ImageTest)]
pub struct ImageTestView {
    /// The whole name of the image.
    image: String,
    /// Whether the registry has it; `null` where the registry did not answer.
    #[schema(required)]
    exists: Option<bool>,
    /// A sentence for people: why `exists` is not `true`.
    #[schema(required)]
    reason: Option<String>,
    /// Digest of its manifest, or of its index of platforms.
    #[schema(required)]
    digest: Option<String>,
    /// Platforms that it is for.
    platforms: Vec<String>,
    /// The platform that `layers` and `size_bytes` are of.
    #[schema(required)]
    platform: Option<String>,
    #[schema(required)]
    layers: Option<usize>,
    /// Compressed bytes of its layers, which a pull fetches.
    #[schema(required)]
    size_bytes: Option<u64>,
    /// Whether it is on the lease's node; `null` where no lease was named, or its node does not say.
    #[schema(required)]
    on_node: Option<bool>,
}

impl ImageTestView {
    /// Shows what a registry has.
    pub(super) fn of_remote(remote: Remote) -> Self {
        Self {
            exists: Some(true),
            digest: Some(remote.digest),
            platforms: remote.platforms,
            platform: remote.platform,
            layers: Some(remote.layers),
            size_bytes: Some(remote.size_bytes),
            ..Self::default()
        }
    }

    /// Shows that nothing was found.
    pub(super) fn without(why: NotFound) -> Self {
        let (exists, reason) = match why {
            NotFound::Absent(reason) => (Some(false), reason),
            NotFound::NoAnswer(reason) => (None, reason),
        };
        Self { exists, reason: Some(reason), ..Self::default() }
    }

    /// Shows what an engine says of a registry's image.
    pub(super) fn without_size(found: RemoteImage) -> Self {
        Self { exists: Some(true), digest: Some(found.digest), platforms: found.platforms, ..Self::default() }
    }

    /// Adds whose answer it is.
    pub(super) fn named(self, image: &ImageName, on_node: Option<bool>) -> Self {
        Self { image: image.to_string(), on_node, ..self }
    }
}
