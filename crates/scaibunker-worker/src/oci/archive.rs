//! Images in one file: docker archives, OCI layouts and plain trees.
//!
//! No name in an archive is ever used as a path: blobs are copied into the cache under the digest
//! that they turn out to have, and the archive's names only say which is which.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, BufReader, Read, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{
    Layer, LayerCache, LayerLease, MAX_IMAGE_BYTES, MAX_LAYERS, OciError, Progress, PulledImage,
    config,
    manifest::{self, Document, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, for_this_platform},
};
use crate::{assets::hexadecimal, bake::Compression};

/// Entries of an archive of layers. A plain tree has as many as it wants: its bake counts them.
const MAX_ENTRIES: usize = 10_000;
const MAX_NAME_BYTES: usize = 4096;
const PIECE_BYTES: usize = 256 * 1024;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    layers: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct LayoutIndex {
    manifests: Vec<manifest::IndexEntry>,
}

/// Where the bytes of an entry are in the (uncompressed) archive.
#[derive(Debug, Clone, Copy)]
struct Place {
    start: u64,
    size_bytes: u64,
}

/// An archive with its entries found.
struct Archive {
    file: File,
    entries: HashMap<String, Place>,
    /// Keeps the uncompressed copy of a compressed archive until the end.
    _uncompressed: Option<tempfile::NamedTempFile>,
}

/// Brings the layers of the image in an archive into the cache. Blocks for as long as copying
/// them takes.
pub fn open_archive(
    path: &Path,
    layers: &LayerCache,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<PulledImage, OciError> {
    let archive = Archive::open(path, layers)?;
    if let Some(index) = archive.document("index.json", MAX_MANIFEST_BYTES)? {
        return archive.layout(&index, layers, progress);
    }
    if let Some(manifest) = archive.document("manifest.json", MAX_MANIFEST_BYTES)? {
        return archive.docker(&manifest, layers, progress);
    }
    drop(archive);
    plain_tree(path, layers, progress)
}

/// The file itself is the one layer.
fn plain_tree(
    path: &Path,
    layers: &LayerCache,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<PulledImage, OciError> {
    let mut file = File::open(path).map_err(OciError::io("open", path))?;
    let size_bytes = file.metadata().map_err(OciError::io("read", path))?.len();
    let compression = compression_of(&mut file).map_err(OciError::io("read", path))?;
    let lease = copy(&mut file, size_bytes, None, layers, &mut |done_bytes| {
        progress(Progress { done_bytes, total_bytes: size_bytes });
    })?;
    let layer = Layer { path: lease.path().to_owned(), compression, diff_id: None, _lease: lease };
    Ok(PulledImage { layers: vec![layer], config: Default::default(), manifest_digest: None })
}

impl Archive {
    /// Finds the entries. A compressed archive of layers is uncompressed first, as layers are read
    /// in another order than they are written.
    fn open(path: &Path, layers: &LayerCache) -> Result<Self, OciError> {
        let mut file = File::open(path).map_err(OciError::io("open", path))?;
        let compression = compression_of(&mut file).map_err(OciError::io("read", path))?;
        if !holds_layers(&mut uncompressed(BufReader::new(&file), compression))? {
            return Ok(Self { file, entries: HashMap::new(), _uncompressed: None });
        }
        file.rewind().map_err(OciError::io("read", path))?;
        let (file, copy) = match compression {
            Compression::None => (file, None),
            Compression::Gzip | Compression::Zstd => {
                let dir = layers.dir();
                let mut copy = tempfile::NamedTempFile::new_in(dir)
                    .map_err(OciError::io("make a file in", dir))?;
                let source = uncompressed(BufReader::new(&file), compression);
                io::copy(&mut source.take(MAX_IMAGE_BYTES), &mut copy)
                    .map_err(|error| read_failed(error, dir))?;
                (copy.reopen().map_err(OciError::io("open", dir))?, Some(copy))
            }
        };
        let entries = entries(&file)?;
        Ok(Self { file, entries, _uncompressed: copy })
    }

    fn place(&self, name: &str) -> Option<Place> {
        self.entries.get(name.trim_start_matches("./")).copied()
    }

    /// A small entry; `None` if there is none of that name.
    fn document(&self, name: &str, limit: usize) -> Result<Option<Vec<u8>>, OciError> {
        let Some(place) = self.place(name) else { return Ok(None) };
        if place.size_bytes > limit as u64 {
            return Err(OciError::Refused(format!("its `{name}` is larger than {limit} bytes")));
        }
        let mut bytes = Vec::new();
        self.reader(place)?
            .read_to_end(&mut bytes)
            .map_err(|error| OciError::Corrupt(format!("the archive cannot be read: {error}")))?;
        Ok(Some(bytes))
    }

    fn reader(&self, place: Place) -> Result<impl Read, OciError> {
        let failed =
            |error: io::Error| OciError::Corrupt(format!("the archive cannot be read: {error}"));
        let mut file = &self.file;
        file.seek(SeekFrom::Start(place.start)).map_err(failed)?;
        Ok(file.take(place.size_bytes))
    }

    fn layout(
        &self,
        index: &[u8],
        layers: &LayerCache,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<PulledImage, OciError> {
        let index: LayoutIndex = serde_json::from_slice(index)
            .map_err(|error| OciError::Corrupt(format!("the layout's index: {error}")))?;
        let mut entry = match &index.manifests[..] {
            // A layout with one image need not say for which platform.
            [only] => only.digest.clone(),
            several => for_this_platform(several, "the archive")?.digest.clone(),
        };
        let manifest = loop {
            let bytes = self.blob(&entry, MAX_MANIFEST_BYTES)?;
            match manifest::parse(&bytes)? {
                Document::Image(manifest) => break manifest,
                Document::Index(entries) => {
                    let inner = for_this_platform(&entries, "the archive")?.digest.clone();
                    if inner == entry {
                        return Err(OciError::Corrupt("an index names itself".to_owned()));
                    }
                    entry = inner;
                }
            }
        };
        let bytes = self.blob(&manifest.config.digest, MAX_CONFIG_BYTES)?;
        let config = config::parse(&bytes, manifest.layers.len())?;
        let total_bytes = manifest.layers.iter().map(|layer| layer.blob.size_bytes).sum();
        let mut taken = Vec::new();
        let mut before = 0;
        for (number, layer) in manifest.layers.iter().enumerate() {
            let place = self.blob_place(&layer.blob.digest)?;
            let expected = Some(layer.blob.digest.as_str());
            let mut reader = self.reader(place)?;
            let lease = copy(&mut reader, place.size_bytes, expected, layers, &mut |bytes| {
                progress(Progress { done_bytes: before + bytes, total_bytes });
            })?;
            before += place.size_bytes;
            taken.push(Layer {
                path: lease.path().to_owned(),
                compression: layer.compression,
                diff_id: config.diff_ids.get(number).cloned(),
                _lease: lease,
            });
        }
        Ok(PulledImage { layers: taken, config: config.root, manifest_digest: Some(entry) })
    }

    fn blob_place(&self, digest: &str) -> Result<Place, OciError> {
        let name = format!("blobs/{}", digest.replacen(':', "/", 1));
        self.place(&name).ok_or_else(|| OciError::Corrupt(format!("the archive has no `{name}`")))
    }

    fn blob(&self, digest: &str, limit: usize) -> Result<Vec<u8>, OciError> {
        self.blob_place(digest)?;
        let name = format!("blobs/{}", digest.replacen(':', "/", 1));
        let bytes = self.document(&name, limit)?.unwrap_or_default();
        let found = format!("sha256:{}", hexadecimal(&Sha256::digest(&bytes)));
        if found != digest {
            let expected = digest.to_owned();
            return Err(OciError::Digest { what: "a document", expected, found });
        }
        Ok(bytes)
    }

    fn docker(
        &self,
        manifest: &[u8],
        layers: &LayerCache,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<PulledImage, OciError> {
        let images: Vec<DockerImage> = serde_json::from_slice(manifest)
            .map_err(|error| OciError::Corrupt(format!("the archive's manifest: {error}")))?;
        let [image] = &images[..] else {
            let message = format!("the archive holds {} images; save one alone", images.len());
            return Err(OciError::Refused(message));
        };
        if image.layers.len() > MAX_LAYERS {
            return Err(OciError::Refused(format!("it has more than {MAX_LAYERS} layers")));
        }
        let missing = |name: &str| OciError::Corrupt(format!("the archive has no `{name:.100}`"));
        let bytes = self.document(&image.config, MAX_CONFIG_BYTES)?;
        let bytes = bytes.ok_or_else(|| missing(&image.config))?;
        let config = config::parse(&bytes, image.layers.len())?;
        let places = image.layers.iter().map(|name| self.place(name).ok_or_else(|| missing(name)));
        let places = places.collect::<Result<Vec<_>, _>>()?;
        let total_bytes = places.iter().map(|place| place.size_bytes).sum();
        let mut taken = Vec::new();
        let mut before = 0;
        for (number, place) in places.into_iter().enumerate() {
            let mut reader = self.reader(place)?;
            let mut head = [0; 4];
            let count = read_head(&mut reader, &mut head).map_err(|error| {
                OciError::Corrupt(format!("the archive cannot be read: {error}"))
            })?;
            let compression = compression_by_magic(&head[..count]);
            let mut reader = self.reader(place)?;
            let lease = copy(&mut reader, place.size_bytes, None, layers, &mut |bytes| {
                progress(Progress { done_bytes: before + bytes, total_bytes });
            })?;
            before += place.size_bytes;
            taken.push(Layer {
                path: lease.path().to_owned(),
                compression,
                diff_id: config.diff_ids.get(number).cloned(),
                _lease: lease,
            });
        }
        Ok(PulledImage { layers: taken, config: config.root, manifest_digest: None })
    }
}

/// Whether an archive has what layers come with. Their documents come first or last, so a plain
/// tree is known by its first entries: nothing of an image's archive looks like these.
fn holds_layers(archive: &mut impl Read) -> Result<bool, OciError> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().map_err(unreadable)?;
    for entry in entries.take(MAX_ENTRIES) {
        let entry = entry.map_err(unreadable)?;
        let name = entry.path_bytes();
        let name = name.strip_prefix(b"./").unwrap_or(&name);
        match name {
            b"index.json" | b"manifest.json" | b"oci-layout" | b"repositories" => return Ok(true),
            name if is_part_of_an_image(name) => {}
            _ => return Ok(false),
        }
    }
    Ok(false)
}

/// `blobs/…`, `<64 digits>.json`, `<64 digits>.tar`, `<64 digits>/…`
fn is_part_of_an_image(name: &[u8]) -> bool {
    let first = name.split(|byte| *byte == b'/').next().unwrap_or_default();
    let stem = first.split(|byte| *byte == b'.').next().unwrap_or_default();
    let is_digest = stem.len() == 64 && stem.iter().all(u8::is_ascii_hexdigit);
    first == b"blobs" || first.is_empty() || is_digest
}

fn entries(file: &File) -> Result<HashMap<String, Place>, OciError> {
    let mut found = HashMap::new();
    let mut links = Vec::new();
    let mut archive = tar::Archive::new(file);
    for (number, entry) in archive.entries_with_seek().map_err(unreadable)?.enumerate() {
        let entry = entry.map_err(unreadable)?;
        if number == MAX_ENTRIES {
            return Err(OciError::Refused(format!("the archive has over {MAX_ENTRIES} entries")));
        }
        let text = |bytes: &[u8]| {
            let name = std::str::from_utf8(bytes).ok().filter(|name| name.len() <= MAX_NAME_BYTES);
            name.map(|name| name.trim_start_matches("./").to_owned())
        };
        let Some(name) = text(&entry.path_bytes()) else { continue };
        match entry.header().entry_type() {
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                let place = Place { start: entry.raw_file_position(), size_bytes: entry.size() };
                found.insert(name, place);
            }
            // Docker stores a layer that several images share once, and links to it.
            tar::EntryType::Symlink | tar::EntryType::Link => {
                let target = entry.link_name_bytes();
                if let Some(target) = target.and_then(|target| text(&target)) {
                    links.push((name, target));
                }
            }
            _ => {}
        }
    }
    for (name, target) in links {
        let target = target.trim_start_matches("../");
        if let Some(place) = found.get(target).copied() {
            found.insert(name, place);
        }
    }
    Ok(found)
}

fn unreadable(error: io::Error) -> OciError {
    OciError::Corrupt(format!("it is no tar archive: {error}"))
}

fn read_failed(error: io::Error, dir: &Path) -> OciError {
    match error.kind() {
        io::ErrorKind::StorageFull => OciError::io("write", dir)(error),
        _ => OciError::Corrupt(format!("the archive cannot be uncompressed: {error}")),
    }
}

fn compression_of(file: &mut File) -> io::Result<Compression> {
    let mut head = [0; 4];
    let count = read_head(file, &mut head)?;
    file.rewind()?;
    Ok(compression_by_magic(&head[..count]))
}

fn read_head(reader: &mut impl Read, head: &mut [u8; 4]) -> io::Result<usize> {
    let mut count = 0;
    while count < head.len() {
        match reader.read(&mut head[count..])? {
            0 => break,
            read => count += read,
        }
    }
    Ok(count)
}

fn compression_by_magic(head: &[u8]) -> Compression {
    if head.starts_with(&GZIP_MAGIC) {
        Compression::Gzip
    } else if head.starts_with(&ZSTD_MAGIC) {
        Compression::Zstd
    } else {
        Compression::None
    }
}

fn uncompressed<'a>(reader: BufReader<&'a File>, compression: Compression) -> Box<dyn Read + 'a> {
    match compression {
        Compression::None => Box::new(reader),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        Compression::Zstd => match zstd::Decoder::with_buffer(reader) {
            Ok(decoder) => Box::new(decoder),
            // The library has no memory for it; nothing is read.
            Err(_) => Box::new(io::empty()),
        },
    }
}

/// Copies a blob into the cache under the digest that it has.
fn copy(
    reader: &mut impl Read,
    size_bytes: u64,
    expected: Option<&str>,
    layers: &LayerCache,
    progress: &mut dyn FnMut(u64),
) -> Result<LayerLease, OciError> {
    if let Some(digest) = expected {
        let lease = layers.lease(digest)?;
        if lease.is_there(size_bytes) {
            progress(size_bytes);
            return Ok(lease);
        }
    }
    let dir = layers.dir();
    let mut file =
        tempfile::NamedTempFile::new_in(dir).map_err(OciError::io("make a file in", dir))?;
    let (mut hash, mut done, mut piece) = (Sha256::new(), 0u64, vec![0; PIECE_BYTES]);
    loop {
        let count = reader
            .read(&mut piece)
            .map_err(|error| OciError::Corrupt(format!("the archive cannot be read: {error}")))?;
        if count == 0 {
            break;
        }
        file.write_all(&piece[..count]).map_err(OciError::io("write", dir))?;
        hash.update(&piece[..count]);
        done += count as u64;
        progress(done);
    }
    if done != size_bytes {
        return Err(OciError::Corrupt("the archive is cut off".to_owned()));
    }
    let found = format!("sha256:{}", hexadecimal(&hash.finalize()));
    if let Some(expected) = expected.filter(|expected| *expected != found) {
        let expected = expected.to_owned();
        return Err(OciError::Digest { what: "a layer", expected, found });
    }
    let lease = layers.lease(&found)?;
    file.as_file().sync_all().map_err(OciError::io("write", dir))?;
    let place: PathBuf = lease.path().to_owned();
    file.persist(&place).map_err(|error| OciError::io("write", &place)(error.error))?;
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(OciError::io("write", dir))?;
    Ok(lease)
}
