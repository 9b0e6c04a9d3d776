//! TLS of the listening side.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::failure::chain;

/// Files that were renewed are taken up after at most this long.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// A certificate with what leads to its authority, and its private key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// TLS cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {path}")]
    Metadata { path: PathBuf, source: io::Error },
    #[error("cannot read a certificate from {path}")]
    Certificate { path: PathBuf, source: pem::Error },
    #[error("{path} has no certificate")]
    NoCertificate { path: PathBuf },
    #[error("cannot read a private key from {path}")]
    Key { path: PathBuf, source: pem::Error },
    #[error("the certificate of {path} and its key cannot be used")]
    Unusable { path: PathBuf, source: rustls::Error },
}

impl TlsFiles {
    /// What makes connections TLS. Files that are renewed later count for new connections.
    pub fn acceptor(self) -> Result<TlsAcceptor, TlsError> {
        let path = self.certificate.clone();
        let unusable = |source| TlsError::Unusable { path, source };
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Renewed::read(self)?));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// When the files were written last.
    fn written(&self) -> Result<[SystemTime; 2], TlsError> {
        let at = |path: &Path| {
            let written = fs::metadata(path).and_then(|metadata| metadata.modified());
            written.map_err(|source| TlsError::Metadata { path: path.to_owned(), source })
        };
        Ok([at(&self.certificate)?, at(&self.key)?])
    }

    fn read(&self) -> Result<Arc<CertifiedKey>, TlsError> {
        let path = || self.certificate.clone();
        let chain: Vec<_> = CertificateDer::pem_file_iter(&self.certificate)
            .and_then(Iterator::collect)
            .map_err(|source| TlsError::Certificate { path: path(), source })?;
        if chain.is_empty() {
            return Err(TlsError::NoCertificate { path: path() });
        }
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|source| TlsError::Key { path: self.key.clone(), source })?;
        let certified = CertifiedKey::from_der(chain, key, &ring::default_provider());
        let certified = certified.map_err(|source| TlsError::Unusable { path: path(), source })?;
        Ok(Arc::new(certified))
    }
}

/// The certificate that the files hold, looked at now and then.
#[derive(Debug)]
struct Renewed {
    files: TlsFiles,
    last: Mutex<Last>,
}

#[derive(Debug)]
struct Last {
    looked_at: Instant,
    written: [SystemTime; 2],
    certified: Arc<CertifiedKey>,
}

impl Renewed {
    fn read(files: TlsFiles) -> Result<Self, TlsError> {
        let (written, certified) = (files.written()?, files.read()?);
        let last = Mutex::new(Last { looked_at: Instant::now(), written, certified });
        Ok(Self { files, last })
    }

    fn current(&self) -> Arc<CertifiedKey> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.looked_at.elapsed() >= LOOK_INTERVAL {
            last.looked_at = Instant::now();
            match self.renew(&mut last) {
                Ok(true) => tracing::info!("the TLS certificate was renewed"),
                Ok(false) => {}
                // Of two files that are being replaced one may be new and one old.
                Err(error) => {
                    let error = chain(&error);
                    tracing::warn!(error, "the TLS certificate of before stays in use");
                }
            }
        }
        Arc::clone(&last.certified)
    }

    fn renew(&self, last: &mut Last) -> Result<bool, TlsError> {
        let written = self.files.written()?;
        if written == last.written {
            return Ok(false);
        }
        last.certified = self.files.read()?;
        last.written = written;
        Ok(true)
    }
}

impl ResolvesServerCert for Renewed {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(files: &TlsFiles) -> Vec<u8> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        fs::write(&files.certificate, made.cert.pem()).unwrap();
        fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        made.cert.der().to_vec()
    }

    fn files(dir: &Path) -> TlsFiles {
        TlsFiles { certificate: dir.join("cert.pem"), key: dir.join("key.pem") }
    }

    #[tokio::test(start_paused = true)]
    async fn renewed_files_are_taken_up_and_half_renewed_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        let first = write(&files);
        let renewed = Renewed::read(files.clone()).unwrap();
        let current = || renewed.current().cert[0].to_vec();
        let later = async || tokio::time::advance(LOOK_INTERVAL).await;
        later().await;
        assert_eq!(current(), first);
        let old_key = fs::read(&files.key).unwrap();
        let second = write(&files);
        let new_key = fs::read(&files.key).unwrap();
        fs::write(&files.key, old_key).unwrap();
        later().await;
        assert_eq!(current(), first);
        fs::remove_file(&files.key).unwrap();
        later().await;
        assert_eq!(current(), first);
        fs::write(&files.key, new_key).unwrap();
        later().await;
        assert_eq!(current(), second);
    }

    #[test]
    fn what_is_wrong_with_the_files_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        let refused = || files.clone().acceptor().err().unwrap();
        assert!(matches!(refused(), TlsError::Metadata { .. }));
        write(&files);
        assert!(files.clone().acceptor().is_ok());
        let (certificate, key) = (files.certificate.clone(), files.key.clone());
        fs::copy(&certificate, &key).unwrap();
        assert!(matches!(refused(), TlsError::Key { .. }));
        write(&files);
        fs::copy(&key, &certificate).unwrap();
        assert!(matches!(refused(), TlsError::NoCertificate { .. }));
        write(&files);
        let other = rcgen::KeyPair::generate().unwrap();
        fs::write(&key, other.serialize_pem()).unwrap();
        assert!(matches!(refused(), TlsError::Unusable { .. }));
    }
}
