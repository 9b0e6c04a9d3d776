//! `docker-registry` on a free port of loopback, with its own directory.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

pub const USER: &str = "puller";
pub const PASSWORD: &str = "correct horse";

/// A registry; it ends with this value.
pub struct TestRegistry {
    dir: TempDir,
    port: u16,
    auth: Auth,
    server: Option<Child>,
}

/// Who may use it.
#[derive(Clone)]
pub enum Auth {
    Anybody,
    Password,
    /// Bearers of a token of the server there; the file has its certificate.
    Token {
        realm: String,
        certificate: PathBuf,
    },
}

impl TestRegistry {
    pub fn start(auth: Auth) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // The registry can't be told to take any free port, so another process may be quicker.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut registry = Self { dir, port, auth, server: None };
        registry.restart();
        registry
    }

    pub fn restart(&mut self) {
        self.stop();
        let config = self.dir.path().join("config.yml");
        fs::write(&config, self.config()).unwrap();
        let log = fs::File::options().create(true).append(true).open(self.log_path()).unwrap();
        let server = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.server = Some(server);
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.server.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the registry ended: {}", self.log());
            std::thread::yield_now();
        }
    }

    pub fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Where a blob is on the registry's disk.
    pub fn blob_path(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        let blobs = self.dir.path().join("data/docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }

    /// Pushes the image of an OCI layout as `name`.
    pub fn push(&self, layout: &Path, name: &str) {
        let pushed = Command::new("skopeo")
            .args(["copy", "--all", "--quiet", "--preserve-digests", "--dest-tls-verify=false"])
            .args(match &self.auth {
                Auth::Anybody => vec![],
                _ => vec![format!("--dest-creds={USER}:{PASSWORD}")],
            })
            .arg(format!("oci:{}", layout.display()))
            .arg(format!("docker://{}/{name}", self.host()))
            .output()
            .unwrap();
        assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn config(&self) -> String {
        let dir = self.dir.path();
        let auth = match &self.auth {
            Auth::Anybody => String::new(),
            Auth::Password => {
                let file = dir.join("htpasswd");
                let line =
                    Command::new("htpasswd").args(["-nbB", USER, PASSWORD]).output().unwrap();
                fs::write(&file, line.stdout).unwrap();
                format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", file.display())
            }
            Auth::Token { realm, certificate } => format!(
                "auth:\n  token:\n    realm: {realm}\n    service: test\n    issuer: tests\n    \
                 rootcertbundle: {}\n",
                certificate.display()
            ),
        };
        format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\n  \
             delete:\n    enabled: true\nhttp:\n  addr: 127.0.0.1:{}\n{auth}",
            dir.join("data").display(),
            self.port
        )
    }
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        self.stop();
    }
}
