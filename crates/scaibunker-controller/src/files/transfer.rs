//! Files that are too large for one call: they go straight to the object store and from there into
//! the bunker.

use std::{sync::Arc, time::Duration};

use http::Method;
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    file::{CommitRequest, FileEntry, Upload, UploadRequest},
    ids::BunkerId,
    worker::CommitFile,
};
use scaibunker_guest_protocol::files::Entry;
use scaibunker_storage::{Objects, StorageError};
use uuid::Uuid;

use super::{Place, refused};
use crate::{
    bunkers::Bunkers,
    domain::{
        actor::Actor,
        file::{mode_of, path_of_text, shown},
    },
    failure::{Failure, chain},
    fleet::{FileRequest, RequestBody},
};

/// How long an upload's URL can be used.
const UPLOAD_TTL: Duration = Duration::from_secs(60 * 60);

/// The service; one for the process.
pub struct Transfers {
    bunkers: Arc<Bunkers>,
    objects: Objects,
}

impl Transfers {
    /// A service on `bunkers` and `objects`.
    #[must_use]
    pub fn new(bunkers: Arc<Bunkers>, objects: Objects) -> Self {
        Self { bunkers, objects }
    }

    /// A signed URL for a file on its way into the bunker. `base_url` is where clients find the
    /// API, its prefix included.
    pub async fn upload(
        &self,
        actor: &Actor,
        id: BunkerId,
        request: UploadRequest,
        base_url: &str,
    ) -> Result<Upload, Failure> {
        self.bunkers.enter(actor, id).await?;
        let key = format!("{}{}", prefix_of(id), Uuid::new_v4());
        let signed = self
            .objects
            .presign_put(&key, UPLOAD_TTL, request.size_bytes, base_url)
            .await
            .map_err(|error| broken(&error))?;
        Ok(Upload {
            url: signed.url,
            method: "PUT".to_owned(),
            headers: signed.headers,
            key,
            expires_at: signed.expires_at,
        })
    }

    /// Puts an uploaded file in its place; the upload is used up by it.
    pub async fn commit(
        &self,
        actor: &Actor,
        id: BunkerId,
        request: CommitRequest,
    ) -> Result<FileEntry, Failure> {
        let place = Place {
            path: path_of_text("dest_path", &request.dest_path)?,
            mode: request.mode.as_deref().map(mode_of).transpose()?,
            uid: request.uid,
            gid: request.gid,
        };
        let link = self.bunkers.enter(actor, id).await?;
        let key = request.key;
        if !is_upload_of(id, &key) {
            return Err(no_upload());
        }
        if self.objects.head(&key).await.map_err(|error| broken(&error))?.is_none() {
            return Err(no_upload());
        }
        let body = serde_json::to_vec(&CommitFile { key: key.clone() }).map_err(|error| {
            tracing::error!(%error, "a commit cannot be written");
            ErrorBody::new(ErrorCode::Internal, "the commit cannot be sent to the worker")
        })?;
        let mut request = FileRequest::new(Method::POST, "/files/commit", place.into_call(actor));
        request.body = RequestBody::Whole(body.into());
        let placed = link.files_json(id, request, &actor.request_id.to_string()).await;
        let entry: Entry = placed.map_err(refused)?;
        // The file is where it belongs; what is left of the upload is swept up later.
        if let Err(error) = self.objects.delete(&key).await {
            tracing::warn!(key, error = chain(&error), "a committed upload stays for now");
        }
        Ok(shown(entry))
    }
}

fn prefix_of(id: BunkerId) -> String {
    format!("files/{id}/")
}

fn is_upload_of(id: BunkerId, key: &str) -> bool {
    key.strip_prefix(&prefix_of(id)).is_some_and(|name| Uuid::parse_str(name).is_ok())
}

fn no_upload() -> Failure {
    let message = "nothing was uploaded under this key for this bunker, or it was committed or has \
                   expired; ask for a new URL and send the file again";
    Failure::new(ErrorCode::UploadNotFound, message)
}

fn broken(error: &StorageError) -> ErrorBody {
    tracing::error!(error = chain(error), "the object store failed a request");
    error.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bunkers_own_uploads_are_committed() {
        let (id, other) = (BunkerId::generate(), BunkerId::generate());
        let name = Uuid::new_v4();
        assert!(is_upload_of(id, &format!("files/{id}/{name}")));
        for key in [
            format!("files/{other}/{name}"),
            format!("output/{id}/{name}"),
            format!("files/{id}/"),
            format!("files/{id}/../{other}/{name}"),
            format!("files/{id}/x"),
            String::new(),
        ] {
            assert!(!is_upload_of(id, &key), "{key}");
        }
    }
}
