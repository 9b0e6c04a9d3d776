//! Takes the uncompressed kernel out of a bzImage.
//!
//! The setup header says where the compressed payload lies (the kernel's
//! `Documentation/arch/x86/boot.rst`, protocol 2.08). Debian compresses with LZ4 in its legacy
//! frame: a magic number, then blocks of at most 8 MiB, each after its length. The kernel's build
//! adds the uncompressed size behind the last block.

const SECTOR_BYTES: usize = 512;
const SETUP_SECTORS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const PROTOCOL: usize = 0x206;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

const LZ4_LEGACY: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
const LZ4_BLOCK_BYTES: usize = 8 << 20;

/// Several times the size of any kernel; a damaged file must not fill the memory.
const MAX_KERNEL_BYTES: usize = 256 << 20;

const ELF: &[u8] = b"\x7fELF";

/// The file is not a kernel this program can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BzImageError {
    #[error("it is no bzImage of boot protocol 2.08 or newer")]
    NotBzImage,
    #[error("it is cut short or damaged")]
    Damaged,
    #[error(
        "its payload is compressed with {0}; only LZ4 is supported, which Debian's kernels use"
    )]
    Compression(&'static str),
    #[error("its payload is no ELF program")]
    NotElf,
}

use BzImageError::{Compression, Damaged, NotBzImage, NotElf};

/// The ELF program inside a bzImage.
pub fn vmlinux(image: &[u8]) -> Result<Vec<u8>, BzImageError> {
    let kernel = decompress(payload(image)?)?;
    if kernel.starts_with(ELF) { Ok(kernel) } else { Err(NotElf) }
}

fn number(bytes: &[u8], offset: usize) -> Option<usize> {
    let field = bytes.get(offset..)?.first_chunk::<4>()?;
    usize::try_from(u32::from_le_bytes(*field)).ok()
}

fn payload(image: &[u8]) -> Result<&[u8], BzImageError> {
    let protocol = image.get(PROTOCOL..).and_then(|field| field.first_chunk::<2>());
    let is_recent = protocol.is_some_and(|field| u16::from_le_bytes(*field) >= 0x208);
    if !is_recent || image.get(MAGIC..MAGIC + 4) != Some(b"HdrS") {
        return Err(NotBzImage);
    }
    // Zero means four, for the sake of very old loaders.
    let setup_sectors = match image[SETUP_SECTORS] {
        0 => 4,
        count => usize::from(count),
    };
    let code = (setup_sectors + 1) * SECTOR_BYTES;
    let start = code + number(image, PAYLOAD_OFFSET).ok_or(Damaged)?;
    let length = number(image, PAYLOAD_LENGTH).ok_or(Damaged)?;
    image.get(start..start + length).ok_or(Damaged)
}

fn decompress(payload: &[u8]) -> Result<Vec<u8>, BzImageError> {
    let known: [(&[u8], &'static str); 6] = [
        (&[0x1f, 0x8b], "gzip"),
        (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
        (b"BZh", "bzip2"),
        (&[0x5d, 0, 0], "lzma"),
        (&[0x89, b'L', b'Z', b'O'], "lzo"),
    ];
    if let Some(blocks) = payload.strip_prefix(&LZ4_LEGACY) {
        return lz4_blocks(blocks);
    }
    if payload.starts_with(ELF) {
        return Ok(payload.to_vec());
    }
    let format = known.iter().find(|(magic, _)| payload.starts_with(magic));
    Err(Compression(format.map_or("an unknown format", |(_, name)| name)))
}

fn lz4_blocks(mut rest: &[u8]) -> Result<Vec<u8>, BzImageError> {
    let mut kernel = Vec::new();
    let mut block = vec![0; LZ4_BLOCK_BYTES];
    // The last four bytes are the size of the whole.
    while rest.len() > 4 {
        let length = number(rest, 0).ok_or(Damaged)?;
        let compressed = rest.get(4..4 + length).ok_or(Damaged)?;
        let size = lz4_flex::block::decompress_into(compressed, &mut block).map_err(|_| Damaged)?;
        if kernel.len() + size > MAX_KERNEL_BYTES {
            return Err(Damaged);
        }
        kernel.extend_from_slice(&block[..size]);
        rest = &rest[4 + length..];
    }
    if number(rest, 0) == Some(kernel.len()) { Ok(kernel) } else { Err(Damaged) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A bzImage with two setup sectors and some code before the payload.
    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 3 * SECTOR_BYTES + 64];
        image[SETUP_SECTORS] = 2;
        image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        image[PROTOCOL..PROTOCOL + 2].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&64_u32.to_le_bytes());
        let length = u32::try_from(payload.len()).unwrap();
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        image.extend_from_slice(payload);
        image.extend_from_slice(b"what follows the payload");
        image
    }

    fn lz4_legacy(kernel: &[u8], block_bytes: usize) -> Vec<u8> {
        let mut payload = LZ4_LEGACY.to_vec();
        for piece in kernel.chunks(block_bytes) {
            let block = lz4_flex::block::compress(piece);
            payload.extend_from_slice(&u32::try_from(block.len()).unwrap().to_le_bytes());
            payload.extend_from_slice(&block);
        }
        payload.extend_from_slice(&u32::try_from(kernel.len()).unwrap().to_le_bytes());
        payload
    }

    #[test]
    fn the_kernel_comes_out_of_its_blocks() {
        let mut kernel = ELF.to_vec();
        kernel.extend((0..100_000_u32).flat_map(u32::to_le_bytes));
        let image = bzimage(&lz4_legacy(&kernel, 70_000));
        assert_eq!(vmlinux(&image), Ok(kernel));
    }

    #[test]
    fn other_compressions_are_named() {
        assert_eq!(vmlinux(&bzimage(&[0x28, 0xb5, 0x2f, 0xfd, 0])), Err(Compression("zstd")));
        assert_eq!(vmlinux(&bzimage(b"????")), Err(Compression("an unknown format")));
        assert_eq!(vmlinux(b"#!/bin/sh"), Err(NotBzImage));
    }

    #[test]
    fn a_wrong_size_or_a_missing_end_is_damage() {
        let payload = lz4_legacy(b"\x7fELF and more", 1 << 20);
        let mut wrong = payload.clone();
        *wrong.last_mut().unwrap() ^= 1;
        assert_eq!(vmlinux(&bzimage(&wrong)), Err(Damaged));
        let image = bzimage(&payload);
        assert_eq!(vmlinux(&image[..image.len() - 40]), Err(Damaged));
    }

    proptest! {
        #[test]
        fn damage_never_panics(at in 0usize..2000, value: u8, end in 0usize..2000) {
            let mut image = bzimage(&lz4_legacy(b"\x7fELF and some more of it", 8));
            let (at, end) = (at % image.len(), end % image.len());
            image[at] = value;
            let _ = vmlinux(&image);
            let _ = vmlinux(&image[..end]);
        }
    }
}
