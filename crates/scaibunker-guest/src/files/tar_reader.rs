//! Reading a tar archive as it arrives.
//!
//! The headers are decoded by the `tar` crate; what it would read into memory in whole, however
//! long it says it is — long names, extended headers — is bounded here.

use std::io::{self, Read};

use tar::{EntryType, Header, PaxExtensions};

const BLOCK_BYTES: usize = 512;

/// Longest extended header; names in it are at most a path long.
const MAX_EXTENSION_BYTES: u64 = 256 * 1024;

/// One entry of an archive; its bytes are read from the reader itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TarEntry {
    pub path: Vec<u8>,
    pub kind: TarKind,
    pub mode: u32,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// Seconds since 1970.
    pub modified_s: i64,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TarKind {
    File,
    Directory,
    Symlink(Vec<u8>),
    /// Another name for an entry that came before.
    HardLink(Vec<u8>),
    /// A device, a pipe, or something newer than this.
    Other,
}

/// The archive cannot be read further.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error("the archive is broken: {0}")]
    Broken(String),
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
}

/// Reads entries from `body`.
#[derive(Debug)]
pub struct TarReader<R> {
    body: R,
    /// Bytes of the current entry still to come,
    left: u64,
    /// and of what fills its last block.
    padding: u64,
}

/// What headers before an entry say of it.
#[derive(Debug, Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    modified_s: Option<i64>,
}

impl<R: Read> TarReader<R> {
    pub fn new(body: R) -> Self {
        Self { body, left: 0, padding: 0 }
    }

    /// The next entry, whatever is unread of the one before; `None` at the end of the archive,
    /// when all of the body has been read.
    pub fn next_entry(&mut self) -> Result<Option<TarEntry>, TarError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip(self.left + self.padding)?;
            (self.left, self.padding) = (0, 0);
            let Some(header) = self.header()? else { return Ok(None) };
            let broken = |e: io::Error| TarError::Broken(e.to_string());
            let size = header.entry_size().map_err(broken)?;
            self.begin(size)?;
            match header.entry_type() {
                EntryType::GNULongName => extensions.path = Some(self.long_name()?),
                EntryType::GNULongLink => extensions.link = Some(self.long_name()?),
                EntryType::XHeader => extensions.read(&self.extension()?)?,
                // Defaults for all entries; none of them is needed.
                EntryType::XGlobalHeader => {}
                EntryType::GNUSparse => {
                    return Err(TarError::Broken("it holds a sparse file".to_owned()));
                }
                kind => {
                    if let Some(size) = extensions.size {
                        self.begin(size)?;
                    }
                    return entry(&header, kind, extensions).map(Some);
                }
            }
        }
    }

    /// A header block; `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        let mut block = [0; BLOCK_BYTES];
        let is_end = match read_full(&mut self.body, &mut block).map_err(TarError::Read)? {
            0 => true,
            BLOCK_BYTES => block.iter().all(|&byte| byte == 0),
            _ => return Err(TarError::Broken("it ends inside a header".to_owned())),
        };
        if is_end {
            io::copy(&mut self.body, &mut io::sink()).map_err(TarError::Read)?;
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        let sum =
            block[..148].iter().chain(&block[156..]).map(|&byte| u32::from(byte)).sum::<u32>()
                + 8 * u32::from(b' ');
        match header.cksum() {
            Ok(expected) if expected == sum => Ok(Some(header)),
            _ => Err(TarError::Broken("a header's checksum is wrong".to_owned())),
        }
    }

    fn begin(&mut self, size: u64) -> Result<(), TarError> {
        let block = BLOCK_BYTES as u64;
        let padded = size.checked_next_multiple_of(block);
        let padded = padded.ok_or_else(|| TarError::Broken("an entry is too long".to_owned()))?;
        (self.left, self.padding) = (size, padded - size);
        Ok(())
    }

    fn skip(&mut self, count: u64) -> Result<(), TarError> {
        let skipped = io::copy(&mut (&mut self.body).take(count), &mut io::sink());
        if skipped.map_err(TarError::Read)? < count {
            return Err(TarError::Broken("it ends inside an entry".to_owned()));
        }
        Ok(())
    }

    /// The current entry's bytes, which are about another entry.
    fn extension(&mut self) -> Result<Vec<u8>, TarError> {
        if self.left > MAX_EXTENSION_BYTES {
            return Err(TarError::Broken("an extended header is too long".to_owned()));
        }
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).map_err(TarError::Read)?;
        Ok(bytes)
    }

    fn long_name(&mut self) -> Result<Vec<u8>, TarError> {
        let mut name = self.extension()?;
        name.truncate(name.iter().position(|&byte| byte == 0).unwrap_or(name.len()));
        Ok(name)
    }
}

impl<R: Read> Read for TarReader<R> {
    /// Reads the current entry; fails where the archive ends before it does.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buf.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.body.read(&mut buf[..most])?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends inside an entry"));
        }
        self.left -= count as u64;
        Ok(count)
    }
}

impl Extensions {
    fn read(&mut self, bytes: &[u8]) -> Result<(), TarError> {
        for extension in PaxExtensions::new(bytes) {
            let extension = extension.map_err(|e| TarError::Broken(e.to_string()))?;
            let value = extension.value_bytes();
            let number = || std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            match extension.key_bytes() {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = number(),
                b"uid" => self.uid = number().and_then(id),
                b"gid" => self.gid = number().and_then(id),
                b"mtime" => {
                    let whole = value.split(|&byte| byte == b'.').next().unwrap_or_default();
                    self.modified_s =
                        std::str::from_utf8(whole).ok().and_then(|text| text.parse().ok());
                }
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(TarError::Broken("it holds a sparse file".to_owned()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn entry(header: &Header, kind: EntryType, extensions: Extensions) -> Result<TarEntry, TarError> {
    let broken = |e: io::Error| TarError::Broken(e.to_string());
    let path = extensions.path.unwrap_or_else(|| header.path_bytes().into_owned());
    let link = || {
        let link = extensions.link.or_else(|| Some(header.link_name_bytes()?.into_owned()));
        link.ok_or_else(|| TarError::Broken("a link has no target".to_owned()))
    };
    let kind = match kind {
        // Archives from before there was a type for directories.
        EntryType::Regular if path.ends_with(b"/") => TarKind::Directory,
        EntryType::Regular | EntryType::Continuous => TarKind::File,
        EntryType::Directory => TarKind::Directory,
        EntryType::Symlink => TarKind::Symlink(link()?),
        EntryType::Link => TarKind::HardLink(link()?),
        _ => TarKind::Other,
    };
    Ok(TarEntry {
        path,
        kind,
        mode: header.mode().map_err(broken)? & 0o7777,
        uid: extensions.uid.or_else(|| header.uid().ok().and_then(id)),
        gid: extensions.gid.or_else(|| header.gid().ok().and_then(id)),
        modified_s: match extensions.modified_s {
            Some(modified_s) => modified_s,
            None => i64::try_from(header.mtime().map_err(broken)?).unwrap_or(i64::MAX),
        },
    })
}

/// An id that names somebody.
fn id(number: u64) -> Option<u32> {
    u32::try_from(number).ok().filter(|&id| id != u32::MAX)
}

fn read_full(body: &mut impl Read, mut buf: &mut [u8]) -> io::Result<usize> {
    let length = buf.len();
    while !buf.is_empty() {
        match body.read(buf) {
            Ok(0) => break,
            Ok(count) => buf = &mut buf[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length - buf.len())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn archive(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        builder.into_inner().unwrap()
    }

    fn add(builder: &mut tar::Builder<Vec<u8>>, path: &str, content: &[u8]) {
        let mut header = Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o640);
        header.set_mtime(5);
        header.set_uid(7);
        header.set_gid(8);
        builder.append_data(&mut header, path, content).unwrap();
    }

    #[test]
    fn entries_come_out_as_they_went_in() {
        let long = "d/".repeat(100) + "file";
        let bytes = archive(|builder| {
            add(builder, "short", b"hello");
            add(builder, &long, &[7; 1000]);
        });
        let mut reader = TarReader::new(&bytes[..]);
        let first = reader.next_entry().unwrap().unwrap();
        assert_eq!((first.path.as_slice(), first.kind), (&b"short"[..], TarKind::File));
        assert_eq!(
            (first.mode, first.uid, first.gid, first.modified_s),
            (0o640, Some(7), Some(8), 5)
        );
        let second = reader.next_entry().unwrap().unwrap();
        assert_eq!(second.path, long.as_bytes());
        let mut content = Vec::new();
        reader.read_to_end(&mut content).unwrap();
        assert_eq!(content, [7; 1000]);
        assert_eq!(reader.next_entry().unwrap(), None);
    }

    #[test]
    fn an_archive_that_ends_early_or_is_damaged_is_broken() {
        let bytes = archive(|builder| add(builder, "file", &[1; 600]));
        for end in [1, 511, 513, 1000, 1535] {
            let mut reader = TarReader::new(&bytes[..end]);
            let mut read_all = || {
                while reader.next_entry()?.is_some() {}
                Ok::<_, TarError>(())
            };
            assert!(matches!(read_all(), Err(TarError::Broken(_))), "cut at {end}");
        }
        let mut bytes = bytes;
        bytes[0] ^= 1;
        assert!(TarReader::new(&bytes[..]).next_entry().is_err());
    }

    #[test]
    fn a_long_name_is_bounded() {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(1 << 40);
        header.set_cksum();
        let endless = io::Read::chain(&header.as_bytes()[..], io::repeat(b'a'));
        assert!(matches!(TarReader::new(endless).next_entry(), Err(TarError::Broken(_))));
    }

    #[test]
    fn hostile_bytes_are_survived() {
        bolero::check!()
            .with_type::<(Vec<u8>, [u8; 16], u8)>()
            .with_test_time(Duration::from_secs(2))
            .for_each(|(bytes, start, kind)| {
                // Random bytes alone hardly ever have the right checksum.
                let mut header = Header::new_gnu();
                header.as_mut_bytes()[..16].copy_from_slice(start);
                header.as_mut_bytes()[124..136.min(124 + bytes.len())]
                    .copy_from_slice(&bytes[..12.min(bytes.len())]);
                header.set_entry_type(EntryType::new(*kind));
                header.set_cksum();
                let archive = [&header.as_bytes()[..], bytes].concat();
                for input in [&archive[..], bytes] {
                    let mut reader = TarReader::new(input);
                    while let Ok(Some(_)) = reader.next_entry() {
                        let _ = io::copy(&mut reader, &mut io::sink());
                    }
                }
            });
    }
}
