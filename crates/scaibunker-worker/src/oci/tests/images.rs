//! OCI layouts and archives, written by hand.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::{assets::hexadecimal, bake::Compression};

/// An OCI layout with one image.
pub struct Layout {
    dir: TempDir,
    pub manifest_digest: String,
    /// Of the compressed layers.
    pub layers: Vec<String>,
}

/// A tar with one file of these bytes.
pub fn tar_of(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, name, bytes).unwrap();
    tar.into_inner().unwrap()
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, size: usize) -> Vec<u8> {
    let blocks = (0..size.div_ceil(32) as u64)
        .flat_map(|number| Sha256::digest([seed.to_le_bytes(), number.to_le_bytes()].concat()));
    blocks.take(size).collect()
}

pub fn pack(tar: &[u8], compression: Compression) -> Vec<u8> {
    match compression {
        Compression::None => tar.to_vec(),
        Compression::Gzip => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(tar).unwrap();
            gzip.finish().unwrap()
        }
        Compression::Zstd => zstd::encode_all(tar, 1).unwrap(),
    }
}

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hexadecimal(&Sha256::digest(bytes)))
}

pub fn config_of(tars: &[Vec<u8>]) -> Value {
    let diff_ids: Vec<_> = tars.iter().map(|tar| digest(tar)).collect();
    json!({
        "architecture": "amd64", "os": "linux",
        "config": { "User": "1000", "Env": ["A=b"], "WorkingDir": "/srv" },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
}

impl Layout {
    /// Layers lowest first.
    pub fn new(tars: &[Vec<u8>], compression: Compression) -> Self {
        let mut layout = Self {
            dir: tempfile::tempdir().unwrap(),
            manifest_digest: String::new(),
            layers: vec![],
        };
        fs::create_dir_all(layout.path().join("blobs/sha256")).unwrap();
        fs::write(layout.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let media_type = format!(
            "application/vnd.oci.image.layer.v1.tar{}",
            match compression {
                Compression::None => "",
                Compression::Gzip => "+gzip",
                Compression::Zstd => "+zstd",
            }
        );
        let mut descriptors = Vec::new();
        for tar in tars {
            let descriptor = layout.put(&pack(tar, compression), &media_type);
            layout.layers.push(descriptor["digest"].as_str().unwrap().to_owned());
            descriptors.push(descriptor);
        }
        let config = serde_json::to_vec(&config_of(tars)).unwrap();
        let config = layout.put(&config, "application/vnd.oci.image.config.v1+json");
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": descriptors,
        });
        let manifest = layout.put(&serde_json::to_vec(&manifest).unwrap(), media_type);
        layout.manifest_digest = manifest["digest"].as_str().unwrap().to_owned();
        layout.write_index(&[manifest]);
        layout
    }

    /// Makes the index name images of several platforms, which all are this one.
    pub fn for_platforms(&self, architectures: &[&str]) {
        let manifest = fs::read(self.blob(&self.manifest_digest)).unwrap();
        let entries: Vec<_> = architectures
            .iter()
            .map(|architecture| {
                json!({
                    "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "digest": self.manifest_digest, "size": manifest.len(),
                    "platform": { "os": "linux", "architecture": architecture },
                })
            })
            .collect();
        let media_type = "application/vnd.oci.image.index.v1+json";
        let index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": entries });
        let index = self.put(&serde_json::to_vec(&index).unwrap(), media_type);
        self.write_index(&[index]);
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn blob(&self, digest: &str) -> PathBuf {
        self.path().join("blobs").join(digest.replacen(':', "/", 1))
    }

    /// The layout as one tar.
    pub fn tar(&self) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        tar.append_dir_all(".", self.path()).unwrap();
        tar.into_inner().unwrap()
    }

    fn put(&self, bytes: &[u8], media_type: &str) -> Value {
        let digest = digest(bytes);
        fs::write(self.blob(&digest), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    fn write_index(&self, manifests: &[Value]) {
        let index = json!({ "schemaVersion": 2, "manifests": manifests });
        fs::write(self.path().join("index.json"), index.to_string()).unwrap();
    }
}
