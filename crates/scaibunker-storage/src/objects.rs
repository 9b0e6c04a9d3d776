//! The object store: what the other parts of the product do with objects.

use std::{
    collections::BTreeMap,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{body::Body, http::Method};
use futures_util::{StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use object_store::{
    ObjectStore, ObjectStoreExt as _, aws::AmazonS3, path::Path, signer::Signer as _,
};
use scaibunker_api::storage::{Capability, CapabilityMethod};

use crate::{
    MintError, ObjectBody, OpenError, S3Config, SigningSecret, StorageError, directory, key,
    read::{self, Conditions, Found},
    s3,
    upload::{self, UploadError},
};

/// What a request holds of an upload is two parts. S3 has at most 10,000 parts an object, so one
/// of up to 58 GiB fits.
const S3_PART_BYTES: usize = 6 * 1024 * 1024;
const DIRECTORY_PART_BYTES: usize = 1024 * 1024;

/// The longest that SigV4 allows.
const MAX_SIGNED_LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// An object store. Cheap to clone; all clones are the same store.
#[derive(Debug, Clone)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    adapter: Adapter,
    secret: Option<SigningSecret>,
}

#[derive(Debug, Clone)]
enum Adapter {
    Directory { root: PathBuf },
    S3(AmazonS3),
}

/// How a client without a credential may store one object: a PUT of its bytes to `url`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresignedPut {
    /// A credential for as long as it is valid: not to be logged.
    pub url: String,
    /// To be sent as they are.
    pub headers: BTreeMap<String, String>,
    pub expires_at: Timestamp,
}

impl Objects {
    /// Objects in a directory, which is made if it is missing. Its signed URLs lead to the
    /// [`router`](crate::router), which recognises them by `secret`. Without a secret nothing is
    /// signed or recognised.
    pub fn directory(
        path: &FilePath,
        secret: impl Into<Option<SigningSecret>>,
    ) -> Result<Self, OpenError> {
        let store = Arc::new(directory::open(path)?);
        let adapter = Adapter::Directory { root: path.to_owned() };
        Ok(Self { store, adapter, secret: secret.into() })
    }

    /// Objects in a bucket of an S3 server, which has to exist; nothing is sent yet. Its signed
    /// URLs lead to that server; `secret` is for capability tokens alone.
    pub fn s3(
        config: S3Config,
        secret: impl Into<Option<SigningSecret>>,
    ) -> Result<Self, OpenError> {
        let s3 = s3::open(config)?;
        let adapter = Adapter::S3(s3.clone());
        Ok(Self { store: Arc::new(s3), adapter, secret: secret.into() })
    }

    /// A token with which whoever holds it may use `methods` on the objects below `prefix`, for
    /// `ttl_s` seconds (1 to 604,800). GET includes HEAD.
    pub fn mint_capability(
        &self,
        prefix: &str,
        methods: &[CapabilityMethod],
        ttl_s: u64,
    ) -> Result<Capability, MintError> {
        let secret = self.secret.as_ref().ok_or(MintError::NoSecret)?;
        secret.mint(prefix, methods, ttl_s, Timestamp::now())
    }

    /// Allows whoever knows the answer to store one object under `key` for `ttl` (1 second to 7
    /// days). `base_url` is the address below which the [`router`](crate::router) is.
    ///
    /// A directory refuses more than `max_bytes`; S3 cannot sign such a bound, so with S3 the
    /// size has to be looked at afterwards.
    pub async fn presign_put(
        &self,
        key: &str,
        ttl: Duration,
        max_bytes: Option<u64>,
        base_url: &str,
    ) -> Result<PresignedPut, StorageError> {
        let place = place_of(key)?;
        let ttl = Duration::from_secs(ttl.as_secs());
        if ttl.is_zero() || ttl > MAX_SIGNED_LIFETIME {
            return Err(StorageError::Lifetime);
        }
        let now = Timestamp::now().as_second();
        let expires_at = i64::try_from(ttl.as_secs())
            .ok()
            .and_then(|ttl| Timestamp::from_second(now.checked_add(ttl)?).ok())
            .ok_or(StorageError::Lifetime)?;
        let url = match &self.adapter {
            Adapter::Directory { .. } => {
                let secret = self.secret.as_ref().ok_or(StorageError::NoSecret)?;
                let query = secret.sign("PUT", key, expires_at.as_second(), max_bytes);
                format!("{}/storage/{key}?{query}", base_url.trim_end_matches('/'))
            }
            Adapter::S3(s3) => {
                let signed = s3.signed_url(Method::PUT, &place, ttl).await;
                signed.map_err(|e| StorageError::new("sign a URL for", key, e))?.into()
            }
        };
        Ok(PresignedPut { url, headers: BTreeMap::new(), expires_at })
    }

    /// The size of an object in bytes; `None` if there is none. An output that is stored in
    /// segments is as large as those stored so far.
    pub async fn head(&self, key: &str) -> Result<Option<u64>, StorageError> {
        Ok(self.find(key).await?.map(|found| found.size()))
    }

    /// Removes an object, its segments included. One that is not there is no error.
    pub async fn delete(&self, key: &str) -> Result<(), StorageError> {
        let place = place_of(key)?;
        let fail = |source| StorageError::new("delete", key, source);
        let mut was_in_segments = false;
        if key::may_have_segments(key) {
            let segments = self.store.list(Some(&place)).map_ok(|meta| meta.location).boxed();
            let mut deleted = self.store.delete_stream(segments);
            while let Some(segment) = deleted.next().await {
                was_in_segments = true;
                absent_is_fine(segment.map(drop)).map_err(fail)?;
            }
        }
        if was_in_segments {
            return Ok(());
        }
        absent_is_fine(self.store.delete(&place).await).map_err(fail)
    }

    /// Opens an object for reading; `None` if there is none. `range` is the value of a `Range`
    /// header: one range of bytes gets a part (206), or 416 when it starts behind the end; any
    /// other is ignored. An output that is stored in segments is read as if it were one object,
    /// up to the last segment that is there when the reading begins.
    pub async fn read(
        &self,
        key: &str,
        range: Option<&str>,
    ) -> Result<Option<ObjectBody>, StorageError> {
        self.read_if(key, Conditions { range, ..Conditions::default() }).await
    }

    /// The names of the objects right below a prefix of keys, such as `audit/{bunker}`, in no order.
    pub async fn names_below(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let place = place_of(prefix)?;
        let listed = self.store.list_with_delimiter(Some(&place)).await;
        let listed = listed.map_err(|source| StorageError::new("list", prefix, source))?;
        let names = listed
            .objects
            .into_iter()
            .filter_map(|object| object.location.filename().map(str::to_owned));
        Ok(names.collect())
    }

    /// Removes the objects below `files/` that were stored longer than `age` ago, and, in a directory,
    /// what uploads of any kind that a crash cut off that long ago have left. Returns how many were removed; one
    /// that could not be is logged, and is tried again by the next call.
    pub async fn remove_uploads_older_than(&self, age: Duration) -> Result<u64, StorageError> {
        let fail = |source| StorageError::new("clean up", "files", source);
        let before = SystemTime::now().checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut removed = 0;
        let mut uploads = self.store.list(Some(&key::files()));
        while let Some(upload) = uploads.try_next().await.map_err(fail)? {
            if SystemTime::from(upload.last_modified) >= before {
                continue;
            }
            match absent_is_fine(self.store.delete(&upload.location).await) {
                Ok(()) => removed += 1,
                Err(error) => {
                    tracing::warn!(place = %upload.location, %error, "cannot remove an old upload");
                }
            }
        }
        if let Adapter::Directory { root } = &self.adapter {
            let dir = root.join(key::root().as_ref());
            let cut_off = tokio::task::spawn_blocking(move || {
                directory::remove_cut_off_uploads(&dir, before)
            });
            let failed = |source| fail(object_store::Error::Generic { store: "directory", source });
            removed += cut_off
                .await
                .map_err(|error| failed(error.into()))?
                .map_err(|error| failed(error.into()))?;
        }
        Ok(removed)
    }

    pub(crate) async fn find(&self, key: &str) -> Result<Option<Found>, StorageError> {
        let place = place_of(key)?;
        let found = read::find(self.store.as_ref(), key, &place).await;
        found.map_err(|source| StorageError::new("look up", key, source))
    }

    pub(crate) async fn read_if(
        &self,
        key: &str,
        conditions: Conditions<'_>,
    ) -> Result<Option<ObjectBody>, StorageError> {
        let place = place_of(key)?;
        let answer = read::read(&self.store, key, &place, conditions).await;
        answer.map_err(|source| StorageError::new("read", key, source))
    }

    /// Stores a body of at most `max_bytes` and returns its size.
    pub(crate) async fn write(
        &self,
        key: &str,
        body: Body,
        max_bytes: Option<u64>,
    ) -> Result<u64, UploadError> {
        let place = place_of(key).map_err(UploadError::Storage)?;
        let part_bytes = match &self.adapter {
            Adapter::Directory { .. } => DIRECTORY_PART_BYTES,
            Adapter::S3(_) => S3_PART_BYTES,
        };
        upload::store(&self.store, key, &place, part_bytes, body, max_bytes).await
    }

    /// What recognises the proxy's signed URLs and capability tokens.
    pub(crate) fn secret(&self) -> Option<&SigningSecret> {
        self.secret.as_ref()
    }

    /// Whether the store's signed URLs lead to the proxy.
    pub(crate) fn signs_own_urls(&self) -> bool {
        matches!(self.adapter, Adapter::Directory { .. })
    }
}

fn place_of(key: &str) -> Result<Path, StorageError> {
    key::parse(key).ok_or_else(|| StorageError::Key(key.to_owned()))
}

fn absent_is_fine(deleted: object_store::Result<()>) -> object_store::Result<()> {
    match deleted {
        Err(object_store::Error::NotFound { .. }) => Ok(()),
        deleted => deleted,
    }
}
