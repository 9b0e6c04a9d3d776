//! Objects in a bucket of an S3 server.

use std::{fmt, time::Duration};

use axum::http::Uri;
use object_store::{
    RetryConfig,
    aws::{AmazonS3, AmazonS3Builder, Checksum},
};

use crate::{OpenError, s3_transport::Transport};

/// How often a request that failed in passing is tried again, each time after a longer pause.
const MAX_RETRIES: usize = 5;

/// Where a bucket is, and who may use it.
///
/// Uploads that a crash of this process cuts off leave parts in the bucket: give it a lifecycle
/// rule that ends incomplete multipart uploads after a day.
#[derive(Clone)]
pub struct S3Config {
    /// `http(s)://host[:port]`; AWS's address for the region when absent.
    pub endpoint: Option<String>,
    pub region: String,
    pub bucket: String,
    pub access_key_id: String,
    pub secret_access_key: String,
    /// Whether the endpoint may be reached without TLS.
    pub allow_http: bool,
    /// `{endpoint}/{bucket}/…` instead of `{bucket}.{endpoint}/…`.
    pub path_style: bool,
    pub patience: S3Patience,
}

/// How long the server may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct S3Patience {
    /// From the request to the head of its answer, with the sending of one part in between.
    pub answer: Duration,
    /// Between two pieces of an answer's body that somebody waits for.
    pub piece: Duration,
    /// From the first try of a request to the last.
    pub retries: Duration,
}

impl Default for S3Patience {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(120),
            piece: Duration::from_secs(60),
            retries: Duration::from_secs(60),
        }
    }
}

impl fmt::Debug for S3Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Config")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("bucket", &self.bucket)
            .field("access_key_id", &"…")
            .field("secret_access_key", &"…")
            .field("allow_http", &self.allow_http)
            .field("path_style", &self.path_style)
            .field("patience", &self.patience)
            .finish()
    }
}

/// Prepares the use of a bucket; nothing is sent yet.
pub(crate) fn open(config: S3Config) -> Result<AmazonS3, OpenError> {
    let mut builder = AmazonS3Builder::new()
        .with_region(config.region)
        .with_bucket_name(&config.bucket)
        .with_access_key_id(config.access_key_id)
        .with_secret_access_key(config.secret_access_key)
        .with_allow_http(config.allow_http)
        .with_virtual_hosted_style_request(!config.path_style)
        .with_disable_bulk_delete(true)
        // The server checks each part and the whole, and keeps the sum with the object. It is the one
        // that signs the request, so it costs nothing.
        .with_checksum_algorithm(Checksum::SHA256)
        .with_retry(RetryConfig {
            max_retries: MAX_RETRIES,
            retry_timeout: config.patience.retries,
            ..RetryConfig::default()
        });
    let mut tls = true;
    if let Some(endpoint) = config.endpoint {
        let bucket = (!config.path_style).then_some(config.bucket.as_str());
        let address = address(&endpoint, bucket, config.allow_http);
        let address = address.ok_or(OpenError::Endpoint { endpoint })?;
        tls = address.starts_with("https:");
        builder = builder.with_endpoint(address);
    }
    let built = builder.with_http_connector(Transport { tls, patience: config.patience }).build();
    built.map_err(|source| OpenError::S3 { bucket: config.bucket, source })
}

/// The endpoint, below which the keys of a bucket are when the bucket's name is part of the host.
fn address(endpoint: &str, bucket_of_host: Option<&str>, allow_http: bool) -> Option<String> {
    let uri: Uri = endpoint.parse().ok()?;
    let scheme = uri.scheme_str().filter(|scheme| *scheme == "https" || allow_http)?;
    let is_plain = uri.path() == "/" && uri.query().is_none();
    let authority = uri.authority().filter(|host| is_plain && !host.as_str().contains('@'))?;
    Some(match bucket_of_host {
        Some(bucket) => format!("{scheme}://{bucket}.{authority}"),
        None => format!("{scheme}://{authority}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_scheme_and_host_and_gets_the_bucket_where_that_is_wanted() {
        let plain = |endpoint| address(endpoint, None, true);
        assert_eq!(plain("http://s3:3900/").as_deref(), Some("http://s3:3900"));
        assert_eq!(plain("https://s3.test").as_deref(), Some("https://s3.test"));
        let hosted = address("https://s3.test:1", Some("objects"), false);
        assert_eq!(hosted.as_deref(), Some("https://objects.s3.test:1"));
        assert_eq!(address("http://s3.test", None, false), None, "TLS was asked for");
        for wrong in ["", "s3.test", "https://s3.test/path", "https://a:b@s3.test", "https://x?y"] {
            assert_eq!(plain(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_configuration_keeps_its_secrets() {
        let config = S3Config {
            endpoint: None,
            region: "garage".into(),
            bucket: "objects".into(),
            access_key_id: "the-id".into(),
            secret_access_key: "the-secret".into(),
            allow_http: false,
            path_style: true,
            patience: S3Patience::default(),
        };
        let shown = format!("{config:?} {:?}", open(config.clone()).unwrap());
        assert!(shown.contains("garage") && !shown.contains("the-secret"), "{shown}");
    }
}
