//! The data directory: its lock, and the admin key's file in it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rustix::rand::{GetRandomFlags, getrandom};
use sha2::{Digest as _, Sha256};

use crate::store::{DatabaseUrl, Store, StoreError};

/// What every API key starts with.
pub(crate) const KEY_PREFIX: &str = "sgk_";

/// Of 64 hexadecimal digits.
const SHOWN_CHARS: usize = 6;

/// A secret in a file that is shorter than this was cut off.
const MIN_SECRET_CHARS: usize = 32;

/// A child that was just being forked when an earlier process was killed has that one's lock until it
/// becomes another program.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
const LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// The data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("cannot use the data directory's {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "another process uses the data directory {}; end it, or choose another --data-dir",
        path.display()
    )]
    InUse { path: PathBuf },
    #[error("the system gave no random bytes for a secret")]
    Random(#[source] io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A data directory that this process alone uses, until this is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes the directory if it is missing, readable by its owner alone, and locks it. Blocks for a
    /// while if another process has it.
    pub fn lock(path: &Path) -> Result<Self, DataDirError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| DataDirError::Io { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed(path))?;
        let lock_path = path.join("controller.lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(failed(&lock_path))?;
        let began = Instant::now();
        let locked = loop {
            match lock.try_lock() {
                Err(TryLockError::WouldBlock) if began.elapsed() < LOCK_PATIENCE => {
                    thread::sleep(LOCK_INTERVAL);
                }
                locked => break locked,
            }
        };
        match locked {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(DataDirError::InUse { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(DataDirError::Io { path: lock_path, source }),
        }
    }

    /// Where the database is unless the operator says otherwise.
    #[must_use]
    pub fn database(&self) -> DatabaseUrl {
        DatabaseUrl::Sqlite(self.path.join("scaibunker.db"))
    }

    /// Where the objects are.
    #[must_use]
    pub fn objects(&self) -> PathBuf {
        self.path.join("objects")
    }

    /// Where images are scanned, one after the other.
    #[must_use]
    pub fn scans(&self) -> PathBuf {
        self.path.join("scan")
    }

    /// The secret that signs URLs, when the operator gives none.
    pub fn capability_secret(&self) -> Result<String, DataDirError> {
        kept_secret(&self.path.join("capability.secret"))
    }

    /// Makes sure that the key file holds a key which the database accepts. A key that is lost or
    /// does not match is replaced, and the old one is worth nothing from then on; but not if
    /// `is_shared`: then the key of the controller that came first stays the one there is.
    pub async fn ensure_admin_key(
        &self,
        store: &Store,
        is_shared: bool,
    ) -> Result<(), DataDirError> {
        if is_shared && store.has_bootstrap_key().await? {
            return Ok(());
        }
        let path = self.path.join("admin.key");
        let failed = |source| DataDirError::Io { path: path.clone(), source };
        match fs::read_to_string(&path) {
            Ok(key) => {
                if is_accepted(store, key.trim()).await? {
                    return fs::set_permissions(&path, Permissions::from_mode(0o600))
                        .map_err(failed);
                }
                tracing::warn!(path = %path.display(), "the admin key is not known; issuing a new one");
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let key = new_api_key()?;
        let now = Timestamp::now();
        store.replace_bootstrap_key(&hash_of(&key), prefix_of(&key), now).await?;
        write_privately(&path, &key).map_err(failed)
    }
}

async fn is_accepted(store: &Store, key: &str) -> Result<bool, StoreError> {
    let Some(key) = store.api_key_by_hash(&hash_of(key)).await? else { return Ok(false) };
    let is_live = key.revoked_at.is_none() && key.expires_at.is_none();
    Ok(is_live && store.user(key.user_id).await?.is_some())
}

/// A key of 256 random bits.
pub(crate) fn new_api_key() -> Result<String, DataDirError> {
    Ok(format!("{KEY_PREFIX}{}", random_hex()?))
}

/// What a key can be told apart by, and not be guessed from.
#[must_use]
pub(crate) fn prefix_of(key: &str) -> &str {
    key.get(..KEY_PREFIX.len() + SHOWN_CHARS).unwrap_or_default()
}

/// The secret in `path`; one is made if there is none.
fn kept_secret(path: &Path) -> Result<String, DataDirError> {
    let failed = |source| DataDirError::Io { path: path.to_owned(), source };
    match fs::read_to_string(path) {
        Ok(secret) if secret.trim().len() >= MIN_SECRET_CHARS => Ok(secret.trim().to_owned()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(error)),
        // None yet, or a damaged one: no more than the URLs that it signed are lost with it.
        Ok(_) | Err(_) => {
            let secret = random_hex()?;
            write_privately(path, &secret).map_err(failed)?;
            Ok(secret)
        }
    }
}

/// What is stored of an API key.
#[must_use]
pub fn hash_of(key: &str) -> String {
    crate::hex(&Sha256::digest(key))
}

fn random_hex() -> Result<String, DataDirError> {
    let mut bits = [0u8; 32];
    // Reads of up to 256 bytes are never short.
    getrandom(&mut bits, GetRandomFlags::empty()).map_err(|e| DataDirError::Random(e.into()))?;
    Ok(crate::hex(&bits))
}

/// The file is complete and private from the moment it has its name.
fn write_privately(path: &Path, key: &str) -> io::Result<()> {
    let draft = path.with_extension("new");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&draft)?;
    writeln!(file, "{key}")?;
    file.sync_all()?;
    fs::rename(&draft, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn opened(path: &Path) -> (DataDir, Store) {
        let dir = DataDir::lock(path).unwrap();
        let store = Store::open(&dir.database()).await.unwrap();
        (dir, store)
    }

    #[tokio::test]
    async fn the_key_is_private_and_stays_until_it_is_lost() {
        let temp = tempfile::tempdir().unwrap();
        let (dir, store) = opened(temp.path()).await;
        let file = temp.path().join("admin.key");
        dir.ensure_admin_key(&store, false).await.unwrap();
        let first = fs::read_to_string(&file).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(first.starts_with(KEY_PREFIX) && first.trim().len() == 4 + 64);

        dir.ensure_admin_key(&store, false).await.unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), first);

        for damage in [|file: &Path| fs::remove_file(file), |file: &Path| fs::write(file, "sgk_x")]
        {
            let before = fs::read_to_string(&file).unwrap();
            damage(&file).unwrap();
            dir.ensure_admin_key(&store, false).await.unwrap();
            let after = fs::read_to_string(&file).unwrap();
            assert!(!is_accepted(&store, before.trim()).await.unwrap());
            assert!(is_accepted(&store, after.trim()).await.unwrap());
        }
    }

    #[tokio::test]
    async fn only_the_hash_is_in_the_database() {
        let temp = tempfile::tempdir().unwrap();
        let (dir, store) = opened(temp.path()).await;
        dir.ensure_admin_key(&store, false).await.unwrap();
        store.close().await;
        let key = fs::read_to_string(temp.path().join("admin.key")).unwrap();
        let database = fs::read(dir.path.join("scaibunker.db")).unwrap();
        let secret = key.trim().trim_start_matches(KEY_PREFIX).as_bytes();
        assert!(!database.windows(secret.len()).any(|window| window == secret));
    }

    #[test]
    fn the_secret_that_signs_is_private_and_stays() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::lock(temp.path()).unwrap();
        let file = temp.path().join("capability.secret");
        let first = dir.capability_secret().unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(dir.capability_secret().unwrap(), first);
        fs::write(&file, "cut off").unwrap();
        let second = dir.capability_secret().unwrap();
        assert!(second != first && second.len() == 64);
    }

    #[test]
    fn one_process_at_a_time() {
        let temp = tempfile::tempdir().unwrap();
        let held = DataDir::lock(temp.path()).unwrap();
        let error = DataDir::lock(temp.path()).unwrap_err();
        assert!(matches!(error, DataDirError::InUse { .. }));
        drop(held);
        DataDir::lock(temp.path()).unwrap();
    }
}
