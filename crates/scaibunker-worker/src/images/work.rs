//! Getting one image: from its source, or from the storage proxy.

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use scaibunker_api::{
    ids::ImageId,
    image::RootConfig,
    worker::{BakeSource, BakedRoot, EnsureImage, ImageFaultCause, ImageFrom},
};

use super::{
    fault::{self, Fault},
    records::ImageRecord,
    roots::{Root, RootLease, RootManifest},
    state::Event,
    store::Images,
    transfer::{self, Scrap},
};
use crate::{
    bake::{self, BakeJob, LayerFile},
    oci::{self, PulledImage},
};

/// Largest archive that is fetched, in bytes.
const MAX_ARCHIVE_BYTES: u64 = 64 << 30;

/// What commands find where an image's own configuration says nothing.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An image without a user means root, by number: it need not have a passwd file.
const ROOT_USER: &str = "0";

impl Images {
    /// Brings the image here, whatever is there of it, and stores what was baked.
    pub(super) async fn get_image(&self, id: ImageId, ask: &EnsureImage) -> Result<(), Fault> {
        // The lease keeps the root from eviction until it is the image's.
        let (root, _lease) = match &ask.from {
            ImageFrom::Stored { baked } => self.fetch(id, baked).await?,
            ImageFrom::Source { source, size_mib } => self.bake(id, source, *size_mib).await?,
        };
        let record = ImageRecord {
            name: ask.name.clone(),
            digest: root.manifest.digest.clone(),
            baked_here: matches!(ask.from, ImageFrom::Source { .. }),
            baked: None,
            default_cpu_millicores: ask.default_cpu_millicores,
            default_memory_mb: ask.default_memory_mb,
            default_disk_mb: ask.default_disk_mb,
        };
        self.arrived(id, record, &root)
    }

    async fn fetch(&self, id: ImageId, baked: &BakedRoot) -> Result<(Root, RootLease), Fault> {
        if let Some(leased) = self.roots().lease(&baked.digest) {
            return Ok(leased);
        }
        self.note(id, Event::Pulling);
        self.make_room(baked.size_bytes)?;
        let file = Scrap::at(self.scrap_path("fetched"));
        let images = self.clone();
        let progress = move |percent| images.note(id, Event::Progress(percent));
        transfer::fetch_root(self.storage(), baked, file.path(), progress).await?;
        let manifest = RootManifest {
            digest: baked.digest.clone(),
            size_bytes: baked.size_bytes,
            manifest_digest: baked.manifest_digest.clone(),
            config: baked.config.clone(),
        };
        self.put_root(file.path(), manifest).await
    }

    async fn bake(
        &self,
        id: ImageId,
        source: &BakeSource,
        size_mib: u32,
    ) -> Result<(Root, RootLease), Fault> {
        self.note(id, Event::Pulling);
        self.make_room(0)?;
        let mut pulled = self.pull(id, source).await?;
        complete(&mut pulled.config);
        self.note(id, Event::Baking);
        let result = Scrap::at(self.scrap_path("ext4"));
        let layers: Vec<_> = pulled
            .layers
            .iter()
            .map(|layer| LayerFile {
                path: &layer.path,
                compression: layer.compression,
                diff_id: layer.diff_id.as_deref(),
            })
            .collect();
        let job = BakeJob {
            layers: &layers,
            size_mib,
            work_dir: &self.scrap_path("work"),
            result: result.path(),
            program: self.program(),
            cgroups: self.cgroups(),
            progress: &|percent| self.note(id, Event::Progress(percent)),
        };
        let baked = bake::bake(job).await?;
        let manifest = RootManifest {
            digest: baked.digest,
            size_bytes: baked.size_bytes,
            manifest_digest: pulled.manifest_digest.clone(),
            config: pulled.config.clone(),
        };
        let digest = manifest.digest.clone();
        let leased = self.put_root(result.path(), manifest).await?;
        drop(pulled);
        if let Err(fault) = self.make_room(0) {
            drop(leased);
            self.evict_root(&digest);
            return Err(fault);
        }
        Ok(leased)
    }

    async fn pull(&self, id: ImageId, source: &BakeSource) -> Result<PulledImage, Fault> {
        let images = self.clone();
        let progress = move |progress: oci::Progress| {
            let percent = progress.done_bytes.saturating_mul(100) / progress.total_bytes.max(1);
            images.note(id, Event::Progress(percent.min(100) as u8));
        };
        match source {
            BakeSource::Oci { reference, auth } => {
                let layers = self.layers();
                Ok(self.registry().pull(reference, auth.as_ref(), layers, &progress).await?)
            }
            BakeSource::TarPath { path } => {
                let file = import(self.import_dir(), path)?;
                let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
                let opened = self.open_archive(path, progress).await;
                drop(file);
                opened
            }
            BakeSource::TarKey { key } => {
                let file = Scrap::at(self.scrap_path("archive"));
                let target = file.path();
                transfer::fetch_object(self.storage(), key, target, MAX_ARCHIVE_BYTES).await?;
                self.open_archive(target.to_owned(), progress).await
            }
        }
    }

    async fn open_archive(
        &self,
        path: PathBuf,
        progress: impl Fn(oci::Progress) + Send + Sync + 'static,
    ) -> Result<PulledImage, Fault> {
        let layers = self.layers().clone();
        let opening =
            tokio::task::spawn_blocking(move || oci::open_archive(&path, &layers, &progress));
        match opening.await {
            Ok(opened) => Ok(opened?),
            Err(error) => {
                let message = format!("internal error: {error}");
                Err(fault::of(ImageFaultCause::Internal, message).into())
            }
        }
    }
}

/// Fills in what every runtime assumes.
fn complete(config: &mut RootConfig) {
    if config.user.is_empty() {
        config.user = ROOT_USER.to_owned();
    }
    config.env.entry("PATH".to_owned()).or_insert_with(|| DEFAULT_PATH.to_owned());
}

/// The archive that a request names, by a descriptor: nothing on the way can be exchanged, and no
/// link leads out of the directory.
fn import(import_dir: &Path, path: &str) -> Result<OwnedFd, Fault> {
    let absent = |reason: &str| {
        let message = format!(
            "no such archive: `{path}` {reason}; put it below the worker's import directory {}",
            import_dir.display()
        );
        Fault(fault::of(ImageFaultCause::NotFound, message))
    };
    let relative = Path::new(path).strip_prefix(import_dir).unwrap_or(Path::new(path));
    let is_plain = relative.components().all(|part| matches!(part, Component::Normal(_)));
    if path.is_empty() || !is_plain {
        return Err(absent("is not below it"));
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::DIRECTORY;
    let dir = rustix::fs::openat(CWD, import_dir, flags, Mode::empty())
        .map_err(|_| absent("cannot be looked for"))?;
    let file = rustix::fs::openat2(
        &dir,
        relative,
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
    )
    .map_err(|_| absent("is not there"))?;
    let is_file = rustix::fs::fstat(&file)
        .is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file());
    if !is_file {
        return Err(absent("is not a file"));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn an_archive_is_a_file_below_the_import_directory() {
        let dir = tempfile::tempdir().unwrap();
        let import = dir.path().join("import");
        fs::create_dir_all(import.join("sub")).unwrap();
        fs::write(import.join("sub/image.tar"), "x").unwrap();
        fs::write(dir.path().join("secret.tar"), "x").unwrap();
        symlink("../secret.tar", import.join("link.tar")).unwrap();
        symlink("sub/image.tar", import.join("inner.tar")).unwrap();
        let absolute = import.join("sub/image.tar");
        for allowed in ["sub/image.tar", "inner.tar", absolute.to_str().unwrap()] {
            assert!(super::import(&import, allowed).is_ok(), "{allowed}");
        }
        for refused in
            ["", ".", "..", "../secret.tar", "link.tar", "sub", "none.tar", "/etc/passwd"]
        {
            let Fault(fault) = super::import(&import, refused).unwrap_err();
            assert_eq!(fault.cause, ImageFaultCause::NotFound, "{refused}");
        }
    }

    #[test]
    fn an_image_that_says_nothing_runs_as_root_with_a_path() {
        let mut config = RootConfig::default();
        complete(&mut config);
        assert_eq!((config.user.as_str(), config.env["PATH"].as_str()), ("0", DEFAULT_PATH));
    }
}
