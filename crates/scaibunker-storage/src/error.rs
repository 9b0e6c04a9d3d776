//! What can go wrong between the product and its object store.

use std::{error::Error, io, path::PathBuf};

use scaibunker_api::error::{ErrorBody, ErrorCode};

use crate::s3_transport::Silence;

/// The object store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot make the directory {}", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("cannot keep objects in {}", path.display())]
    Open { path: PathBuf, source: object_store::Error },
    #[error("`{endpoint}` is no address of an S3 server: it is `http(s)://host[:port]`")]
    Endpoint { endpoint: String },
    #[error("cannot use the S3 bucket `{bucket}`")]
    S3 { bucket: String, source: object_store::Error },
}

/// One call of an object store failed.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error("no object can have the key `{0}`")]
    Key(String),
    #[error("a signed URL is valid for at least 1 second and at most 7 days")]
    Lifetime,
    #[error("there is no SCAIBUNKER_CAPABILITY_SECRET to sign a URL with")]
    NoSecret,
    #[error("the object store is full: it cannot take `{key}`")]
    NoSpace { key: String, source: object_store::Error },
    #[error("the object store cannot {action} `{key}`")]
    Store { action: &'static str, key: String, source: object_store::Error },
}

impl StorageError {
    pub(crate) fn new(action: &'static str, key: &str, source: object_store::Error) -> Self {
        let key = key.to_owned();
        if is_out_of_space(&source) {
            return Self::NoSpace { key, source };
        }
        Self::Store { action, key, source }
    }
}

fn is_out_of_space(error: &(dyn Error + 'static)) -> bool {
    let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    causes(error).filter_map(|e| e.downcast_ref::<io::Error>()).any(|e| full.contains(&e.kind()))
}

fn is_stalled(error: &(dyn Error + 'static)) -> bool {
    causes(error).any(|error| error.is::<Silence>())
}

/// An error and what is below it.
pub(crate) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
}

/// What a client is told.
impl From<&StorageError> for ErrorBody {
    fn from(error: &StorageError) -> Self {
        match error {
            StorageError::Key(key) => Self::new(
                ErrorCode::NotFound,
                format!(
                    "no object can have the key `{key}`: a key starts with images, snapshots, \
                     output, files or audit, and has plain segments without `..`"
                ),
            ),
            StorageError::Lifetime => Self::new(ErrorCode::ValidationError, error.to_string()),
            StorageError::NoSpace { key, .. } => Self::new(
                ErrorCode::NoSpace,
                format!(
                    "the disk of the object store is full: `{key}` was not stored, and nothing of \
                     it was kept; the operator has to make room"
                ),
            ),
            StorageError::NoSecret => Self::new(
                ErrorCode::Internal,
                "this server has no SCAIBUNKER_CAPABILITY_SECRET, so it can sign no URL",
            ),
            StorageError::Store { source, .. } if is_stalled(source) => Self::new(
                ErrorCode::Internal,
                "the object store failed: it did not answer in time; the log has the cause under \
                 the request id",
            ),
            StorageError::Store { .. } => Self::new(
                ErrorCode::Internal,
                "the object store failed; the log has the cause under the request id",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_recognised_below_other_errors() {
        let wrap = |kind: io::ErrorKind| object_store::Error::Generic {
            store: "test",
            source: Box::new(io::Error::from(kind)),
        };
        let full = StorageError::new("take", "files/a", wrap(io::ErrorKind::StorageFull));
        assert_eq!(ErrorBody::from(&full).code, ErrorCode::NoSpace);
        let other = StorageError::new("take", "files/a", wrap(io::ErrorKind::NotFound));
        assert_eq!(ErrorBody::from(&other).code, ErrorCode::Internal);
    }
}
