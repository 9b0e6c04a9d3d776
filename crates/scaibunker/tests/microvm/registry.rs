//! A real registry: Debian's `docker-registry` on loopback, behind a password.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

pub const USER: &str = "puller";
pub const PASSWORD: &str = "correct horse";

/// The registry; it ends with this value.
pub struct Registry {
    dir: TempDir,
    port: u16,
    server: Child,
}

impl Registry {
    pub fn start() -> Self {
        Self::launch(true)
    }

    /// A registry that asks for no password.
    pub fn start_open() -> Self {
        Self::launch(false)
    }

    fn launch(has_password: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // The registry can't be told to take any free port, so another process may be quicker.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let users = Command::new("htpasswd").args(["-nbB", USER, PASSWORD]).output().unwrap();
        fs::write(dir.path().join("htpasswd"), users.stdout).unwrap();
        let root = dir.path().display();
        let mut config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {root}/data\nhttp:\n  addr: \
             127.0.0.1:{port}\n"
        );
        if has_password {
            let auth = format!("auth:\n  htpasswd:\n    realm: test\n    path: {root}/htpasswd\n");
            config.push_str(&auth);
        }
        fs::write(dir.path().join("config.yml"), config).unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let mut server = Command::new("docker-registry")
            .arg("serve")
            .arg(dir.path().join("config.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(server.try_wait().unwrap().is_none(), "the registry ended");
            std::thread::yield_now();
        }
        Self { dir, port, server }
    }

    /// Where it keeps what it has.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The image's name for whoever pulls it.
    pub fn reference(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.port)
    }

    /// Pushes the image of an OCI layout.
    pub fn push(&self, layout: &Path, name: &str) {
        let mut push = Command::new("skopeo");
        push.args(["copy", "--quiet", "--dest-tls-verify=false"])
            .arg(format!("--dest-creds={USER}:{PASSWORD}"))
            .arg(format!("oci:{}", layout.display()))
            .arg(format!("docker://{}", self.reference(name)));
        done(push);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Runs a program that has to succeed.
pub fn done(mut command: Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An OCI layout with one image of these layers, lowest first.
pub fn layout(layers: &[Vec<u8>], config: Value) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
    fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let put = |bytes: &[u8], kind: &str| {
        let digest: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
        fs::write(dir.path().join("blobs/sha256").join(&digest), bytes).unwrap();
        let media_type = format!("application/vnd.oci.image.{kind}");
        json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len() })
    };
    let layers: Vec<_> = layers.iter().map(|layer| put(layer, "layer.v1.tar")).collect();
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer["digest"].clone()).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = put(config.to_string().as_bytes(), "config.v1+json");
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": layers,
    });
    let manifest = put(manifest.to_string().as_bytes(), "manifest.v1+json");
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(dir.path().join("index.json"), index.to_string()).unwrap();
    dir
}
