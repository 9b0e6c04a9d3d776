//! The secret that workers share with the controller and the storage proxy.

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// The token's hash: enough to recognise it, and of a length that says nothing about it.
#[derive(Clone)]
pub struct WorkerToken([u8; 32]);

impl WorkerToken {
    /// Remembers a token.
    #[must_use]
    pub fn new(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// Whether `presented` is the token, in a time that does not depend on either.
    #[must_use]
    pub fn is(&self, presented: &str) -> bool {
        let hash: [u8; 32] = Sha256::digest(presented).into();
        hash.ct_eq(&self.0).into()
    }
}

impl std::fmt::Debug for WorkerToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WorkerToken")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_is_recognised() {
        let token = WorkerToken::new("secret");
        assert!(token.is("secret"));
        for other in ["", "secre", "secret ", "Secret"] {
            assert!(!token.is(other));
        }
        assert_eq!(format!("{token:?}"), "WorkerToken");
    }
}
