//! An S3 server behind TLS, whose certificate has to be among the host's.

#![expect(clippy::unwrap_used, reason = "a test that fails shall say where")]

mod common;

use std::{process::Command, sync::Arc};

use scaibunker_storage::{Objects, S3Config};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
};

/// Names the address of the server to the test's second self.
const ENDPOINT: &str = "SCAIBUNKER_TEST_ENDPOINT";
const TEST: &str = "a_server_is_used_over_tls_if_the_host_knows_its_certificate";

/// The client is the test once more, since the host's certificates are read from where the
/// environment says.
#[test]
fn a_server_is_used_over_tls_if_the_host_knows_its_certificate() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if let Ok(endpoint) = std::env::var(ENDPOINT) {
        return runtime.block_on(use_server(endpoint));
    }
    let dir = tempfile::tempdir().unwrap();
    let [known, unknown] = ["known", "unknown"].map(|name| dir.path().join(name));
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&known, certified.cert.pem()).unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(&unknown, other.cert.pem()).unwrap();
    let server = common::S3Server::start();
    let endpoint = runtime.block_on(serve_tls(certified, &server.endpoint));

    for (certificates, works) in [(known, true), (unknown, false)] {
        let client = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", TEST])
            .env(ENDPOINT, &endpoint)
            .env("SSL_CERT_FILE", certificates)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&client.stdout);
        assert_eq!(client.status.success(), works, "{said}");
        assert!(works || said.contains("InvalidCertificate"), "{said}");
    }
}

async fn use_server(endpoint: String) {
    let config = S3Config { allow_http: false, ..common::config(&endpoint) };
    let objects = Objects::s3(config, None).unwrap();
    assert_eq!(objects.head("files/bnk_1/a").await.unwrap(), None);
}

/// Takes TLS off in front of a server; returns its address.
async fn serve_tls(certified: rcgen::CertifiedKey<rcgen::KeyPair>, server: &str) -> String {
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let server = server.strip_prefix("http://").unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            // A client that does not trust the certificate ends the connection.
            let Ok(mut client) = acceptor.accept(socket).await else { continue };
            let mut server = TcpStream::connect(&server).await.unwrap();
            tokio::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    format!("https://localhost:{port}")
}
