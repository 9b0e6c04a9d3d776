//! Calls on images.

use std::collections::BTreeMap;

use http::Method;
use scaibunker_api::{
    API_PREFIX,
    envelope::Envelope,
    ids::ImageId,
    image::{CreateImage, CreatedImage, Image, ImageCacheRow, ImageScan, WarmCounts},
    storage::{Capability, CapabilityMethod, MintCapability},
};

use super::{Client, ClientError, Content, files::Download};

/// How long an object may be on its way.
const RIGHT_TTL_S: u64 = 24 * 60 * 60;

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

    /// Has an image scanned.
    pub async fn scan_image(&self, id: ImageId) -> Result<ImageScan, ClientError> {
        self.change(Method::POST, &format!("/images/{id}/scan"), None::<&()>).await
    }

    /// What is known of an image's faults.
    pub async fn image_scan(&self, id: ImageId) -> Result<ImageScan, ClientError> {
        Ok(self.get(&format!("/images/{id}/scan")).await?.decode::<Envelope<ImageScan>>()?.data)
    }

    /// One image.
    pub async fn image(&self, id: ImageId) -> Result<Image, ClientError> {
        Ok(self.get(&format!("/images/{id}")).await?.decode::<Envelope<Image>>()?.data)
    }

    /// Stores an archive as `key`, with a right to that one object alone.
    pub async fn upload_archive(&self, key: &str, content: Content) -> Result<(), ClientError> {
        let (url, headers) = self.right_to(key, CapabilityMethod::Put).await?;
        self.transport.put_signed(&url, &headers, content).await
    }

    /// An object of the storage proxy, which takes an admin of the platform.
    pub async fn stored_object(&self, key: &str) -> Result<Download, ClientError> {
        let (url, headers) = self.right_to(key, CapabilityMethod::Get).await?;
        Ok(Download::of(self.transport.get_signed(&url, &headers).await?))
    }

    /// The address of an object, and what lets a caller use it.
    async fn right_to(
        &self,
        key: &str,
        method: CapabilityMethod,
    ) -> Result<(String, BTreeMap<String, String>), ClientError> {
        let mint =
            MintCapability { prefix: key.to_owned(), methods: vec![method], ttl_s: RIGHT_TTL_S };
        let capability: Capability =
            self.change(Method::POST, "/storage/capabilities", Some(&mint)).await?;
        let bearer = format!("Bearer {}", capability.token);
        let url = format!("{}{API_PREFIX}/storage/{key}", self.transport.base());
        Ok((url, BTreeMap::from([("authorization".to_owned(), bearer)])))
    }
}
