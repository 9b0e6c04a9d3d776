//! Images and their rules.

use scaibunker_api::image::Image;

/// An image as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    /// What clients see of it.
    pub image: Image,
    /// Raised by every change.
    pub generation: i64,
    /// Credentials for the registry, sealed.
    pub registry_auth: Option<String>,
    /// Key of the compressed root file system in the object store.
    pub stored_key: Option<String>,
}

#[cfg(test)]
pub mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use scaibunker_api::{
        ids::ImageId,
        image::{DEFAULT_SIZE_MIB, ImageOrigin, ImageScope, ImageStatus, ScanStatus},
    };

    use super::*;

    /// An image that comes with the workers.
    pub fn built_in() -> Image {
        Image {
            id: ImageId::generate(),
            name: "busybox".to_owned(),
            scope: ImageScope::Platform,
            tenant_id: None,
            partner_id: None,
            created_by: None,
            created_at: Timestamp::UNIX_EPOCH,
            source: ImageOrigin::BuiltIn,
            status: ImageStatus::Ready,
            status_reason: None,
            digest: Some("sha256:0".to_owned()),
            manifest_digest: None,
            size_bytes: Some(1),
            size_mib: DEFAULT_SIZE_MIB,
            default_cpu_millicores: 1000,
            default_memory_mb: 256,
            default_disk_mb: 256,
            lazy_pull: false,
            entrypoint_env: BTreeMap::new(),
            config: None,
            scan_status: ScanStatus::Pending,
        }
    }
}
