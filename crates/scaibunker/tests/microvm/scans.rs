//! Scans of images by the real Trivy, and what a crash makes of them.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use http::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    image_layers::{base, config},
    images::{add, oci, until, until_status},
    registry::{PASSWORD, Registry, done, layout},
    server::Server,
};

/// Where `./scripts/test` has put Trivy.
fn trivy() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    target.join("tools/trivy/bin/trivy")
}

async fn scan(server: &Server, id: &str) -> Value {
    server.call(Method::GET, &format!("/images/{id}/scan"), None).await.data().clone()
}

/// The scan, once it is over or has come as far as `status`.
async fn until_scan(server: &Server, id: &str, status: &str) -> Value {
    until("the scan is over", async || {
        let found = scan(server, id).await["status"].clone();
        found == status || (found != "pending" && found != "running")
    })
    .await;
    let found = scan(server, id).await;
    assert_eq!(found["status"], status, "{found}");
    found
}

/// An image with an old package, according to its package list, and a forgotten key.
async fn faulty_image(server: &Server, registry: &Registry) -> String {
    let release = "ID=debian\nVERSION_ID=\"12\"\nNAME=\"Debian GNU/Linux\"\n";
    let packages = "Package: openssl\nStatus: install ok installed\nArchitecture: amd64\n\
                    Maintainer: nobody\nVersion: 3.0.11-1~deb12u1\nDescription: old\n\n";
    let key = "[default]\naws_access_key_id = AKIAIOSFODNN7REALKEY\n";
    let layer = base(server)
        .await
        .file("etc/os-release", release.as_bytes(), 0o644, (0, 0))
        .file("etc/debian_version", b"12.5\n", 0o644, (0, 0))
        .file("var/lib/dpkg/status", packages.as_bytes(), 0o644, (0, 0))
        .file("root/.aws/credentials", key.as_bytes(), 0o600, (0, 0));
    registry.push(layout(&[layer.tar()], config()).path(), "faulty:1");
    let id = add(server, "faulty", oci(&registry.reference("faulty:1"), PASSWORD)).await;
    until_status(server, &id, "ready").await;
    id
}

/// Pushes a small vulnerability database of Trivy's format, made for this test: the real one can't
/// be had without the internet.
async fn push_database(server: &Server, mirror: &Registry) {
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    let path = layout.to_str().unwrap();
    let advisory = ["debian 12", "openssl", "3.0.17-1~deb12u3", "CVE-2026-0001", "HIGH"];
    server.python("trivy_database.py", &[&[path][..], &advisory].concat()).await;
    mirror.push(&layout, "trivy-db:2");
}

/// A directory for programs that everyone may run.
fn bin_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    dir
}

#[tokio::test(flavor = "multi_thread")]
async fn image_scan_stuck_on_pending() {
    // Where the operator will install Trivy.
    let bin = bin_dir();
    let program = bin.path().join("trivy");
    let mirror = Registry::start_open();
    let settings = [
        ("SCAIBUNKER_TRIVY", program.to_str().unwrap()),
        ("TRIVY_DB_REPOSITORY", &mirror.reference("trivy-db:2")),
    ];
    let (server, registry) = (Server::start_with(&settings), Registry::start());
    let id = faulty_image(&server, &registry).await;

    // "Missing binary → status flips to failed with a "scanner not available" message."
    let failed = until_scan(&server, &id, "failed").await;
    let message = failed["message"].as_str().unwrap();
    assert!(message.starts_with("scanner not available"), "{message}");
    assert!(message.contains(program.to_str().unwrap()), "{message}");
    let image = server.call(Method::GET, &format!("/images/{id}"), None).await;
    assert_eq!(image.data()["scan_status"], "failed");

    // "Check that Trivy is installed on the controller (trivy --version in the controller
    // container)." It is found without a restart; its database is not there yet.
    fs::copy(trivy(), &program).unwrap();
    let mut version = Command::new(&program);
    version.arg("--version");
    done(version);
    let path = format!("/images/{id}/scan");
    let asked = server.call(Method::POST, &path, None).await;
    assert_eq!((asked.status.as_u16(), &asked.data()["image_id"]), (202, &json!(id)));
    until("the scan fails for another reason", async || {
        let scan = scan(&server, &id).await;
        let message = scan["message"].as_str().unwrap_or_default();
        scan["status"] == "failed" && message.contains("vulnerability DB")
    })
    .await;

    // And once it is, everything is found.
    push_database(&server, &mirror).await;
    server.call(Method::POST, &path, None).await.data();
    let found = until_scan(&server, &id, "vulnerable").await;
    let counts = json!({ "critical": 1, "high": 1, "medium": 0, "low": 0, "unknown": 0 });
    assert_eq!((&found["counts"], &found["truncated"]), (&counts, &json!(false)));
    assert_eq!(found["scanner"], "trivy 0.76.0");
    let secret = &found["findings"][0];
    assert_eq!(
        (&secret["kind"], &secret["target"]),
        (&json!("secret"), &json!("root/.aws/credentials"))
    );
    assert!(!found.to_string().contains("AKIA"), "{found}");
    let package = &found["findings"][1];
    assert_eq!(package["id"], "CVE-2026-0001");
    assert_eq!(package["fixed_version"], "3.0.17-1~deb12u3");

    // The same by the command, for an image whose scan is known and for one that has none.
    let shown = server.command().args(["images", "scan", "faulty"]).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("1 critical, 1 high") && shown.contains("CVE-2026-0001"), "{shown}");
    let shown = server.command().args(["images", "scan", "busybox", "--json"]).output().unwrap();
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["status"], "skipped", "{shown}");
    // Nothing of the image stays behind, and nobody but the scanner's cache has grown.
    let left: Vec<_> = fs::read_dir(server.data_dir().join("scan"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["cache"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scanner_ends_with_its_server_however_that_ends() {
    let bin = bin_dir();
    // A double of a Trivy that takes its time; it says who it is.
    let program = bin.path().join("slow-trivy");
    let script =
        "#!/bin/sh\necho $$ $(id -u) > cache/told\nmv cache/told cache/pid\nexec sleep 600\n";
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let (server, registry) =
        (Server::start_with(&[("SCAIBUNKER_TRIVY", program.to_str().unwrap())]), Registry::start());
    let id = faulty_image(&server, &registry).await;
    until_scan(&server, &id, "running").await;
    let told = server.data_dir().join("scan/cache/pid");
    until("the scanner runs", async || told.exists()).await;
    let told = fs::read_to_string(told).unwrap();
    let (pid, uid) = told.trim().split_once(' ').unwrap();
    let expected = if rustix::process::geteuid().is_root() { "65534" } else { uid };
    assert_eq!(uid, expected);
    let process = Path::new("/proc").join(pid);
    assert!(process.exists());
    let is_root_there = || server.data_dir().join("scan/image.ext4").exists();
    assert!(is_root_there());
    let server = server.crash_and_restart(|| {});
    until("the scanner is gone", async || !process.exists()).await;
    // Its lease lasts a while; then it is taken up.
    assert_eq!(scan(&server, &id).await["status"], "running");
}
