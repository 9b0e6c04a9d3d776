//! The built-in images and their place in the cache.

use std::{collections::BTreeMap, fs::File, io, path::Path, time::Duration};

use scaibunker_api::image::RootConfig;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    AssetError, BakedImage, Progress, blocking, busybox, debian, hexadecimal, io_failed,
    program::{Call, E2FSCK},
    recipe,
    slot::{Slot, Workshop},
};

/// Names of the images this program can bake.
pub const BUILT_IN: [&str; 2] = ["busybox", "debian-12"];

/// The user of both images, uid 1000: root in a bunker takes a permission of its own.
const DEFAULT_USER: &str = "bunker";

/// The shell function that turns a tree into an ext4 file.
pub const PACK: &str = include_str!("pack.sh");

/// The file system's file in its slot.
pub const ROOTFS: &str = "rootfs.ext4";

const CHECK_LIMIT: Duration = Duration::from_secs(10 * 60);

/// What a slot of `<cache>/images` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    digest: String,
    size_bytes: u64,
}

/// The environment of every command, unless a caller sets another.
pub fn environment() -> BTreeMap<String, String> {
    // What the user installed comes last: it must not stand in for a command of the system's
    // when root runs one.
    let path =
        "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/home/bunker/.local/bin";
    [("PATH", path), ("LANG", "C.UTF-8")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// The configuration of both images, with this environment.
pub fn root_config(env: BTreeMap<String, String>) -> RootConfig {
    RootConfig { user: DEFAULT_USER.to_owned(), env, ..RootConfig::default() }
}

/// The image from the cache, baked first if need be.
pub async fn image(
    cache: &Path,
    name: &str,
    progress: &Progress,
) -> Result<BakedImage, AssetError> {
    let (config, recipe) = match name {
        "busybox" => {
            let ingredients = busybox::ingredients();
            let ingredients: Vec<_> = ingredients.iter().map(String::as_str).collect();
            (busybox::config(), recipe(&ingredients))
        }
        "debian-12" => (debian::config(), recipe(&debian::ingredients())),
        _ => return Err(AssetError::UnknownImage { name: name.to_owned() }),
    };
    let slot = Slot::<Manifest>::new(cache.join("images").join(format!("{name}-{recipe}")));
    let manifest = match slot.manifest() {
        Some(manifest) => manifest,
        None => slot.fill(progress, |workshop| bake(name, workshop, progress)).await?,
    };
    let path = slot.path(ROOTFS);
    let found = path.metadata().map_err(io_failed("read", &path))?;
    if found.len() != manifest.size_bytes {
        let what = "a whole image (delete its directory to bake it anew)";
        return Err(AssetError::Contents { path, what });
    }
    let (digest, size_bytes) = (manifest.digest, manifest.size_bytes);
    Ok(BakedImage { name: name.to_owned(), digest, size_bytes, path, config })
}

async fn bake(name: &str, workshop: Workshop, progress: &Progress) -> Result<Manifest, AssetError> {
    match name {
        "busybox" => busybox::bake(&workshop, progress).await?,
        _ => debian::bake(&workshop, progress).await?,
    }
    let check = ["-f", "-n", ROOTFS];
    Call::new(E2FSCK, &workshop.result, CHECK_LIMIT, check).run().await?;
    let path = workshop.result.join(ROOTFS);
    let manifest = blocking(move || measure(&path).map_err(io_failed("read", &path))).await?;
    let size_mb = manifest.size_bytes.div_ceil(1 << 20);
    progress(&format!("{name} is baked: {size_mb} MiB, {}", manifest.digest));
    Ok(manifest)
}

fn measure(path: &Path) -> io::Result<Manifest> {
    let mut hash = Sha256::new();
    let size_bytes = io::copy(&mut File::open(path)?, &mut hash)?;
    Ok(Manifest { digest: format!("sha256:{}", hexadecimal(&hash.finalize())), size_bytes })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    async fn fill(cache: &Path) -> Slot<Manifest> {
        let name = format!("debian-12-{}", recipe(&debian::ingredients()));
        let slot = Slot::<Manifest>::new(cache.join("images").join(name));
        let make = |workshop: Workshop| async move {
            let path = workshop.result.join(ROOTFS);
            fs::write(&path, "a file system").unwrap();
            Ok(measure(&path).unwrap())
        };
        slot.fill(&|_| {}, make).await.unwrap();
        slot
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_cached_image_is_taken_as_it_is() {
        let cache = tempfile::tempdir().unwrap();
        let slot = fill(cache.path()).await;
        let image = image(cache.path(), "debian-12", &|_| {}).await.unwrap();
        assert_eq!(image.path, slot.path(ROOTFS));
        assert_eq!(image.size_bytes, 13);
        assert!(image.digest.starts_with("sha256:") && image.digest.len() == 7 + 64);
        assert_eq!(image.config.root.user, "bunker");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_cut_image_is_refused() {
        let cache = tempfile::tempdir().unwrap();
        let slot = fill(cache.path()).await;
        fs::write(slot.path(ROOTFS), "a file").unwrap();
        let error = image(cache.path(), "debian-12", &|_| {}).await.unwrap_err();
        assert!(matches!(error, AssetError::Contents { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn an_unknown_image_lists_the_known_ones() {
        let error = image(Path::new("/nowhere"), "debian-13", &|_| {}).await.unwrap_err();
        assert!(error.to_string().contains("busybox, debian-12"), "{error}");
    }
}
