//! Texts that only holders of the capability secret can read, such as passwords in a database.

use pasetors::{
    Local, keys::SymmetricKey, token::UntrustedToken, version4::LocalToken, version4::V4,
};

use crate::SigningSecret;

impl SigningSecret {
    /// Seals a text for one purpose, such as `registry_auth of img_…`. `None` if the machine gives
    /// no random numbers.
    #[must_use]
    pub fn seal(&self, purpose: &str, text: &str) -> Option<String> {
        let key = self.current.capabilities.as_ref()?;
        // The purpose is what keeps a sealed text from being taken for a capability token.
        LocalToken::encrypt(key, text.as_bytes(), None, Some(purpose.as_bytes())).ok()
    }

    /// The text that was sealed for that purpose, with this secret or the one before it.
    #[must_use]
    pub fn unseal(&self, purpose: &str, sealed: &str) -> Option<String> {
        let sealed = UntrustedToken::<Local, V4>::try_from(sealed).ok()?;
        let purpose = Some(purpose.as_bytes());
        let open = |key: &SymmetricKey<V4>| LocalToken::decrypt(key, &sealed, None, purpose).ok();
        let mut keys = self.accepted().filter_map(|keys| keys.capabilities.as_ref());
        keys.find_map(open).map(|opened| opened.payload().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Method;
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn a_sealed_text_is_for_its_purpose_and_outlives_one_change_of_the_secret() {
        let secret = SigningSecret::new("first");
        let sealed = secret.seal("purpose", "password").unwrap();
        assert!(!sealed.contains("password"));
        assert_eq!(secret.unseal("purpose", &sealed).as_deref(), Some("password"));
        assert_eq!(secret.unseal("another", &sealed), None);
        let next = SigningSecret::new("second").accepting("first");
        assert_eq!(next.unseal("purpose", &sealed).as_deref(), Some("password"));
        assert_eq!(SigningSecret::new("second").unseal("purpose", &sealed), None);
        for damaged in ["", "x", &sealed[..sealed.len() - 1]] {
            assert_eq!(secret.unseal("purpose", damaged), None);
        }
    }

    #[test]
    fn a_sealed_text_is_no_capability() {
        let secret = SigningSecret::new("secret");
        let claims = r#"{"prefix":"images","methods":["GET"],"expires":99999999999}"#;
        let sealed = secret.seal("purpose", claims).unwrap();
        let now = Timestamp::UNIX_EPOCH;
        assert!(secret.check_capability(&sealed, &Method::GET, "images/x", now).is_err());
    }
}
