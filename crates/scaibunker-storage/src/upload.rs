//! A body on its way to the store, with bounded memory.
//!
//! One part is filled while the one before it is stored: that is all a request holds.

use std::sync::Arc;

use axum::body::{Body, HttpBody as _};
use bytes::BytesMut;
use futures_util::StreamExt as _;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt as _, PutPayload, path::Path};
use tokio::{runtime::Handle, task::JoinSet};

use crate::StorageError;

/// Why an object was not stored. Nothing of it was kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("the body broke off")]
    Body(#[source] axum::Error),
    #[error("the body has more than {max_bytes} bytes")]
    TooLarge { max_bytes: u64 },
    #[error(transparent)]
    Storage(StorageError),
}

/// Stores `body` at `place` and returns its size in bytes. The object appears when all of it is
/// there; what fits into one part is one request to the store.
pub(crate) async fn store(
    store: &Arc<dyn ObjectStore>,
    key: &str,
    place: &Path,
    part_bytes: usize,
    body: Body,
    max_bytes: Option<u64>,
) -> Result<u64, UploadError> {
    let announced = body.size_hint().lower();
    let max_bytes = max_bytes.unwrap_or(u64::MAX);
    if announced > max_bytes {
        return Err(UploadError::TooLarge { max_bytes });
    }
    let mut upload = Upload { store, key, place, part_bytes, parts: None };
    match upload.fill(body, max_bytes).await {
        Ok((last, size_bytes)) => {
            upload.finish(last).await.map_err(|source| failed(key, source))?;
            Ok(size_bytes)
        }
        Err(error) => {
            if let Some(parts) = upload.parts.take() {
                parts.abort().await;
            }
            Err(error)
        }
    }
}

struct Upload<'a> {
    store: &'a Arc<dyn ObjectStore>,
    key: &'a str,
    place: &'a Path,
    part_bytes: usize,
    /// Absent until the first part is full.
    parts: Option<Parts>,
}

impl Upload<'_> {
    /// Stores all but the last part, which it returns with the size of the whole.
    async fn fill(&mut self, body: Body, max_bytes: u64) -> Result<(BytesMut, u64), UploadError> {
        let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
        let mut part = BytesMut::with_capacity(announced.min(self.part_bytes));
        let mut size_bytes = 0;
        let mut pieces = body.into_data_stream();
        while let Some(piece) = pieces.next().await {
            let mut piece = piece.map_err(UploadError::Body)?;
            size_bytes += piece.len() as u64;
            if size_bytes > max_bytes {
                return Err(UploadError::TooLarge { max_bytes });
            }
            while !piece.is_empty() {
                if part.len() == self.part_bytes {
                    let full = std::mem::replace(&mut part, BytesMut::new());
                    self.push(full).await.map_err(|source| failed(self.key, source))?;
                    part.reserve(self.part_bytes);
                }
                // A copy, since a piece may keep a buffer much larger than itself alive.
                let room = self.part_bytes - part.len();
                part.extend_from_slice(&piece.split_to(room.min(piece.len())));
            }
        }
        Ok((part, size_bytes))
    }

    async fn push(&mut self, part: BytesMut) -> object_store::Result<()> {
        let parts = match &mut self.parts {
            Some(parts) => parts,
            None => {
                // In a task, so that a request which is dropped in between does not leave an upload
                // that nobody knows.
                let begun = tokio::spawn(Parts::begin(Arc::clone(self.store), self.place.clone()));
                self.parts.insert(begun.await??)
            }
        };
        parts.push(part).await
    }

    async fn finish(mut self, last: BytesMut) -> object_store::Result<()> {
        let Some(mut parts) = self.parts.take() else {
            self.store.put(self.place, PutPayload::from(last.freeze())).await?;
            return Ok(());
        };
        let finished = parts.finish(last).await;
        if finished.is_err() {
            parts.abort().await;
        }
        finished
    }
}

fn failed(key: &str, source: object_store::Error) -> UploadError {
    UploadError::Storage(StorageError::new("store", key, source))
}

/// Parts of an upload that is not finished. Dropped before it is, it takes back what it stored.
struct Parts {
    upload: Option<Box<dyn MultipartUpload>>,
    /// At most one.
    in_flight: JoinSet<object_store::Result<()>>,
}

impl Parts {
    async fn begin(store: Arc<dyn ObjectStore>, place: Path) -> object_store::Result<Self> {
        let upload = store.put_multipart(&place).await?;
        Ok(Self { upload: Some(upload), in_flight: JoinSet::new() })
    }

    async fn push(&mut self, part: BytesMut) -> object_store::Result<()> {
        self.wait().await?;
        if let Some(upload) = &mut self.upload {
            self.in_flight.spawn(upload.put_part(PutPayload::from(part.freeze())));
        }
        Ok(())
    }

    async fn wait(&mut self) -> object_store::Result<()> {
        while let Some(stored) = self.in_flight.join_next().await {
            stored??;
        }
        Ok(())
    }

    async fn finish(&mut self, last: BytesMut) -> object_store::Result<()> {
        self.push(last).await?;
        self.wait().await?;
        if let Some(upload) = &mut self.upload {
            upload.complete().await?;
        }
        self.upload = None;
        Ok(())
    }

    async fn abort(mut self) {
        if let Some(upload) = self.upload.take() {
            let in_flight = std::mem::take(&mut self.in_flight);
            take_back(upload, in_flight).await;
        }
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        let in_flight = std::mem::take(&mut self.in_flight);
        if let (Some(upload), Ok(runtime)) = (self.upload.take(), Handle::try_current()) {
            runtime.spawn(take_back(upload, in_flight));
        }
    }
}

async fn take_back(
    mut upload: Box<dyn MultipartUpload>,
    mut in_flight: JoinSet<object_store::Result<()>>,
) {
    // A part that arrives after the end of its upload would stay.
    while in_flight.join_next().await.is_some() {}
    if let Err(error) = upload.abort().await {
        tracing::warn!(%error, "a broken upload could not be cleaned up");
    }
}
