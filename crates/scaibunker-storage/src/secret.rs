//! The secret that the controller and its storage proxies share: it signs URLs and seals
//! capability tokens.

use std::fmt;

use hmac::{Hmac, Mac};
use pasetors::{keys::SymmetricKey, version4::V4};
use sha2::{Digest as _, Sha256};

/// Keeps the key of capability tokens apart from whatever else the secret is used for.
const CAPABILITY_DOMAIN: &[u8] = b"scaibunker storage capability v1";

/// What signs and recognises the proxy's URLs and capability tokens, and perhaps the secret that
/// did so before. Only keys derived from the secrets are kept.
#[derive(Clone)]
pub struct SigningSecret {
    pub(crate) current: Keys,
    previous: Option<Keys>,
}

/// What one secret is used for, a key for each.
#[derive(Clone)]
pub(crate) struct Keys {
    pub(crate) urls: Hmac<Sha256>,
    /// `None` for no secret that there can be: the key is of the right length.
    pub(crate) capabilities: Option<SymmetricKey<V4>>,
}

impl SigningSecret {
    /// Takes a secret of any length; it should have at least 128 random bits.
    #[must_use]
    pub fn new(secret: &str) -> Self {
        Self { current: Keys::of(secret), previous: None }
    }

    /// Accepts what `secret` has signed as well, so that a new secret ends nothing which was given
    /// out under the old one. Nothing is signed with it.
    #[must_use]
    pub fn accepting(self, secret: &str) -> Self {
        Self { previous: Some(Keys::of(secret)), ..self }
    }

    /// The keys by which something may have been signed.
    pub(crate) fn accepted(&self) -> impl Iterator<Item = &Keys> {
        [Some(&self.current), self.previous.as_ref()].into_iter().flatten()
    }
}

impl Keys {
    fn of(secret: &str) -> Self {
        let digest = Sha256::digest(secret);
        let mut block = hmac::digest::Key::<Hmac<Sha256>>::default();
        block[..digest.len()].copy_from_slice(&digest);
        let urls = <Hmac<Sha256> as Mac>::new(&block);
        let capabilities = urls.clone().chain_update(CAPABILITY_DOMAIN).finalize().into_bytes();
        Self { urls, capabilities: SymmetricKey::from(&capabilities).ok() }
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret")
    }
}
