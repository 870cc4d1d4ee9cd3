//! Manifests of images, as registries give them: an index of platforms, or the layers of one platform.

use serde::Deserialize;
use std::collections::HashSet;

/// What may be asked for, newest first.
pub const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// An index, or the manifest of one platform.
#[derive(Debug, Deserialize)]
pub struct Manifest {
    #[serde(default)]
    manifests: Vec<Entry>,
    #[serde(default)]
    layers: Vec<Blob>,
    /// Blob that says for what platform the image is.
    pub config: Option<Blob>,
}

/// A manifest of an index.
#[derive(Clone, Debug, Deserialize)]
pub struct Entry {
    /// Digest of the manifest.
    pub digest: String,
    platform: Option<Platform>,
}

/// A blob of an image.
#[derive(Clone, Debug, Deserialize)]
pub struct Blob {
    /// Digest of the blob.
    pub digest: String,
    size: u64,
}

/// A platform, in an index and in the configuration of an image.
#[derive(Clone, Debug, Deserialize)]
pub struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl Platform {
    /// Whether this is the platform that a text names; a variant may be left out.
    pub fn is(&self, wanted: &str) -> bool {
        self.to_string() == wanted || format!("{}/{}", self.os, self.architecture) == wanted
    }
}

impl Entry {
    /// Returns the platform; none of an attestation, which is no image.
    pub fn platform(&self) -> Option<&Platform> {
        self.platform.as_ref().filter(|platform| platform.os != "unknown")
    }
}

impl Manifest {
    /// Returns the images of an index; none of the manifest of one platform.
    pub fn entries(&self) -> Vec<&Entry> {
        self.manifests.iter().filter(|entry| entry.platform.is_none() || entry.platform().is_some()).collect()
    }

    /// Returns how many layers there are, and their compressed bytes; a layer that stands twice is fetched once.
    pub fn size(&self) -> (usize, u64) {
        let mut seen = HashSet::new();
        let once = self.layers.iter().filter(|layer| seen.insert(&layer.digest));
        (self.layers.len(), once.map(|layer| layer.size).fold(0, u64::saturating_add))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_index_has_its_platforms_without_attestations_and_a_layer_counts_once() {
        let index: Manifest = serde_json::from_value(json!({ "manifests": [
            { "digest": "sha256:a", "size": 1, "platform": { "os": "linux", "architecture": "arm64", "variant": "v8" } },
            { "digest": "sha256:b", "size": 1, "platform": { "os": "unknown", "architecture": "unknown" } },
        ] }))
        .unwrap();
        let entries = index.entries();
        let platform = entries[0].platform().unwrap();
        assert_eq!((entries.len(), platform.to_string().as_str()), (1, "linux/arm64/v8"));
        assert!(platform.is("linux/arm64") && platform.is("linux/arm64/v8") && !platform.is("linux/amd64"));
        let layer = |digest: &str| json!({ "digest": digest, "size": 7 });
        let single: Manifest =
            serde_json::from_value(json!({ "layers": [layer("x"), layer("y"), layer("x")] })).unwrap();
        assert_eq!((single.size(), single.entries().len()), ((3, 14), 0));
    }
}
