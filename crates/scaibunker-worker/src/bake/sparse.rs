//! Where the data of a file with holes goes.
//!
//! GNU tar has four forms of a sparse file: the old one with a list of pieces in the header and
//! blocks after it, and three of PAX records (0.0 and 0.1 in the records, 1.0 in front of the data).

use std::io::{self, Read};

/// Pieces of one file: far more than any tool makes.
const MAX_PIECES: usize = 1 << 20;

const BLOCK: usize = 512;

/// Where the next bytes of the archive belong in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub offset: u64,
    pub length: u64,
}

/// The pieces of a file and its size with the holes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SparseMap {
    pub pieces: Vec<Piece>,
    pub size: u64,
}

fn wrong(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl SparseMap {
    pub fn push(&mut self, offset: u64, length: u64) -> io::Result<()> {
        let end = self.pieces.last().map_or(0, |last| last.offset + last.length);
        if offset < end || offset.checked_add(length).is_none() {
            return Err(wrong("pieces of a sparse file overlap"));
        }
        if self.pieces.len() >= MAX_PIECES {
            return Err(wrong("a sparse file of too many pieces"));
        }
        if length > 0 {
            self.pieces.push(Piece { offset, length });
        }
        Ok(())
    }

    /// Checks the pieces against the size of the file and of the data in the archive.
    pub fn finish(self, stored: u64) -> io::Result<Self> {
        let end = self.pieces.last().map_or(0, |last| last.offset + last.length);
        let data: u64 = self.pieces.iter().map(|piece| piece.length).sum();
        if end > self.size || data != stored {
            return Err(wrong("pieces of a sparse file do not add up"));
        }
        Ok(self)
    }

    /// `offset,length,offset,length,…` of the PAX form 0.1.
    pub fn parse_list(list: &[u8]) -> io::Result<Self> {
        let mut map = Self::default();
        let mut numbers = list.split(|byte| *byte == b',').map(decimal);
        while let Some(offset) = numbers.next() {
            let length = numbers.next().ok_or_else(|| wrong("an odd list of sparse pieces"))?;
            map.push(offset?, length?)?;
        }
        Ok(map)
    }

    /// The list in front of the data of the PAX form 1.0: lines of decimal numbers, the count
    /// first, padded to a block. Also gives the bytes it took.
    pub fn read_list(data: &mut dyn Read, size: u64) -> io::Result<(Self, u64)> {
        let mut lines = Lines { data, block: [0; BLOCK], at: BLOCK, taken: 0 };
        let mut map = Self { size, ..Self::default() };
        for _ in 0..lines.next()? {
            let (offset, length) = (lines.next()?, lines.next()?);
            map.push(offset, length)?;
        }
        Ok((map, lines.taken))
    }
}

struct Lines<'a> {
    data: &'a mut dyn Read,
    block: [u8; BLOCK],
    at: usize,
    taken: u64,
}

impl Lines<'_> {
    fn next(&mut self) -> io::Result<u64> {
        const LONGEST: usize = 20;
        let mut line = Vec::with_capacity(LONGEST);
        loop {
            if self.at == BLOCK {
                self.data.read_exact(&mut self.block)?;
                (self.at, self.taken) = (0, self.taken + BLOCK as u64);
            }
            let byte = self.block[self.at];
            self.at += 1;
            match byte {
                b'\n' => return decimal(&line),
                _ if line.len() == LONGEST => return Err(wrong("a number of a sparse list")),
                _ => line.push(byte),
            }
        }
    }
}

pub fn decimal(digits: &[u8]) -> io::Result<u64> {
    let text = std::str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'));
    text.and_then(|text| text.trim().parse().ok()).ok_or_else(|| wrong("a number is not one"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_in_both_forms() {
        let map = SparseMap::parse_list(b"0,512,4096,10").unwrap();
        assert_eq!(map.pieces[1], Piece { offset: 4096, length: 10 });
        let mut block = b"2\n0\n512\n4096\n10\n".to_vec();
        block.resize(BLOCK, 0);
        let (read, taken) = SparseMap::read_list(&mut block.as_slice(), 8192).unwrap();
        assert_eq!((read.pieces, taken), (map.pieces, 512));
    }

    #[test]
    fn what_overlaps_or_does_not_add_up_is_refused() {
        assert!(SparseMap::parse_list(b"0,512,100,10").is_err());
        assert!(SparseMap::parse_list(b"18446744073709551615,2").is_err());
        assert!(SparseMap::parse_list(b"0").is_err());
        let map = SparseMap { size: 5, ..SparseMap::parse_list(b"0,10").unwrap() };
        assert!(map.finish(10).is_err());
    }
}
