//! Manifests, indexes and what of them is used.

use serde::Deserialize;

use super::{MAX_IMAGE_BYTES, MAX_LAYERS, OciError, sha256_hex};
use crate::bake::Compression;

pub const MAX_MANIFEST_BYTES: usize = 4 << 20;
pub const MAX_CONFIG_BYTES: usize = 8 << 20;

/// What a registry is asked for.
pub const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";

/// One image, or several for different platforms.
#[derive(Debug)]
pub enum Document {
    Image(Manifest),
    Index(Vec<IndexEntry>),
}

/// One image's parts.
#[derive(Debug)]
pub struct Manifest {
    pub config: Blob,
    /// Lowest first.
    pub layers: Vec<LayerBlob>,
}

/// A blob and what is said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    pub digest: String,
    pub size_bytes: u64,
}

/// A layer's blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerBlob {
    pub blob: Blob,
    pub compression: Compression,
}

#[derive(Debug, Deserialize)]
struct RawDocument {
    #[serde(rename = "schemaVersion")]
    schema_version: Option<u32>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<IndexEntry>>,
}

#[derive(Debug, Deserialize)]
struct Descriptor {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    digest: String,
    size: u64,
}

/// One image of an index.
#[derive(Debug, Deserialize)]
pub struct IndexEntry {
    pub digest: String,
    #[serde(default)]
    pub platform: Option<Platform>,
}

/// What an image runs on.
#[derive(Debug, Deserialize)]
pub struct Platform {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub os: String,
}

/// Reads a manifest or an index.
pub fn parse(bytes: &[u8]) -> Result<Document, OciError> {
    let raw: RawDocument = serde_json::from_slice(bytes)
        .map_err(|error| OciError::Corrupt(format!("the manifest cannot be read: {error}")))?;
    if raw.schema_version == Some(1) {
        return Err(OciError::Refused(
            "it has a manifest of schema version 1, which is obsolete; push it again with a \
             current tool"
                .to_owned(),
        ));
    }
    match (raw.config, raw.layers, raw.manifests) {
        (Some(config), Some(layers), None) => Ok(Document::Image(manifest(&config, layers)?)),
        (None, None, Some(entries)) => Ok(Document::Index(entries)),
        _ => Err(OciError::Corrupt("the manifest is neither an image nor an index".to_owned())),
    }
}

/// The entry for bunkers: linux/amd64. An index with one entry and no platforms means that one.
pub fn for_this_platform<'a>(
    entries: &'a [IndexEntry],
    name: &str,
) -> Result<&'a IndexEntry, OciError> {
    let is_ours = |entry: &&IndexEntry| {
        entry.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture == "amd64")
    };
    let only = || (entries.len() == 1 && entries[0].platform.is_none()).then(|| &entries[0]);
    entries.iter().find(is_ours).or_else(only).ok_or_else(|| {
        let platforms = entries.iter().take(16).map(|entry| match &entry.platform {
            Some(platform) => shortened(&format!("{}/{}", platform.os, platform.architecture)),
            None => "unknown".to_owned(),
        });
        let platforms = platforms.collect::<Vec<_>>().join(", ");
        OciError::Platform { name: name.to_owned(), platforms }
    })
}

fn manifest(config: &Descriptor, layers: Vec<Descriptor>) -> Result<Manifest, OciError> {
    if layers.len() > MAX_LAYERS {
        let message = format!("it has {} layers, at most {MAX_LAYERS} are taken", layers.len());
        return Err(OciError::Refused(message));
    }
    let total = layers.iter().fold(0u64, |total, layer| total.saturating_add(layer.size));
    if total > MAX_IMAGE_BYTES {
        let message = format!("its layers have {total} bytes, at most {MAX_IMAGE_BYTES} are taken");
        return Err(OciError::Refused(message));
    }
    if config.size > MAX_CONFIG_BYTES as u64 {
        return Err(OciError::Refused("its configuration is larger than 8 MiB".to_owned()));
    }
    let layers = layers.iter().map(|layer| {
        Ok(LayerBlob { blob: blob(layer)?, compression: compression(&layer.media_type)? })
    });
    Ok(Manifest { config: blob(config)?, layers: layers.collect::<Result<_, OciError>>()? })
}

fn blob(descriptor: &Descriptor) -> Result<Blob, OciError> {
    if sha256_hex(&descriptor.digest).is_none() {
        let digest = shortened(&descriptor.digest);
        return Err(OciError::Refused(format!("the digest `{digest}` is not a SHA-256")));
    }
    Ok(Blob { digest: descriptor.digest.clone(), size_bytes: descriptor.size })
}

/// Of OCI's and Docker's media types; a layer that is kept elsewhere (`nondistributable`,
/// `foreign`) cannot be had.
fn compression(media_type: &str) -> Result<Compression, OciError> {
    match media_type {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.docker.image.rootfs.diff.tar" => Ok(Compression::None),
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Ok(Compression::Gzip),
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Ok(Compression::Zstd),
        other => Err(OciError::Refused(format!(
            "layers of the media type `{}` cannot be unpacked",
            shortened(other)
        ))),
    }
}

/// A registry's word in an error text.
fn shortened(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(100).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;

    fn layer(media_type: &str, size: u64) -> Value {
        json!({ "mediaType": media_type, "digest": format!("sha256:{}", "0".repeat(64)), "size": size })
    }

    fn image(layers: &[Value]) -> Result<Document, OciError> {
        let config = layer("application/vnd.oci.image.config.v1+json", 10);
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": layers });
        parse(manifest.to_string().as_bytes())
    }

    #[test]
    fn layers_keep_their_order_and_compression() {
        let kinds = ["tar", "tar+gzip", "tar+zstd"];
        let layers =
            kinds.map(|kind| layer(&format!("application/vnd.oci.image.layer.v1.{kind}"), 5));
        let Ok(Document::Image(manifest)) = image(&layers) else { panic!() };
        let found: Vec<_> = manifest.layers.iter().map(|layer| layer.compression).collect();
        assert_eq!(found, [Compression::None, Compression::Gzip, Compression::Zstd]);
    }

    #[test]
    fn what_is_out_of_bounds_is_refused() {
        let kind = "application/vnd.oci.image.layer.v1.tar";
        for layers in [
            vec![layer(kind, u64::MAX), layer(kind, u64::MAX)],
            vec![layer(kind, 1); MAX_LAYERS + 1],
            vec![layer("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", 1)],
        ] {
            assert!(matches!(image(&layers), Err(OciError::Refused(_))));
        }
        let old = parse(br#"{"schemaVersion": 1, "fsLayers": []}"#);
        assert!(matches!(old, Err(OciError::Refused(_))));
        assert!(matches!(parse(b"{}"), Err(OciError::Corrupt(_))));
    }

    #[test]
    fn an_index_offers_the_image_of_this_platform() {
        let entry = |os: &str, architecture: &str, digest: &str| {
            let platform = json!({ "os": os, "architecture": architecture });
            json!({ "digest": digest, "platform": platform })
        };
        let index =
            json!({ "manifests": [entry("linux", "arm64", "a"), entry("linux", "amd64", "b")] });
        let Ok(Document::Index(entries)) = parse(index.to_string().as_bytes()) else { panic!() };
        assert_eq!(for_this_platform(&entries, "x").unwrap().digest, "b");
        let error = for_this_platform(&entries[..1], "x").unwrap_err().to_string();
        assert!(error.contains("only for linux/arm64"), "{error}");
    }

    #[test]
    fn no_document_is_too_odd() {
        bolero::check!().with_test_time(Duration::from_secs(1)).for_each(|bytes| {
            let _ = parse(bytes);
        });
    }
}
