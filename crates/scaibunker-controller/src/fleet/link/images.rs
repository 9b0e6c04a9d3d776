//! Calls on a worker's images.

use http::Method;
use scaibunker_api::{
    ids::ImageId,
    worker::{EnsureImage, ImageReport},
};

use super::{CALL_LIMIT, Link, LinkError, RequestBody, json_request, request};

/// Of calls that no request of a client is behind.
const NO_REQUEST: &str = "";

impl Link {
    /// Has the worker get an image; returns what it has now.
    pub async fn ensure_image(
        &self,
        id: ImageId,
        ask: &EnsureImage,
    ) -> Result<ImageReport, LinkError> {
        let request = json_request(Method::PUT, &format!("/images/{id}"), NO_REQUEST, ask)?;
        self.call(request, CALL_LIMIT).await
    }

    /// What the worker has of one image.
    pub async fn image(&self, id: ImageId) -> Result<ImageReport, LinkError> {
        let path = format!("/images/{id}");
        self.call(request(Method::GET, &path, NO_REQUEST, RequestBody::Empty), CALL_LIMIT).await
    }

    /// Has the worker give up an image.
    pub async fn forget_image(&self, id: ImageId) -> Result<(), LinkError> {
        let path = format!("/images/{id}");
        self.tell(request(Method::DELETE, &path, NO_REQUEST, RequestBody::Empty)).await
    }
}
