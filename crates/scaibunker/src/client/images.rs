//! Calls on images.

use std::collections::BTreeMap;

use http::Method;
use scaibunker_api::{
    API_PREFIX,
    envelope::Envelope,
    ids::ImageId,
    image::{CreateImage, CreatedImage, Image, ImageCacheRow, WarmCounts},
    storage::{Capability, CapabilityMethod, MintCapability},
};

use super::{Client, ClientError, Content};

/// How long an upload of an archive may take.
const UPLOAD_TTL_S: u64 = 24 * 60 * 60;

impl Client {
    /// Registers an image.
    pub async fn create_image(&self, body: &CreateImage) -> Result<CreatedImage, ClientError> {
        self.change(Method::POST, "/images", Some(body)).await
    }

    /// What each worker has of an image.
    pub async fn image_cache(&self, id: ImageId) -> Result<Vec<ImageCacheRow>, ClientError> {
        self.every_page(&format!("/images/{id}/cache?")).await
    }

    /// Has every worker of the image's groups get it.
    pub async fn warm_image(&self, id: ImageId) -> Result<WarmCounts, ClientError> {
        self.change(Method::POST, &format!("/images/{id}/warm"), None::<&()>).await
    }

    /// One image.
    pub async fn image(&self, id: ImageId) -> Result<Image, ClientError> {
        Ok(self.get(&format!("/images/{id}")).await?.decode::<Envelope<Image>>()?.data)
    }

    /// Stores an archive as `key`, with a right to that one object alone.
    pub async fn upload_archive(&self, key: &str, content: Content) -> Result<(), ClientError> {
        let mint = MintCapability {
            prefix: key.to_owned(),
            methods: vec![CapabilityMethod::Put],
            ttl_s: UPLOAD_TTL_S,
        };
        let capability: Capability =
            self.change(Method::POST, "/storage/capabilities", Some(&mint)).await?;
        let headers =
            BTreeMap::from([("authorization".to_owned(), format!("Bearer {}", capability.token))]);
        let url = format!("{}{API_PREFIX}/storage/{key}", self.transport.base());
        self.transport.put_signed(&url, &headers, content).await
    }
}
