//! Files of a bunker, as clients see them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::time;

/// Largest body of `PUT /bunkers/{id}/files/{path}`, in bytes.
pub const MAX_PUT_BYTES: u64 = 10 * 1024 * 1024;

/// What a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileType {
    File,
    Directory,
    Symlink,
    BlockDevice,
    CharDevice,
    Fifo,
    Socket,
}

/// One directory entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileEntry {
    /// Absolute; where it is not UTF-8, with replacement characters.
    pub path: String,
    /// The exact path, percent-encoded as in a URL, where `path` is not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_encoded: Option<String>,
    #[serde(rename = "type")]
    pub kind: FileType,
    pub size_bytes: u64,
    /// Permission bits in octal, such as `0644`.
    pub mode: String,
    pub uid: u32,
    pub gid: u32,
    #[serde(with = "time")]
    #[schemars(with = "Timestamp")]
    pub modified_at: Timestamp,
    pub symlink_target: Option<String>,
}

/// The body of `POST /bunkers/{id}/files/upload`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UploadRequest {
    /// What will be sent; more is then refused where the store can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
}

/// Where to send a large file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Upload {
    /// Signed: no credential is to be sent with it.
    pub url: String,
    /// Always `PUT`.
    pub method: String,
    /// To be sent as they are.
    pub headers: BTreeMap<String, String>,
    /// For `commit`.
    pub key: String,
    #[serde(with = "time")]
    #[schemars(with = "Timestamp")]
    pub expires_at: Timestamp,
}

/// The body of `POST /bunkers/{id}/files/commit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CommitRequest {
    pub key: String,
    pub dest_path: String,
    /// Permission bits in octal, such as `0644`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

/// The body of `POST /bunkers/{id}/files/mkdir`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MkdirRequest {
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

/// The body of `POST /bunkers/{id}/files/move`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveRequest {
    pub from: String,
    pub to: String,
    /// Replace a file that is there already.
    #[serde(default)]
    pub overwrite: bool,
}

/// What a tar upload made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Unpacked {
    pub entries: u64,
    pub bytes: u64,
}

/// The data of an SSE event of `…/files-watch`; the event's name is the kind: `watching`,
/// `created`, `modified`, `attributes`, `deleted`, `moved_from`, `moved_to` or `overflow`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileChange {
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_encoded: Option<String>,
    pub is_directory: bool,
}
