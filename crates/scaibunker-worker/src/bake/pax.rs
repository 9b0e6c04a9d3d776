//! PAX records: what the fields of a tar header have no room for.

use std::io;

use super::sparse::{SparseMap, decimal};

/// What the records of one entry say.
#[derive(Debug, Clone, Default)]
pub struct Pax {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    /// Whole seconds; what is smaller is dropped.
    pub mtime: Option<i64>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: Option<SparseMap>,
    /// The list of pieces stands in front of the data.
    pub has_sparse_list: bool,
    pub sparse_size: Option<u64>,
    sparse_offset: Option<u64>,
}

impl Pax {
    /// Takes in a block of records; later ones win.
    pub fn parse(&mut self, mut records: &[u8]) -> io::Result<()> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "a PAX record is malformed");
        while !records.is_empty() && records[0] != 0 {
            let space = records.iter().take(21).position(|byte| *byte == b' ').ok_or_else(wrong)?;
            let length = usize::try_from(decimal(&records[..space])?).map_err(|_| wrong())?;
            let record = records.get(space + 1..length).ok_or_else(wrong)?;
            let record = record.strip_suffix(b"\n").ok_or_else(wrong)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(wrong)?;
            self.record(&record[..equals], &record[equals + 1..])?;
            records = &records[length..];
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        match key {
            b"path" | b"GNU.sparse.name" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(decimal(value)?),
            b"uid" => self.uid = Some(decimal(value)?),
            b"gid" => self.gid = Some(decimal(value)?),
            b"mtime" => self.mtime = Some(whole_seconds(value)?),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.sparse_size = Some(decimal(value)?);
            }
            b"GNU.sparse.major" => self.has_sparse_list = value == b"1",
            b"GNU.sparse.map" => self.sparse = Some(SparseMap::parse_list(value)?),
            b"GNU.sparse.offset" => self.sparse_offset = Some(decimal(value)?),
            b"GNU.sparse.numbytes" => {
                if let Some(offset) = self.sparse_offset.take() {
                    let map = self.sparse.get_or_insert_default();
                    map.push(offset, decimal(value)?)?;
                }
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.retain(|(known, _)| known != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// Of `-1.5` that is `-2`, as for every clock.
fn whole_seconds(value: &[u8]) -> io::Result<i64> {
    let (negative, digits) = match value.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, value),
    };
    let mut halves = digits.splitn(2, |byte| *byte == b'.');
    let seconds = halves.next().unwrap_or_default();
    let fraction = halves.next().unwrap_or_default().iter().any(|digit| *digit != b'0');
    let seconds = i64::try_from(decimal(seconds)?).unwrap_or(i64::MAX - 1);
    Ok(if negative { -seconds - i64::from(fraction) } else { seconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_taken_apart() {
        let mut pax = Pax::default();
        pax.parse(b"12 path=a=b\n16 mtime=-1.500\n27 SCHILY.xattr.user.a=x\ny\n").unwrap();
        assert_eq!(pax.path.as_deref(), Some(b"a=b".as_slice()));
        assert_eq!(pax.mtime, Some(-2));
        assert_eq!(pax.xattrs, [(b"user.a".to_vec(), b"x\ny".to_vec())]);
    }

    #[test]
    fn malformed_records_are_errors() {
        for records in
            [&b"99 path=a\n"[..], b"x path=a\n", b"2 ", b"8 path a", b"11 size=zz\n", b"0 a"]
        {
            assert!(Pax::default().parse(records).is_err(), "{records:?}");
        }
    }

    #[test]
    fn no_bytes_panic() {
        bolero::check!()
            .with_test_time(std::time::Duration::from_secs(1))
            .with_type::<Vec<u8>>()
            .for_each(|bytes| drop(Pax::default().parse(bytes)));
    }
}
