//! A layer's tar stream: unpacked, counted and hashed while it is read.

use std::{
    cell::Cell,
    fs::File,
    io::{self, BufReader, Read},
    rc::Rc,
};

use scaibunker_api::worker::ImageFaultCause;
use sha2::{Digest, Sha256};

use super::{Compression, job::Fault};

/// Largest window of a zstd frame, as log2: what `zstd --ultra` makes without `--long`.
const ZSTD_WINDOW_LOG: u32 = 27;

const BUFFER_BYTES: usize = 256 << 10;

/// How far a bake has come with its compressed layers.
#[derive(Debug, Clone, Default)]
pub struct BytesRead(Rc<Cell<u64>>);

impl BytesRead {
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

struct Counted<R> {
    inner: R,
    read: BytesRead,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(into)?;
        self.read.0.set(self.read.0.get() + count as u64);
        Ok(count)
    }
}

/// The uncompressed stream of a layer.
pub struct LayerStream<'a> {
    stream: Box<dyn Read>,
    hash: Sha256,
    /// Of all layers together.
    left: &'a mut u64,
}

impl<'a> LayerStream<'a> {
    pub fn open(
        blob: File,
        compression: Compression,
        read: BytesRead,
        left: &'a mut u64,
    ) -> io::Result<Self> {
        let blob = BufReader::with_capacity(BUFFER_BYTES, Counted { inner: blob, read });
        let stream: Box<dyn Read> = match compression {
            Compression::None => Box::new(blob),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(blob)),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(blob)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Box::new(decoder)
            }
        };
        Ok(Self { stream, hash: Sha256::new(), left })
    }

    /// Compares the digest of what was read, which is all of it, with the right one.
    pub fn verify(self, diff_id: &str) -> Result<(), Fault> {
        let found = format!("sha256:{}", crate::assets::hexadecimal(&self.hash.finalize()));
        if found == diff_id {
            return Ok(());
        }
        Err(Fault::new(
            ImageFaultCause::DigestMismatch,
            format!("digest mismatch: a layer unpacks to {found}, its image says {diff_id}"),
        ))
    }
}

impl Read for LayerStream<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(into)?;
        self.hash.update(&into[..count]);
        *self.left = self.left.checked_sub(count as u64).ok_or(io::ErrorKind::FileTooLarge)?;
        Ok(count)
    }
}
