//! The guest kernel: Debian's cloud kernel, downloaded and unpacked, never installed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    AssetError, Kernel, Progress, archive, blocking, bzimage,
    initramfs::initramfs,
    io_failed, module,
    program::{Call, XZ},
    recipe,
    slot::{Slot, Workshop},
};

/// Depends on the newest kernel of the host's Debian release that is built for VMs.
const METAPACKAGE: &str = "linux-image-cloud-amd64";

/// Any change of what a slot holds needs another number here.
const LAYOUT: &str = "1";

const UNPACK_LIMIT: Duration = Duration::from_secs(60);

/// What a slot of `<cache>/kernel` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    release: String,
    /// Files below `modules/`, in load order.
    modules: Vec<String>,
}

/// The newest kernel in the cache, else Debian's newest, with an initramfs around `guest_agent`.
pub async fn kernel(
    cache: &Path,
    guest_agent: &Path,
    progress: &Progress,
) -> Result<Kernel, AssetError> {
    let agent = fs::read(guest_agent).map_err(io_failed("read the guest agent", guest_agent))?;
    let (slot, manifest) = match newest(&cache.join("kernel")) {
        Some(found) => found,
        None => download(&cache.join("kernel"), progress).await?,
    };
    let mut modules = Vec::new();
    for file in &manifest.modules {
        let path = slot.path("modules").join(file);
        let bytes = fs::read(&path).map_err(io_failed("read", &path))?;
        let name = module::name_of(file).unwrap_or_default();
        modules.push((name, bytes));
    }
    let initramfs = initramfs(&cache.join("initramfs"), &agent, &modules, progress).await?;
    Ok(Kernel { release: manifest.release, vmlinux: slot.path("vmlinux"), initramfs })
}

fn recipe_name() -> String {
    let mut ingredients = vec![LAYOUT];
    ingredients.extend(module::WANTED);
    recipe(&ingredients)
}

fn newest(dir: &Path) -> Option<(Slot<Manifest>, Manifest)> {
    let suffix = format!("-{}", recipe_name());
    let entries = fs::read_dir(dir).ok()?.flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(&suffix))
        .filter_map(|entry| {
            let slot = Slot::<Manifest>::new(entry.path());
            slot.manifest().map(|manifest| (slot, manifest))
        })
        .max_by_key(|(_, manifest)| version(&manifest.release))
}

/// The numbers in a release such as `6.1.0-56-cloud-amd64`, which order releases.
fn version(release: &str) -> Vec<u64> {
    let numbers = release.split(|c: char| !c.is_ascii_digit());
    numbers.filter_map(|digits| digits.parse().ok()).collect()
}

async fn download(
    dir: &Path,
    progress: &Progress,
) -> Result<(Slot<Manifest>, Manifest), AssetError> {
    let packages = archive::dependencies(METAPACKAGE).await?;
    let found = packages.iter().find_map(|package| package.strip_prefix("linux-image-"));
    let release = found.ok_or(AssetError::NoKernelPackage { package: METAPACKAGE })?;
    let slot = Slot::new(dir.join(format!("{release}-{}", recipe_name())));
    let make = |workshop: Workshop| async move {
        progress(&format!("downloading Debian's kernel {release}, the first time only"));
        make(release, workshop).await
    };
    let manifest = slot.fill(progress, make).await?;
    Ok((slot, manifest))
}

async fn make(release: &str, workshop: Workshop) -> Result<Manifest, AssetError> {
    let package = format!("linux-image-{release}");
    let files = archive::unpacked(&package, &workshop.temporary).await?;
    let image = files.join("boot").join(format!("vmlinuz-{release}"));
    let vmlinux = workshop.result.join("vmlinux");
    blocking(move || {
        let bytes = fs::read(&image).map_err(io_failed("read", &image))?;
        let kernel = bzimage::vmlinux(&bytes)
            .map_err(|source| AssetError::Kernel { path: image.clone(), source })?;
        fs::write(&vmlinux, kernel).map_err(io_failed("write", &vmlinux))
    })
    .await?;
    // Since Debian's merge of `/usr`, packages may hold either path.
    let modules = ["lib/modules", "usr/lib/modules"].map(|dir| files.join(dir).join(release));
    let Some(modules) = modules.iter().find(|dir| dir.is_dir()) else {
        return Err(AssetError::Contents { path: files, what: "the kernel's modules" });
    };
    let modules = take_modules(modules, &workshop.result.join("modules")).await?;
    Ok(Manifest { release: release.to_owned(), modules })
}

/// Copies what the guest needs, in load order; returns the files' names.
async fn take_modules(from: &Path, to: &Path) -> Result<Vec<String>, AssetError> {
    let list = from.join("modules.builtin");
    let builtin = fs::read_to_string(&list).map_err(io_failed("read", &list))?;
    let files = module_files(&from.join("kernel")).await?;
    let read = |name: &str| match files.get(name) {
        Some(path) => fs::read(path).map(Some).map_err(io_failed("read", path)),
        None => Ok(None),
    };
    let order = module::load_order(&module::WANTED, &module::builtin(&builtin), read)
        .map_err(|error| AssetError::Modules(crate::chain(&error)))?;
    fs::create_dir(to).map_err(io_failed("make", to))?;
    let mut names = Vec::new();
    for (name, bytes) in order {
        let file = format!("{name}.ko");
        let path = to.join(&file);
        fs::write(&path, bytes).map_err(io_failed("write", &path))?;
        names.push(file);
    }
    Ok(names)
}

/// The module files below `dir`, unpacked where the package has them compressed, by module name.
async fn module_files(dir: &Path) -> Result<BTreeMap<String, PathBuf>, AssetError> {
    let mut files = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).map_err(io_failed("list", &dir))?.flatten() {
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_dir { open.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    let is_compressed = |path: &&mut PathBuf| path.extension() == Some("xz".as_ref());
    let compressed: Vec<_> = files.iter_mut().filter(is_compressed).collect();
    if !compressed.is_empty() {
        let paths = compressed.iter().map(|path| path.as_os_str().to_owned());
        let args = ["--decompress".into(), "--".into()].into_iter().chain(paths);
        Call::new(XZ, dir, UNPACK_LIMIT, args).run().await?;
        for path in compressed {
            path.set_extension("");
        }
    }
    let named = files.into_iter().filter_map(|path| {
        let name = module::name_of(&path.to_string_lossy())?;
        Some((name, path))
    });
    Ok(named.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_ordered_by_their_numbers() {
        assert!(version("6.1.0-9-cloud-amd64") < version("6.1.0-56-cloud-amd64"));
        assert!(version("6.1.0-56-cloud-amd64") < version("6.12.1-1-cloud-amd64"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_whole_cache_is_enough_and_the_newest_kernel_is_taken() {
        let cache = tempfile::tempdir().unwrap();
        let agent = cache.path().join("agent");
        fs::write(&agent, "agent").unwrap();
        for release in ["6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64"] {
            let dir = cache.path().join(format!("kernel/{release}-{}", recipe_name()));
            let manifest =
                Manifest { release: release.to_owned(), modules: vec!["virtio.ko".to_owned()] };
            let fill = |workshop: Workshop| async move {
                fs::create_dir(workshop.result.join("modules")).unwrap();
                fs::write(workshop.result.join("modules/virtio.ko"), "module").unwrap();
                Ok(manifest)
            };
            Slot::new(dir).fill(&|_| {}, fill).await.unwrap();
        }
        // Unfinished, so not taken although it is newer.
        fs::create_dir(cache.path().join(format!("kernel/7.0-{}", recipe_name()))).unwrap();
        let kernel = kernel(cache.path(), &agent, &|_| {}).await.unwrap();
        assert_eq!(kernel.release, "6.1.0-56-cloud-amd64");
        assert!(kernel.vmlinux.starts_with(cache.path().join("kernel")));
        assert!(kernel.initramfs.exists());
    }

    #[tokio::test]
    async fn compressed_modules_are_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let nested = dir.path().join("drivers/virtio");
        fs::create_dir_all(&nested).unwrap();
        fs::write(nested.join("virtio-mmio.ko"), "module").unwrap();
        fs::write(nested.join("virtio_ring.ko"), "ring").unwrap();
        let file = nested.join("virtio-mmio.ko").into_os_string();
        Call::new(XZ, dir.path(), UNPACK_LIMIT, [file]).run().await.unwrap();
        assert!(nested.join("virtio-mmio.ko.xz").exists());
        let files = module_files(dir.path()).await.unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), ["virtio_mmio", "virtio_ring"]);
        assert_eq!(fs::read(&files["virtio_mmio"]).unwrap(), b"module");
    }
}
