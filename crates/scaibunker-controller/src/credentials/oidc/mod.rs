//! Tokens of an OpenID Connect issuer: its keys are fetched, and kept while it is down.

mod fetch;
mod keys;
mod signature;
mod verify;

use std::{path::PathBuf, sync::Arc};

use scaibunker_api::ids::TenantId;
use url::Url;

pub use self::verify::Claims;
use self::{
    fetch::{Fetcher, is_allowed},
    keys::Keys,
    verify::{Expected, InvalidToken, header_of},
};
use crate::failure::Failure;
use scaibunker_api::error::{ErrorBody, ErrorCode};

/// An issuer whose tokens are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OidcConfig {
    /// `iss` of its tokens, word for word; `/.well-known/openid-configuration` is below it. `https`,
    /// unless its host is this machine.
    pub issuer_url: String,
    /// What `aud` of its tokens must name.
    pub audience: String,
    /// Where a user is made for a subject that no user has. `None`: such tokens are refused.
    pub auto_provision_tenant: Option<TenantId>,
    /// PEM file of certificate authorities to trust instead of the host's.
    pub ca_file: Option<PathBuf>,
}

/// The configured issuer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    #[error("the OIDC issuer {0:?} is not an `https://` URL without query and fragment")]
    Issuer(String),
    #[error("the OIDC audience is empty: tokens made for any other service would be accepted")]
    NoAudience,
    #[error("cannot read certificates of the OIDC issuer from {}", path.display())]
    CaFile { path: PathBuf, source: rustls::pki_types::pem::Error },
    #[error("cannot trust the certificates in {}", path.display())]
    Certificate { path: PathBuf, source: rustls::Error },
    #[error("cannot set TLS to the OIDC issuer up")]
    Tls(#[source] rustls::Error),
    #[error("cannot load the host's root certificates")]
    Roots(#[source] std::io::Error),
}

/// The issuer.
pub(super) struct Oidc {
    expected: Expected,
    auto_provision_tenant: Option<TenantId>,
    keys: Arc<Keys>,
}

impl Oidc {
    pub(super) fn new(config: OidcConfig) -> Result<Self, OidcError> {
        let OidcConfig { issuer_url, audience, auto_provision_tenant, ca_file } = config;
        if audience.is_empty() {
            return Err(OidcError::NoAudience);
        }
        let issuer: Url = issuer_url.parse().map_err(|_| OidcError::Issuer(issuer_url.clone()))?;
        let has_more = issuer.query().is_some() || issuer.fragment().is_some();
        if !is_allowed(&issuer) || has_more {
            return Err(OidcError::Issuer(issuer_url));
        }
        signature::install();
        let fetcher = Fetcher::new(ca_file)?;
        let keys = Arc::new(Keys::new(fetcher, issuer_url.clone()));
        let expected = Expected { issuer: issuer_url, audience };
        Ok(Self { expected, auto_provision_tenant, keys })
    }

    pub(super) fn auto_provision_tenant(&self) -> Option<TenantId> {
        self.auto_provision_tenant
    }

    /// What a token says, once it is known to be the issuer's and made for this service.
    pub(super) async fn claims(&self, token: &str) -> Result<Claims, Failure> {
        let header = header_of(token).map_err(refused)?;
        let key = match self.keys.find(header.kid.as_deref(), header.alg).await {
            Ok(Some(key)) => key,
            Ok(None) => return Err(refused(InvalidToken::UnknownKey)),
            Err(error) => {
                tracing::warn!(error = crate::failure::chain(&error), "no keys of the issuer");
                let message = "the token issuer does not answer, so its tokens cannot be checked";
                let error = ErrorBody::new(ErrorCode::NotReady, message);
                return Err(ErrorBody { retry_after: Some(10), ..error }.into());
            }
        };
        self.expected.verify(token, header.alg, &key).map_err(refused)
    }
}

fn refused(error: InvalidToken) -> Failure {
    ErrorBody::new(ErrorCode::Unauthorized, error.to_string()).into()
}
