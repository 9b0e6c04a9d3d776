//! Registries: from a reference to an image whose layers are in the cache.

use std::{
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::{Response, StatusCode, Uri};
use hyper::body::Incoming;
use scaibunker_api::image::RegistryAuth;
use sha2::{Digest as _, Sha256};

use super::{
    Layer, LayerCache, OciError, Progress, PulledImage,
    auth::Credential,
    config,
    download::{self, Source},
    manifest::{
        self, ACCEPT, Blob, Document, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, Manifest,
        for_this_platform,
    },
    reference::{Reference, Version},
    transport::{Get, Transport, whole},
};

/// Layers of one image that are fetched at once.
const PARALLEL_LAYERS: usize = 3;

/// A credential may run out, and the next one be refused for another reason.
const ATTEMPTS: usize = 3;

/// How registries are reached.
#[derive(Debug, Clone, Default)]
pub struct RegistrySettings {
    /// Hosts (`host` or `host:port`) that are spoken to without TLS. Loopback ones always are.
    pub insecure: Vec<String>,
    /// Certificates in PEM that are believed beside the machine's own.
    pub ca_file: Option<PathBuf>,
    /// Whether a reference may lead to this machine itself. Where tenants do not trust each other
    /// it must not.
    pub allow_loopback: bool,
}

/// The registries of the world.
#[derive(Debug)]
pub struct Registry {
    transport: Transport,
    settings: RegistrySettings,
}

/// One pull.
struct Pull<'a> {
    registry: &'a Registry,
    reference: &'a Reference,
    credential: Credential<'a>,
}

impl Registry {
    /// Prepares requests; nothing is sent yet.
    pub fn new(settings: RegistrySettings) -> Result<Self, OciError> {
        let transport = Transport::new(settings.ca_file.as_deref(), settings.allow_loopback)?;
        Ok(Self { transport, settings })
    }

    /// Brings all layers of an image into the cache.
    pub async fn pull(
        &self,
        reference: &str,
        auth: Option<&RegistryAuth>,
        layers: &LayerCache,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<PulledImage, OciError> {
        let reference = Reference::parse(reference)?;
        let pull =
            Pull { registry: self, reference: &reference, credential: Credential::new(auth) };
        let (manifest, digest) = pull.manifest().await?;
        let bytes = pull.small_blob(&manifest.config).await?;
        let config = config::parse(&bytes, manifest.layers.len())?;
        let layers = pull.layers(&manifest, &config.diff_ids, layers, progress).await?;
        Ok(PulledImage { layers, config: config.root, manifest_digest: Some(digest) })
    }

    fn uri(&self, reference: &Reference, rest: &str) -> Result<Uri, OciError> {
        let Reference { registry, repository, .. } = reference;
        let listed = |host: &String| host == registry || host == reference.host();
        let plain = self.settings.insecure.iter().any(listed) || is_loopback_name(reference.host());
        let scheme = if plain { "http" } else { "https" };
        let text = format!("{scheme}://{registry}/v2/{repository}/{rest}");
        text.parse().map_err(|_| OciError::Reference {
            reference: registry.clone(),
            reason: "no URL can be made of it",
        })
    }
}

/// Whether a host of a URL is this machine by its name.
pub(super) fn is_loopback_name(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

impl Pull<'_> {
    /// The manifest for this platform, and its digest.
    async fn manifest(&self) -> Result<(Manifest, String), OciError> {
        let Reference { version, repository, .. } = self.reference;
        let (bytes, digest) = self.document(version).await?;
        let (bytes, digest) = match manifest::parse(&bytes)? {
            Document::Image(manifest) => return Ok((manifest, digest)),
            Document::Index(entries) => {
                let name = format!("{repository}:{}", version.as_str());
                let entry = for_this_platform(&entries, &name)?;
                self.document(&Version::Digest(entry.digest.clone())).await?
            }
        };
        match manifest::parse(&bytes)? {
            Document::Image(manifest) => Ok((manifest, digest)),
            Document::Index(_) => {
                Err(OciError::Corrupt("its index names another index".to_owned()))
            }
        }
    }

    async fn document(&self, version: &Version) -> Result<(Bytes, String), OciError> {
        let path = format!("manifests/{}", version.as_str());
        let answer = self.get(&path, Some(ACCEPT), None).await?;
        let bytes = whole(answer, MAX_MANIFEST_BYTES, &self.reference.registry).await?;
        let found = digest_of(&bytes);
        match version {
            Version::Digest(expected) if *expected != found => {
                Err(OciError::Digest { what: "the manifest", expected: expected.clone(), found })
            }
            _ => Ok((bytes, found)),
        }
    }

    async fn small_blob(&self, blob: &Blob) -> Result<Bytes, OciError> {
        let answer = self.get(&format!("blobs/{}", blob.digest), None, None).await?;
        let bytes = whole(answer, MAX_CONFIG_BYTES, &self.reference.registry).await?;
        let found = digest_of(&bytes);
        if found != blob.digest {
            let expected = blob.digest.clone();
            return Err(OciError::Digest { what: "the configuration", expected, found });
        }
        Ok(bytes)
    }

    async fn layers(
        &self,
        manifest: &Manifest,
        diff_ids: &[String],
        cache: &LayerCache,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Vec<Layer>, OciError> {
        let total_bytes = manifest.layers.iter().map(|layer| layer.blob.size_bytes).sum();
        let done = Mutex::new(vec![0; manifest.layers.len()]);
        let told = AtomicU64::new(u64::MAX);
        let note = |number: usize, bytes: u64| {
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            done[number] = bytes;
            let done_bytes = done.iter().sum();
            if told.swap(done_bytes, Ordering::Relaxed) != done_bytes {
                progress(Progress { done_bytes, total_bytes });
            }
        };
        let mut fetched = Vec::new();
        for (number, layer) in manifest.layers.iter().enumerate() {
            let (note, diff_id) = (&note, diff_ids.get(number).cloned());
            fetched.push(async move {
                let progress = move |bytes| note(number, bytes);
                let lease = download::into_cache(cache, &layer.blob, self, &progress).await?;
                let path = lease.path().to_owned();
                Ok(Layer { path, compression: layer.compression, diff_id, _lease: lease })
            });
        }
        stream::iter(fetched).buffered(PARALLEL_LAYERS).try_collect().await
    }

    /// A successful answer; a 401 is answered with credentials.
    async fn get(
        &self,
        path: &str,
        accept: Option<&'static str>,
        from: Option<u64>,
    ) -> Result<Response<Incoming>, OciError> {
        let Reference { registry, repository, .. } = self.reference;
        let transport = &self.registry.transport;
        for _ in 0..ATTEMPTS {
            let header = self.credential.header().await;
            let get = Get {
                uri: self.registry.uri(self.reference, path)?,
                accept,
                authorization: header.as_ref(),
                from,
                registry,
            };
            let answer = transport.get(get).await?;
            match answer.status() {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT => return Ok(answer),
                StatusCode::UNAUTHORIZED => {
                    let (headers, sent) = (answer.headers(), header.as_ref());
                    self.credential.renew(transport, self.reference, headers, sent).await?;
                }
                StatusCode::FORBIDDEN => {
                    let reason = format!("does not let this user pull `{repository}`");
                    return Err(OciError::Auth { registry: registry.clone(), reason });
                }
                StatusCode::NOT_FOUND => {
                    let version = path.rsplit('/').next().unwrap_or_default();
                    return Err(OciError::NotFound {
                        registry: registry.clone(),
                        name: format!("{repository}:{version}"),
                        anonymous: self.credential.is_anonymous(),
                    });
                }
                status => {
                    let reason = format!("it answered {status}");
                    return Err(OciError::Unreachable { registry: registry.clone(), reason });
                }
            }
        }
        let reason = "refuses what its own token server gave".to_owned();
        Err(OciError::Auth { registry: registry.clone(), reason })
    }
}

impl Source for Pull<'_> {
    async fn open(&self, blob: &Blob, from: u64) -> Result<Response<Incoming>, OciError> {
        self.get(&format!("blobs/{}", blob.digest), None, (from > 0).then_some(from)).await
    }

    fn name(&self) -> &str {
        &self.reference.registry
    }
}

fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", crate::assets::hexadecimal(&Sha256::digest(bytes)))
}
