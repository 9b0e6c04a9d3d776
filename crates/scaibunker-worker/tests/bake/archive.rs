//! Layers for the tests.

use std::io::Write as _;

use scaibunker_worker::bake::Compression;
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

/// A tar archive in the making.
pub struct Archive(Builder<Vec<u8>>);

fn header(kind: EntryType, size: u64, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(1_600_000_000);
    header
}

impl Archive {
    pub fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn add(mut self, mut header: Header, name: &str, data: &[u8]) -> Self {
        self.0.append_data(&mut header, name, data).unwrap();
        self
    }

    pub fn dir(self, name: &str, mode: u32) -> Self {
        self.add(header(EntryType::Directory, 0, mode), name, b"")
    }

    pub fn file(self, name: &str, data: &[u8], mode: u32) -> Self {
        self.add(header(EntryType::Regular, data.len() as u64, mode), name, data)
    }

    /// Small files, a thousand in each directory below `dir`.
    pub fn many(mut self, dir: &str, count: usize) -> Self {
        for index in 0..count {
            let name = format!("{dir}/{}/file-{index}", index / 1000);
            self = self.file(&name, name.as_bytes(), 0o644);
        }
        self
    }

    pub fn device(self, name: &str, major: u32, minor: u32) -> Self {
        let mut head = header(EntryType::Char, 0, 0o666);
        head.set_device_major(major).unwrap();
        head.set_device_minor(minor).unwrap();
        self.add(head, name, b"")
    }

    /// A hole of this size and then the data.
    pub fn sparse(mut self, name: &str, hole: u64, data: &[u8]) -> Self {
        let size = (hole + data.len() as u64).to_string();
        let map = format!("{hole},{}", data.len());
        let records = [
            ("GNU.sparse.name", name.as_bytes()),
            ("GNU.sparse.size", size.as_bytes()),
            ("GNU.sparse.map", map.as_bytes()),
        ];
        self.0.append_pax_extensions(records).unwrap();
        self.file("GNUSparseFile.0/data", data, 0o644)
    }

    pub fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// The archive as a registry would hold it.
pub fn packed(bytes: &[u8], compression: Compression) -> Vec<u8> {
    match compression {
        Compression::None => bytes.to_vec(),
        Compression::Gzip => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(bytes).unwrap();
            gzip.finish().unwrap()
        }
        Compression::Zstd => zstd::encode_all(bytes, 1).unwrap(),
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    format!("sha256:{}", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}
