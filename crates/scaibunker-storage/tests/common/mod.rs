//! Garage, an S3 server that others wrote, as a process on ports of this machine.

use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use scaibunker_storage::{S3Config, S3Patience};
use tempfile::TempDir;

pub const BUCKET: &str = "objects";
pub const ACCESS_KEY_ID: &str = "GK0123456789abcdef01234567";
pub const SECRET_ACCESS_KEY: &str =
    "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
pub const REGION: &str = "garage";

const START_LIMIT: Duration = Duration::from_secs(60);
/// Another program may take a port between its choice and the server's start.
const ATTEMPTS: usize = 3;
/// Lines of the server's log to show when it does not start.
const LAST_LINES: usize = 20;

/// A server with one empty bucket. Ends when dropped, and leaves nothing.
pub struct S3Server {
    pub endpoint: String,
    process: Child,
    _dir: TempDir,
}

impl S3Server {
    /// Serves an empty bucket.
    pub fn start() -> Self {
        let mut last_words = String::new();
        for _ in 0..ATTEMPTS {
            match Self::try_start() {
                Ok(server) => return server,
                Err(said) => last_words = said,
            }
        }
        panic!("garage does not start:\n{last_words}");
    }

    fn try_start() -> Result<Self, String> {
        let dir = tempfile::tempdir().unwrap();
        let [rpc, api] = free_ports();
        let config = dir.path().join("garage.toml");
        std::fs::write(&config, configuration(dir.path(), rpc, api)).unwrap();
        let mut process = Command::new(program())
            .arg("-c")
            .arg(config)
            .args(["server", "--single-node", "--default-bucket"])
            .env("GARAGE_DEFAULT_ACCESS_KEY", ACCESS_KEY_ID)
            .env("GARAGE_DEFAULT_SECRET_KEY", SECRET_ACCESS_KEY)
            .env("GARAGE_DEFAULT_BUCKET", BUCKET)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = keep_last_lines(&mut process);
        let mut server = Self { endpoint: format!("http://{api}"), process, _dir: dir };
        let since = Instant::now();
        // It listens last, when the bucket is there.
        while TcpStream::connect(api).is_err() {
            let has_ended = server.process.try_wait().unwrap().is_some();
            if has_ended || since.elapsed() > START_LIMIT {
                let lines: Vec<_> = log.lock().unwrap().drain(..).collect();
                return Err(lines.join("\n"));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn program() -> PathBuf {
    let tools = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools/garage/bin/garage");
    assert!(Path::new(tools).exists(), "garage is missing: scripts/test installs it");
    tools.into()
}

fn free_ports() -> [SocketAddr; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap())
}

fn configuration(dir: &Path, rpc: SocketAddr, api: SocketAddr) -> String {
    let (dir, secret) = (dir.display(), "0".repeat(64));
    format!(
        r#"
metadata_dir = "{dir}/meta"
data_dir = "{dir}/data"
db_engine = "sqlite"
replication_factor = 1
rpc_bind_addr = "{rpc}"
rpc_public_addr = "{rpc}"
rpc_secret = "{secret}"
[s3_api]
s3_region = "{REGION}"
api_bind_addr = "{api}"
"#
    )
}

/// Reads the server's log for as long as it runs: a full pipe would stop it.
fn keep_last_lines(process: &mut Child) -> Arc<Mutex<VecDeque<String>>> {
    let kept = Arc::new(Mutex::new(VecDeque::new()));
    let lines = BufReader::new(process.stderr.take().unwrap()).lines();
    let keep = Arc::clone(&kept);
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let mut kept = keep.lock().unwrap();
            kept.push_back(line);
            if kept.len() > LAST_LINES {
                kept.pop_front();
            }
        }
    });
    kept
}

/// How the bucket of a server is used.
pub fn config(endpoint: &str) -> S3Config {
    S3Config {
        endpoint: Some(endpoint.to_owned()),
        region: REGION.into(),
        bucket: BUCKET.into(),
        access_key_id: ACCESS_KEY_ID.into(),
        secret_access_key: SECRET_ACCESS_KEY.into(),
        allow_http: true,
        path_style: true,
        patience: S3Patience::default(),
    }
}
