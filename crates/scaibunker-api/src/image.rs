//! Images as clients see them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::ImageId;

/// An image's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Image {
    pub id: ImageId,
    pub name: String,
    /// `sha256:…` of the baked root file system.
    pub digest: String,
    pub size_bytes: u64,
    pub default_cpu_millicores: u32,
    pub default_memory_mb: u32,
    pub default_disk_mb: u32,
}
