//! What a tenant's snapshots are named and sealed with.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// 256 secret bits.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl Key {
    /// A key for one purpose, from a secret that is known to its owners alone.
    #[must_use]
    pub fn derive(purpose: &str, secret: &[u8]) -> Self {
        Self(blake3::derive_key(purpose, secret))
    }

    /// Tells keys apart that were derived for nothing else.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        STANDARD.encode(&self.0[..12])
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| de::Error::custom("a key has 32 bytes as base64"))
    }
}

/// The keys of one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotKeys {
    /// Names of chunks are hashes under it.
    pub naming: Key,
    /// What is stored is encrypted with it, where there is one.
    pub sealing: Option<Key>,
}

impl SnapshotKeys {
    /// Seals bytes in place, for the object of that name and the place in it: neither is used for
    /// other bytes, so that no key sees a nonce twice.
    pub(crate) fn seal(&self, object: &str, place: u64, bytes: &mut Vec<u8>) {
        let Some(key) = self.sealing_key(object) else { return };
        let sealed = key.seal_in_place_append_tag(nonce(place), Aad::empty(), bytes);
        // It refuses inputs of 64 GiB and more; a piece is some KiB.
        debug_assert!(sealed.is_ok());
    }

    /// What was sealed; `None` if it was changed since, or sealed for another place.
    pub(crate) fn open(&self, object: &str, place: u64, mut bytes: Vec<u8>) -> Option<Vec<u8>> {
        let Some(key) = self.sealing_key(object) else { return Some(bytes) };
        let length = key.open_in_place(nonce(place), Aad::empty(), &mut bytes).ok()?.len();
        bytes.truncate(length);
        Some(bytes)
    }

    fn sealing_key(&self, object: &str) -> Option<LessSafeKey> {
        let key = blake3::keyed_hash(self.sealing.as_ref()?.bytes(), object.as_bytes());
        UnboundKey::new(&AES_256_GCM, key.as_bytes()).ok().map(LessSafeKey::new)
    }
}

fn nonce(place: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[..8].copy_from_slice(&place.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub fn keys(is_sealed: bool) -> SnapshotKeys {
        let sealing = is_sealed.then(|| Key::derive("test sealing", b"secret"));
        SnapshotKeys { naming: Key::derive("test naming", b"secret"), sealing }
    }

    #[test]
    fn what_is_sealed_is_opened_in_its_place_alone() {
        let keys = keys(true);
        let mut sealed = b"text".to_vec();
        keys.seal("object", 7, &mut sealed);
        assert!(!sealed.starts_with(b"text"));
        assert_eq!(keys.open("object", 7, sealed.clone()).unwrap(), b"text");
        assert_eq!(keys.open("object", 8, sealed.clone()), None);
        assert_eq!(keys.open("another", 7, sealed.clone()), None);
        for byte in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[byte] ^= 1;
            assert_eq!(keys.open("object", 7, damaged), None);
        }
    }

    #[test]
    fn a_key_travels_and_is_not_shown() {
        let key = Key::derive("purpose", b"secret");
        let text = serde_json::to_string(&key).unwrap();
        assert_eq!(serde_json::from_str::<Key>(&text).unwrap(), key);
        assert_eq!(format!("{key:?}"), "Key");
        assert!(serde_json::from_str::<Key>("\"AAAA\"").is_err());
    }
}
