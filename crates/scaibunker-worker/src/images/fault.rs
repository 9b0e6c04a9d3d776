//! Why an image could not be got, in words for whoever asked for it.

use std::{io, path::Path};

use scaibunker_api::worker::{ImageFault, ImageFaultCause};

use crate::{bake::BakeError, chain, oci::OciError, storage::StorageError};

pub fn of(cause: ImageFaultCause, message: impl Into<String>) -> ImageFault {
    ImageFault { cause, message: message.into() }
}

/// A failure of a file at `path`.
pub fn of_io(what: &str, path: &Path, error: &io::Error) -> ImageFault {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => no_space(path),
        io::ErrorKind::OutOfMemory => {
            of(ImageFaultCause::OutOfMemory, format!("out of memory: cannot {what}"))
        }
        _ => {
            let message = format!("internal error: cannot {what} {}: {error}", path.display());
            of(ImageFaultCause::Internal, message)
        }
    }
}

pub fn no_space(path: &Path) -> ImageFault {
    let message = format!(
        "no space left on the worker's disk: {} is full; make room there, then warm the image",
        path.display()
    );
    of(ImageFaultCause::NoSpace, message)
}

pub fn over_budget(needed_bytes: u64, budget_bytes: u64) -> ImageFault {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let message = format!(
        "no space left on the worker's disk: the image takes {} MiB and the worker keeps at most \
         {} MiB of images beside what is in use; raise --image-cache-mb, then warm the image",
        mib(needed_bytes),
        mib(budget_bytes)
    );
    of(ImageFaultCause::OverBudget, message)
}

pub fn evicted() -> ImageFault {
    let message = "evicted to make room for other images; it is fetched again when a bunker wants \
                   it, or by `warm`";
    of(ImageFaultCause::Evicted, message)
}

impl From<OciError> for Fault {
    fn from(error: OciError) -> Self {
        Self(of(error.cause(), chain(&error)))
    }
}

impl From<BakeError> for Fault {
    fn from(error: BakeError) -> Self {
        Self(of(error.cause(), chain(&error)))
    }
}

impl From<StorageError> for Fault {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::NotFound(key) => {
                let message = format!("no such object: the storage proxy has no `{key}`");
                Self(of(ImageFaultCause::NotFound, message))
            }
            error => {
                let message = format!("the storage proxy failed: {}", chain(&error));
                Self(of(ImageFaultCause::Storage, message))
            }
        }
    }
}

/// An [`ImageFault`] on its way up.
#[derive(Debug)]
pub struct Fault(pub ImageFault);

impl From<ImageFault> for Fault {
    fn from(fault: ImageFault) -> Self {
        Self(fault)
    }
}
