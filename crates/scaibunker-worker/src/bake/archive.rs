//! The entries of a tar stream, in bounded memory.
//!
//! The crate `tar` reads long names and PAX records of any length into memory before anyone sees
//! them, so only its header is used.

use std::io::{self, Read};

use tar::{EntryType, GnuExtSparseHeader, Header};

use super::{pax::Pax, sparse::SparseMap};

/// Longest block of PAX records or long name.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;

const BLOCK: u64 = 512;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// With its holes, if it has some.
    File(Option<SparseMap>),
    Directory,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    Fifo,
    Device {
        is_block: bool,
        major: u32,
        minor: u32,
    },
}

/// One entry; the data of a file is read from the [`Archive`].
#[derive(Debug, Clone)]
pub struct Entry {
    pub path: Vec<u8>,
    pub kind: Kind,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    pub mtime: i64,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Bytes of data in the archive.
    pub stored: u64,
}

/// A tar stream that is read once, from its beginning.
pub struct Archive<R> {
    stream: R,
    /// Of the present entry's data, and of the padding after it.
    remaining: u64,
    padding: u64,
    global: Pax,
}

fn wrong(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn padding(size: u64) -> u64 {
    (BLOCK - size % BLOCK) % BLOCK
}

impl<R: Read> Archive<R> {
    pub fn new(stream: R) -> Self {
        Self { stream, remaining: 0, padding: 0, global: Pax::default() }
    }

    /// The next entry, past what is left of the last one's data.
    pub fn next(&mut self) -> io::Result<Option<Entry>> {
        let mut pax = self.global.clone();
        let (mut long_name, mut long_link) = (None, None);
        loop {
            self.skip()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let size = header.entry_size()?;
            match header.entry_type() {
                EntryType::XGlobalHeader => {
                    let records = self.extension(size)?;
                    self.global.parse(&records)?;
                    pax.parse(&records)?;
                }
                EntryType::XHeader => {
                    let records = self.extension(size)?;
                    pax.parse(&records)?;
                }
                EntryType::GNULongName => long_name = Some(self.text(size)?),
                EntryType::GNULongLink => long_link = Some(self.text(size)?),
                _ => return self.entry(&header, pax, long_name, long_link).map(Some),
            }
        }
    }

    /// Reads the stream to its end, which a digest over all of it needs.
    pub fn finish(mut self) -> io::Result<()> {
        io::copy(&mut self.stream, &mut io::sink()).map(drop)
    }

    fn entry(
        &mut self,
        header: &Header,
        mut pax: Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> io::Result<Entry> {
        let name = || header.path_bytes().into_owned();
        let path = pax.path.take().or(long_name).unwrap_or_else(name);
        let link = pax.link.take().or(long_link);
        let link = link.or_else(|| header.link_name_bytes().map(|link| link.into_owned()));
        let size = match pax.size {
            Some(size) => size,
            None => header.entry_size()?,
        };
        let mut stored = 0;
        let kind = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous if is_old_directory(header, &path) => {
                Kind::Directory
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let old = match header.entry_type() {
                    EntryType::GNUSparse => Some(self.old_sparse(header)?),
                    _ => None,
                };
                (self.remaining, self.padding) = (size, padding(size));
                let map = self.holes(old, &mut pax)?;
                stored = self.remaining;
                Kind::File(map.map(|map| map.finish(stored)).transpose()?)
            }
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Symlink(link.ok_or_else(|| wrong("a link to nothing"))?),
            EntryType::Link => Kind::HardLink(link.ok_or_else(|| wrong("a link to nothing"))?),
            EntryType::Fifo => Kind::Fifo,
            device @ (EntryType::Char | EntryType::Block) => Kind::Device {
                is_block: device == EntryType::Block,
                major: header.device_major()?.unwrap_or(0),
                minor: header.device_minor()?.unwrap_or(0),
            },
            other => return Err(wrong(format!("unknown type {:#x} of an entry", other.as_byte()))),
        };
        let old = header.as_old();
        // Some writers give links and directories a size although no data follows.
        Ok(Entry {
            path,
            kind,
            mode: number(&old.mode, || header.mode().map(u64::from))? as u32 & 0o7777,
            uid: pax.uid.map_or_else(|| number(&old.uid, || header.uid()), Ok)?,
            gid: pax.gid.map_or_else(|| number(&old.gid, || header.gid()), Ok)?,
            mtime: match pax.mtime.or_else(|| signed(&old.mtime)) {
                Some(mtime) => mtime,
                None => i64::try_from(number(&old.mtime, || header.mtime())?).unwrap_or(i64::MAX),
            },
            xattrs: pax.xattrs,
            stored,
        })
    }

    /// The holes of a file, if it was stored without them. `remaining` is then the data's size.
    fn holes(&mut self, old: Option<SparseMap>, pax: &mut Pax) -> io::Result<Option<SparseMap>> {
        if old.is_some() {
            return Ok(old);
        }
        let Some(size) = pax.sparse_size else { return Ok(None) };
        if pax.has_sparse_list {
            let (map, taken) = SparseMap::read_list(self, size)?;
            debug_assert!(taken % BLOCK == 0);
            return Ok(Some(map));
        }
        Ok(pax.sparse.take().map(|map| SparseMap { size, ..map }))
    }

    fn old_sparse(&mut self, header: &Header) -> io::Result<SparseMap> {
        let gnu = header.as_gnu().ok_or_else(|| wrong("a sparse file without its header"))?;
        let mut map = SparseMap { size: gnu.real_size()?, ..SparseMap::default() };
        for piece in gnu.sparse.iter().filter(|piece| !piece.is_empty()) {
            map.push(piece.offset()?, piece.length()?)?;
        }
        let mut goes_on = gnu.is_extended();
        while goes_on {
            let mut more = GnuExtSparseHeader::new();
            self.stream.read_exact(more.as_mut_bytes())?;
            for piece in more.sparse.iter().filter(|piece| !piece.is_empty()) {
                map.push(piece.offset()?, piece.length()?)?;
            }
            goes_on = more.is_extended();
        }
        Ok(map)
    }

    /// Two blocks of zeros, or the end of the stream, end an archive; one is enough here.
    fn header(&mut self) -> io::Result<Option<Header>> {
        let mut header = Header::new_old();
        if self.stream.by_ref().take(1).read(&mut header.as_mut_bytes()[..1])? == 0 {
            return Ok(None);
        }
        self.stream.read_exact(&mut header.as_mut_bytes()[1..])?;
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let bytes = header.as_bytes();
        let spaces = 8 * u32::from(b' ');
        let sum =
            bytes[..148].iter().chain(&bytes[156..]).map(|byte| u32::from(*byte)).sum::<u32>();
        if header.cksum()? != sum + spaces {
            return Err(wrong("the checksum of an entry's header is wrong"));
        }
        Ok(Some(header))
    }

    fn extension(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > MAX_EXTENSION_BYTES {
            return Err(wrong("a name or PAX record of more than 1 MiB"));
        }
        (self.remaining, self.padding) = (size, padding(size));
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn text(&mut self, size: u64) -> io::Result<Vec<u8>> {
        let mut bytes = self.extension(size)?;
        let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
        bytes.truncate(end);
        Ok(bytes)
    }

    fn skip(&mut self) -> io::Result<()> {
        let left =
            self.remaining.checked_add(self.padding).ok_or_else(|| wrong("size overflow"))?;
        let skipped = io::copy(&mut self.stream.by_ref().take(left), &mut io::sink())?;
        if skipped < left {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        (self.remaining, self.padding) = (0, 0);
        Ok(())
    }
}

/// The data of the present entry. A stream that ends in the middle of it is an error.
impl<R: Read> Read for Archive<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = into.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        if count == 0 {
            return Ok(0);
        }
        let count = self.stream.read(&mut into[..count])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.remaining -= count as u64;
        Ok(count)
    }
}

/// Before POSIX a directory was a file whose name ends in a slash.
fn is_old_directory(header: &Header, path: &[u8]) -> bool {
    header.as_old().linkflag[0] == 0 && path.ends_with(b"/")
}

/// Some writers leave a field empty that is zero.
fn number(field: &[u8], parse: impl FnOnce() -> io::Result<u64>) -> io::Result<u64> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) { Ok(0) } else { parse() }
}

/// A time before 1970, which GNU writes as a negative base-256 number.
fn signed(field: &[u8; 12]) -> Option<i64> {
    let low = <[u8; 8]>::try_from(&field[4..]).ok()?;
    (field[0] == 0xff).then(|| i64::from_be_bytes(low))
}
