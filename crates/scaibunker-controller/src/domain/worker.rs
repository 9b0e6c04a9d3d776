//! What a worker may say of itself.

use jiff::Timestamp;
use scaibunker_api::{
    bunker::NetworkProfile,
    error::{ErrorBody, ErrorCode},
    ids::WorkerId,
    worker::{Capacity, PROTOCOL_VERSION, ReadyImage, RegisterWorker},
};

use super::violations::Violations;

const MAX_IMAGES: usize = 1_000;

/// A worker as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerRecord {
    pub id: WorkerId,
    pub name: String,
    pub version: String,
    pub engine: String,
    pub cpu_class: String,
    pub capacity: Capacity,
    pub gpu_type: Option<String>,
    pub images: Vec<ReadyImage>,
    /// What bunkers may have there.
    pub network_profiles: Vec<NetworkProfile>,
    pub last_heartbeat: Timestamp,
    /// Since when it takes no new bunkers.
    pub drained_at: Option<Timestamp>,
}

/// Refuses a worker that speaks another protocol or talks nonsense.
pub fn check_registration(worker: &RegisterWorker) -> Result<(), ErrorBody> {
    if worker.protocol_version.abs_diff(PROTOCOL_VERSION) > 1 {
        let message = format!(
            "the worker speaks protocol version {}, this controller {PROTOCOL_VERSION}; they may \
             be one apart: upgrade the older one",
            worker.protocol_version
        );
        return Err(ErrorBody::new(ErrorCode::ProtocolMismatch, message));
    }
    let mut faults = Violations::default();
    faults.text("name", Some(&worker.name), 1..=128);
    faults.text("version", Some(&worker.version), 1..=64);
    faults.text("engine", Some(&worker.engine), 1..=128);
    faults.text("cpu_class", Some(&worker.cpu_class), 0..=128);
    faults.text("gpu_type", worker.gpu_type.as_deref(), 1..=64);
    faults.into_result()?;
    check_images(&worker.images)
}

/// Refuses images whose names and digests would not fit anywhere else.
pub fn check_images(images: &[ReadyImage]) -> Result<(), ErrorBody> {
    let mut faults = Violations::default();
    if images.len() > MAX_IMAGES {
        faults.add("images", format!("at most {MAX_IMAGES} are taken"));
    }
    for image in images {
        faults.text("images.name", Some(&image.name), 1..=128);
        faults.text("images.digest", Some(&image.digest), 1..=128);
        if image.name.contains('@') {
            faults.add("images.name", "must not contain `@`");
        }
    }
    faults.into_result()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registration() -> RegisterWorker {
        RegisterWorker {
            worker_id: None,
            name: "host-1".to_owned(),
            version: "0.1.0".to_owned(),
            protocol_version: PROTOCOL_VERSION,
            engine: "qemu".to_owned(),
            cpu_class: String::new(),
            capacity: Capacity::default(),
            gpu_type: None,
            images: Vec::new(),
            image_cache: Vec::new(),
            network_profiles: vec![NetworkProfile::Isolated],
        }
    }

    #[test]
    fn protocols_may_be_one_apart() {
        let code = |protocol_version| {
            let worker = RegisterWorker { protocol_version, ..registration() };
            check_registration(&worker).err().map(|error| error.code)
        };
        assert_eq!(code(PROTOCOL_VERSION), None);
        assert_eq!(code(PROTOCOL_VERSION + 1), None);
        assert_eq!(code(PROTOCOL_VERSION + 2), Some(ErrorCode::ProtocolMismatch));
    }

    #[test]
    fn an_unnamed_worker_is_refused() {
        let worker = RegisterWorker { name: String::new(), ..registration() };
        assert_eq!(check_registration(&worker).unwrap_err().details[0].field, "name");
    }
}
