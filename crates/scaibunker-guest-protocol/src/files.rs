//! Calls on files. What a call is about is JSON in the header [`CALL_HEADER`], so that the bodies
//! are the files' bytes; paths are taken inside the bunker's root and resolved by the guest alone.
//!
//! | route | header | does |
//! | --- | --- | --- |
//! | `GET`, `HEAD /files` | [`FileCall`] | the file's bytes, with length, [`etag`] and time; `Range`, `If-Range` and `If-None-Match` are honoured |
//! | `PUT /files` | [`WriteCall`] | body → file, beside its place and then renamed; [`Entry`] |
//! | `DELETE /files` | [`DeleteCall`] | 204 |
//! | `GET /files/stat` | [`FileCall`] | [`Entry`] of the path itself, links not followed |
//! | `GET /files/list` | [`ListCall`] | [`Listing`] |
//! | `POST /files/mkdir` | [`MakeDirectoryCall`] | makes it and its parents; [`Entry`], also of one that existed |
//! | `POST /files/move` | [`MoveCall`] | [`Entry`] at the new place |
//! | `GET /files/watch` | [`WatchCall`] | [`Change`]s, newline-delimited JSON, without end |
//! | `GET /files/archive` | [`FileCall`] | a directory as tar |
//! | `PUT /files/archive` | [`WriteCall`] | tar body → into the directory; [`Unpacked`] |
//!
//! The worker serves the same routes on the link, behind `/bunkers/{id}`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Header with the JSON of a call. JSON of the types here is ASCII.
pub const CALL_HEADER: &str = "scaibunker-call";

/// Longest path in bytes, as the kernel takes it.
pub const MAX_PATH_BYTES: usize = 4095;

/// Longest list in one answer, in entries. A list may end before, at [`MAX_LISTING_BYTES`].
pub const MAX_LISTED: u32 = 1000;

/// Bytes of a [`Listing`]'s JSON after which it ends.
pub const MAX_LISTING_BYTES: usize = 1024 * 1024;

/// Deepest listing.
pub const MAX_DEPTH: u32 = 64;

/// A path: any bytes but NUL. In JSON it is percent-encoded, `/` and unreserved characters plain.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePath(Vec<u8>);

/// Bytes that are no path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("the path holds a NUL byte")]
    Nul,
    #[error("the path is longer than {MAX_PATH_BYTES} bytes")]
    TooLong,
    #[error("`%` in the path is not followed by two hexadecimal digits")]
    Encoding,
}

impl FilePath {
    /// A path from its bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, PathError> {
        let bytes = bytes.into();
        if bytes.contains(&0) {
            return Err(PathError::Nul);
        }
        if bytes.len() > MAX_PATH_BYTES {
            return Err(PathError::TooLong);
        }
        Ok(Self(bytes))
    }

    /// A path from its percent-encoded form, as in a URL.
    pub fn decode(encoded: &str) -> Result<Self, PathError> {
        let mut bytes = Vec::with_capacity(encoded.len().min(MAX_PATH_BYTES + 1));
        let mut rest = encoded.as_bytes();
        while let Some((&first, after)) = rest.split_first() {
            let (byte, after) = match (first, after) {
                (b'%', [high, low, after @ ..]) => {
                    let digit = |byte: u8| (byte as char).to_digit(16).ok_or(PathError::Encoding);
                    ((digit(*high)? << 4 | digit(*low)?) as u8, after)
                }
                (b'%', _) => return Err(PathError::Encoding),
                (plain, after) => (plain, after),
            };
            bytes.push(byte);
            rest = after;
        }
        Self::new(bytes)
    }

    /// The percent-encoded form, fit for the path of a URL.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut encoded = String::with_capacity(self.0.len());
        for &byte in &self.0 {
            if byte.is_ascii_alphanumeric() || b"/-_.~".contains(&byte) {
                encoded.push(byte as char);
            } else {
                encoded.push('%');
                encoded.push_str(&format!("{byte:02X}"));
            }
        }
        encoded
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl Serialize for FilePath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.encode())
    }
}

impl<'de> Deserialize<'de> for FilePath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::decode(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// A call on one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileCall {
    pub path: FilePath,
    #[serde(flatten)]
    pub rights: Rights,
}

/// Whose rights a call has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rights {
    /// Root's rights. Else the call can do what `user` could.
    pub as_root: bool,
    /// Name or `uid[:gid]`, looked up in the bunker's own passwd file; also the owner of what is
    /// made. The worker fills in the image's user where there is none.
    pub user: Option<String>,
}

/// A call that makes files. What is not given is kept of a file that is replaced, and is otherwise
/// the user's id and group and 0644 (0755 for directories).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteCall {
    pub path: FilePath,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    #[serde(flatten)]
    pub rights: Rights,
}

/// [`WriteCall`] for a directory.
pub type MakeDirectoryCall = WriteCall;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteCall {
    pub path: FilePath,
    /// A directory with all in it; else only an empty one is removed.
    pub recursive: bool,
    #[serde(flatten)]
    pub rights: Rights,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListCall {
    /// A directory; a link to one is followed, links inside are not.
    pub path: FilePath,
    /// 1: the directory's own entries.
    pub depth: u32,
    /// Go on after this path, which an earlier list ended with.
    pub after: Option<FilePath>,
    pub limit: u32,
    #[serde(flatten)]
    pub rights: Rights,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveCall {
    pub path: FilePath,
    pub to: FilePath,
    /// Replace a file that is there already.
    pub overwrite: bool,
    #[serde(flatten)]
    pub rights: Rights,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchCall {
    /// A file, or a directory for its entries.
    pub path: FilePath,
    /// Directories inside as well, those made later included.
    pub recursive: bool,
    #[serde(flatten)]
    pub rights: Rights,
}

/// What a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryType {
    File,
    Directory,
    Symlink,
    BlockDevice,
    CharDevice,
    Fifo,
    Socket,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// As the caller named it; of a list, the directory's path and the names below it.
    pub path: FilePath,
    #[serde(rename = "type")]
    pub kind: EntryType,
    pub size_bytes: u64,
    /// Permission bits, 0 to 0o7777.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970.
    pub modified_s: i64,
    pub modified_ns: u32,
    pub symlink_target: Option<FilePath>,
}

/// Entries in the order of their paths' components, a directory before what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    pub entries: Vec<Entry>,
    pub has_more: bool,
}

/// What a tar upload made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unpacked {
    pub entries: u64,
    pub bytes: u64,
}

/// What happened to a path that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    Created,
    Modified,
    /// Owner, mode or times.
    Attributes,
    Deleted,
    MovedFrom,
    MovedTo,
    /// More happened than could be told; look again. `path` is the watched one.
    Overflow,
    /// First of all: from here on nothing is missed. `path` is the watched one.
    Watching,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub kind: ChangeKind,
    pub path: FilePath,
    pub is_directory: bool,
}

/// The entity tag of a file: another one after every change that its times can tell.
#[must_use]
pub fn etag(modified_s: i64, modified_ns: u32, size_bytes: u64, inode: u64) -> String {
    format!("\"{modified_s:x}.{modified_ns:x}-{size_bytes:x}-{inode:x}\"")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_without_nul_survive_encoding(
            bytes in proptest::collection::vec(1u8.., 0..MAX_PATH_BYTES),
        ) {
            let path = FilePath::new(bytes.clone())?;
            let encoded = path.encode();
            prop_assert!(encoded.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert_eq!(FilePath::decode(&encoded)?, path.clone());
            let json = serde_json::to_string(&path).unwrap();
            prop_assert_eq!(serde_json::from_str::<FilePath>(&json).unwrap(), path);
        }

        #[test]
        fn any_text_is_decoded_or_refused(text: String) {
            let _ = FilePath::decode(&text);
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        assert_eq!(FilePath::decode("a%00b"), Err(PathError::Nul));
        for text in ["%", "%4", "%zz", "%+1", "a%"] {
            assert_eq!(FilePath::decode(text), Err(PathError::Encoding), "{text}");
        }
        assert_eq!(FilePath::new(vec![b'a'; MAX_PATH_BYTES + 1]), Err(PathError::TooLong));
    }
}
