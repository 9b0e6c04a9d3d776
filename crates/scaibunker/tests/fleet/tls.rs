//! A controller that serves TLS itself.

use std::{path::Path, process::Output, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Command,
};

use crate::{api::within, cluster::Cluster};

async fn scaibunker(cluster: &Cluster, authority: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scaibunker"));
    command.args(["--url", &cluster.url(0)]).args(args);
    command.env("SCAIBUNKER_API_KEY", cluster.admin_key()).env("SSL_CERT_FILE", authority);
    command.output().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_and_workers_speak_tls_with_a_controller_that_they_can_believe() {
    let cluster = Cluster::start_tls();
    let (dir, known) = (tempfile::tempdir().unwrap(), cluster.settings.certificate());
    // A command goes from the caller by TLS to the controller, and by the worker's link to its VM.
    let line = ["run", "--image", "busybox", "--", "sh", "-c", "echo there and back"];
    let ran = scaibunker(&cluster, &known, &line).await;
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    let errors = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(ran.status.success() && said == "there and back\n", "{said} {errors}");

    // Whoever cannot tell that it is the controller says nothing to it.
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let unknown = dir.path().join("unknown.pem");
    std::fs::write(&unknown, other.cert.pem()).unwrap();
    let refused = scaibunker(&cluster, &unknown, &["workers"]).await;
    let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && errors.contains("certificate"), "{errors}");
    let mut stranger = cluster.another_worker("stranger");
    stranger.set("SSL_CERT_FILE", unknown.to_str().unwrap());
    stranger.start();
    within(Duration::from_secs(120), "the worker says what is wrong", async || {
        stranger.has_said("certificate")
    })
    .await;

    // Nothing is answered in the clear.
    let address = cluster.url(0).trim_start_matches("https://").to_owned();
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/"), "{}", String::from_utf8_lossy(&answer));
}
