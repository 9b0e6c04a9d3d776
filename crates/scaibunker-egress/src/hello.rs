//! The first message of a TLS client, which names the server that it wants.

use std::io;

use rustls::server::Acceptor;
use scaibunker_api::host_name::HostName;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// A hello with post-quantum key shares and a long session ticket has some 2 KiB.
const MAX_HELLO_BYTES: usize = 16 * 1024;

/// `encrypted_client_hello` (RFC 9849), and its predecessor.
const ENCRYPTED_HELLO: [u16; 2] = [0xfe0d, 0xffce];

/// A fatal `access_denied` alert (RFC 8446, section 6) in a record of its own.
pub const ACCESS_DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

/// What a client said first.
#[derive(Debug)]
pub struct Hello {
    pub name: Option<HostName>,
    /// Whether it hides another name in an encrypted part, or pretends to.
    pub is_encrypted: bool,
    /// Everything that was read, for whoever it is meant for.
    pub bytes: Vec<u8>,
}

/// Reads until the hello is complete, however it is cut into records and packets. `bytes` were read
/// before.
pub async fn read(mut stream: impl AsyncRead + Unpin, mut bytes: Vec<u8>) -> io::Result<Hello> {
    let not_tls = |_| io::Error::new(io::ErrorKind::InvalidData, "not a TLS hello");
    let mut acceptor = Acceptor::default();
    let mut seen = 0;
    loop {
        while seen < bytes.len() {
            seen += acceptor.read_tls(&mut &bytes[seen..])?;
        }
        if let Some(accepted) = acceptor.accept().map_err(not_tls)? {
            let name = accepted.client_hello().server_name().and_then(HostName::parse);
            let is_encrypted = has_extension(&bytes, &ENCRYPTED_HELLO).unwrap_or(true);
            return Ok(Hello { name, is_encrypted, bytes });
        }
        if bytes.len() > MAX_HELLO_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the TLS hello is too long"));
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Whether a complete hello has one of the extensions. The records around it have been checked.
fn has_extension(records: &[u8], wanted: &[u16]) -> Option<bool> {
    let mut hello = Vec::new();
    let mut rest = records;
    while let Some((header, after)) = rest.split_at_checked(5) {
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        let (payload, after) = after.split_at_checked(length)?;
        hello.extend_from_slice(payload);
        rest = after;
    }
    let mut fields = Fields(&hello);
    let _message_type = fields.take(1)?;
    let mut fields = Fields(fields.vector(3)?);
    let _version_and_random = fields.take(2 + 32)?;
    let _session_id = fields.vector(1)?;
    let _cipher_suites = fields.vector(2)?;
    let _compression = fields.vector(1)?;
    let mut extensions = Fields(fields.vector(2)?);
    while !extensions.0.is_empty() {
        let kind = extensions.take(2)?;
        let _value = extensions.vector(2)?;
        if wanted.contains(&u16::from_be_bytes([kind[0], kind[1]])) {
            return Some(true);
        }
    }
    Some(false)
}

/// What is left to read of a message.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (field, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(field)
    }

    /// A field after its length, which has that many bytes.
    fn vector(&mut self, length_bytes: usize) -> Option<&'a [u8]> {
        let length = self.take(length_bytes)?;
        let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    /// What rustls says first to a server of that name.
    fn hello(name: &'static str) -> Vec<u8> {
        let config = ClientConfig::builder()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let mut client = ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// The same message in records of at most `size` bytes.
    fn cut(record: &[u8], size: usize) -> Vec<u8> {
        let pieces = record[5..].chunks(size);
        let records = pieces.map(|piece| {
            let length = (piece.len() as u16).to_be_bytes();
            [&record[..3], &length, piece].concat()
        });
        records.collect::<Vec<_>>().concat()
    }

    async fn parse(bytes: &[u8]) -> io::Result<Hello> {
        read(bytes, Vec::new()).await
    }

    #[tokio::test]
    async fn the_name_is_read_from_any_number_of_records() {
        for bytes in [hello("example.com"), cut(&hello("example.com"), 40)] {
            let found = parse(&bytes).await.unwrap();
            assert_eq!(found.name.unwrap().as_str(), "example.com");
            assert!(!found.is_encrypted);
            assert_eq!(found.bytes, bytes);
        }
    }

    #[tokio::test]
    async fn an_address_is_no_name() {
        assert!(parse(&hello("93.184.215.14")).await.unwrap().name.is_none());
    }

    #[tokio::test]
    async fn what_is_cut_off_or_no_hello_is_an_error() {
        let whole = hello("example.com");
        assert!(parse(&whole[..whole.len() - 1]).await.is_err());
        assert!(parse(b"SSH-2.0-OpenSSH_9.2\r\n").await.is_err());
        assert!(parse(&[22; 100_000]).await.is_err());
    }

    /// The outer hello's part of RFC 9849, section 5, with keys and contents of one byte.
    const OUTER: [u8; 12] = [0, 0, 1, 0, 1, 7, 0, 1, 9, 0, 1, 9];

    /// The hello with one more extension at its end.
    fn with_extension(hello: &[u8], kind: u16, value: &[u8]) -> Vec<u8> {
        let value_length = (value.len() as u16).to_be_bytes();
        let mut bytes = [hello, &kind.to_be_bytes(), &value_length, value].concat();
        let added = value.len() as u16 + 4;
        let mut lengthen = |at: usize| {
            let length = u16::from_be_bytes([bytes[at], bytes[at + 1]]) + added;
            bytes[at..at + 2].copy_from_slice(&length.to_be_bytes());
        };
        lengthen(3);
        lengthen(7);
        // After version and random: the session's id, the cipher suites, the compression methods.
        let session = 9 + 2 + 32;
        let suites = session + 1 + usize::from(hello[session]);
        let suites_length = usize::from(u16::from_be_bytes([hello[suites], hello[suites + 1]]));
        let compression = suites + 2 + suites_length;
        lengthen(compression + 1 + usize::from(hello[compression]));
        bytes
    }

    #[tokio::test]
    async fn an_encrypted_hello_is_seen() {
        let bytes = with_extension(&hello("example.com"), 0xfe0d, &OUTER);
        let found = parse(&bytes).await.unwrap();
        assert_eq!(found.name.unwrap().as_str(), "example.com");
        assert!(found.is_encrypted);
        assert!(parse(&cut(&bytes, 30)).await.unwrap().is_encrypted);
        let other = with_extension(&hello("example.com"), 0xabcd, &[]);
        assert!(!parse(&other).await.unwrap().is_encrypted);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..200) {
            let _ = has_extension(&bytes, &ENCRYPTED_HELLO);
            let mut hello = hello("example.com");
            let end = (at + bytes.len()).min(hello.len());
            let at = at.min(end);
            hello[at..end].copy_from_slice(&bytes[..end - at]);
            let _ = has_extension(&hello, &ENCRYPTED_HELLO);
        }
    }
}
