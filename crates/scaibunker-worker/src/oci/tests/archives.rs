use std::{fs, path::PathBuf};

use serde_json::json;
use tempfile::TempDir;

use super::images::{Layout, config_of, digest, pack, tar_of};
use crate::{
    bake::Compression,
    oci::{LayerCache, OciError, PulledImage, open_archive},
};

struct Home {
    dir: TempDir,
    cache: LayerCache,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cache = LayerCache::open(dir.path().join("layers")).unwrap();
        Self { dir, cache }
    }

    fn open(&self, archive: &[u8]) -> Result<PulledImage, OciError> {
        let path: PathBuf = self.dir.path().join("archive");
        fs::write(&path, archive).unwrap();
        open_archive(&path, &self.cache, &|_| {})
    }
}

fn layers() -> Vec<Vec<u8>> {
    vec![tar_of("a", b"first"), tar_of("b", b"second")]
}

fn tar_with(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *bytes).unwrap();
    }
    tar.into_inner().unwrap()
}

fn docker_archive(tars: &[Vec<u8>]) -> Vec<u8> {
    let config = config_of(tars).to_string();
    let name = format!("{}.json", &digest(config.as_bytes())["sha256:".len()..]);
    let folders: Vec<_> =
        tars.iter().map(|tar| format!("{}/layer.tar", &digest(tar)["sha256:".len()..])).collect();
    let manifest =
        json!([{ "Config": name, "RepoTags": ["app:1"], "Layers": folders }]).to_string();
    let mut entries: Vec<(&str, &[u8])> = Vec::new();
    entries.extend(folders.iter().map(String::as_str).zip(tars.iter().map(Vec::as_slice)));
    entries.push((&name, config.as_bytes()));
    entries.push(("manifest.json", manifest.as_bytes()));
    tar_with(&entries)
}

#[test]
fn layouts_docker_archives_and_trees_are_told_apart() {
    for packed in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let home = Home::new();
        let layout = Layout::new(&layers(), Compression::Gzip);
        let pulled = home.open(&pack(&layout.tar(), packed)).unwrap();
        assert_eq!(pulled.manifest_digest.as_deref(), Some(layout.manifest_digest.as_str()));
        assert_eq!((pulled.layers.len(), pulled.config.user.as_str()), (2, "1000"));
        assert!(pulled.layers.iter().all(|layer| layer.compression == Compression::Gzip));

        let pulled = home.open(&pack(&docker_archive(&layers()), packed)).unwrap();
        assert_eq!((pulled.layers.len(), pulled.config.workdir.as_str()), (2, "/srv"));
        for (layer, tar) in pulled.layers.iter().zip(layers()) {
            assert_eq!(fs::read(&layer.path).unwrap(), tar);
            assert_eq!(layer.diff_id, Some(digest(&tar)));
        }

        let tree = tar_with(&[("etc/passwd", b"root"), ("bin/sh", b"#!")]);
        let pulled = home.open(&pack(&tree, packed)).unwrap();
        assert_eq!(pulled.layers.len(), 1);
        assert_eq!(pulled.layers[0].compression, packed);
    }
}

#[test]
fn what_skopeo_saves_is_read() {
    let home = Home::new();
    let layout = Layout::new(&layers(), Compression::Gzip);
    let saved = home.dir.path().join("saved.tar");
    let copied = std::process::Command::new("skopeo")
        .args(["copy", "--quiet"])
        .arg(format!("oci:{}", layout.path().display()))
        .arg(format!("docker-archive:{}:app:1", saved.display()))
        .output()
        .unwrap();
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
    let pulled = open_archive(&saved, &home.cache, &|_| {}).unwrap();
    assert_eq!((pulled.layers.len(), pulled.config.user.as_str()), (2, "1000"));
}

#[test]
fn damaged_archives_are_named_as_such_and_leave_nothing() {
    let home = Home::new();
    let layout = Layout::new(&layers(), Compression::Gzip);
    fs::write(layout.blob(&layout.layers[0]), b"something else").unwrap();
    assert!(matches!(home.open(&layout.tar()), Err(OciError::Digest { .. })));
    let docker = docker_archive(&layers());
    assert!(home.open(&docker[..docker.len() / 2]).is_err());
    assert!(home.open(b"no tar at all, but long enough to be read as a header").is_err());
    let missing = tar_with(&[("manifest.json", br#"[{"Config":"x","Layers":["y"]}]"#)]);
    assert!(matches!(home.open(&missing), Err(OciError::Corrupt(_))));
    let escaping = tar_with(&[(
        "manifest.json",
        br#"[{"Config":"/etc/passwd","Layers":["../../etc/passwd"]}]"#,
    )]);
    assert!(matches!(home.open(&escaping), Err(OciError::Corrupt(_))));
    let names: Vec<_> = home.cache.list().unwrap();
    assert!(names.iter().all(|layer| !layer.in_use), "{names:?}");
}
