//! Encryption of what a server listens to.

use std::path::PathBuf;

use clap::Args;
use scaibunker_controller::server::TlsFiles;

/// Options of TLS.
#[derive(Debug, Args)]
#[command(next_help_heading = "TLS")]
pub struct TlsArgs {
    /// Serve TLS with this certificate and those that lead to its authority (PEM); a renewed file is
    /// taken up without a restart [default: plain HTTP]
    #[arg(long, env = "SCAIBUNKER_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, env = "SCAIBUNKER_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl TlsArgs {
    /// The files, if TLS is wanted.
    pub fn files(&self) -> Option<TlsFiles> {
        let (certificate, key) = self.tls_cert.clone().zip(self.tls_key.clone())?;
        Some(TlsFiles { certificate, key })
    }

    /// What URLs of the server begin with.
    pub fn scheme(&self) -> &'static str {
        if self.files().is_some() { "https" } else { "http" }
    }
}
