//! A real Redis server on a socket in a directory of its own.

use std::{
    os::unix::net::UnixStream,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use super::process::ServerProcess;

/// More than there are tests in a program.
const DATABASES: u32 = 1_000;

pub struct RedisServer {
    process: ServerProcess,
    dir: tempfile::TempDir,
}

impl RedisServer {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let process = launch(&dir);
        let server = Self { process, dir };
        server.wait_until_ready();
        server
    }

    pub fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The URL of one of its databases, which begin empty.
    pub fn url_of_database(&self, number: u32) -> String {
        assert!(number < DATABASES);
        format!("{}?db={number}", self.url())
    }

    /// Empties one of its databases.
    pub fn wipe(&self, number: u32) {
        let mut client = Command::new("redis-cli");
        client.arg("-s").arg(self.socket()).arg("-n").arg(number.to_string()).arg("FLUSHDB");
        let done = client.output().unwrap();
        assert_eq!(done.stdout, b"OK\n", "{done:?}");
    }

    /// Ends it as a crash would; nothing was saved.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    pub fn start_again(&mut self) {
        self.process = launch(&self.dir);
        self.wait_until_ready();
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    fn wait_until_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while UnixStream::connect(self.socket()).is_err() {
            assert!(Instant::now() < deadline, "redis-server did not start");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn launch(dir: &tempfile::TempDir) -> ServerProcess {
    let socket = dir.path().join("redis.sock");
    let _ = std::fs::remove_file(&socket);
    let mut command = Command::new("redis-server");
    command.arg("--databases").arg(DATABASES.to_string());
    command.current_dir(dir.path()).args(["--port", "0", "--save", "", "--appendonly", "no"]);
    command.arg("--unixsocket").arg(socket);
    ServerProcess::spawn(command)
}
