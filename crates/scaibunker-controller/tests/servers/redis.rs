//! A real Redis server on a socket in a directory of its own.

use std::{
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use super::process::{ServerDir, ServerProcess, Signal};

/// More than there are tests in a program.
const DATABASES: u32 = 1_000;

pub struct RedisServer {
    process: ServerProcess,
    dir: ServerDir,
}

impl RedisServer {
    /// The server that all tests of a program share: each takes a prefix of its own.
    pub fn shared() -> &'static Self {
        static SERVER: OnceLock<RedisServer> = OnceLock::new();
        SERVER.get_or_init(Self::start)
    }

    pub fn start() -> Self {
        let dir = ServerDir::new();
        Self { process: launch(&socket(dir.path())), dir }
    }

    pub fn url(&self) -> String {
        format!("unix://{}", socket(self.dir.path()).display())
    }

    /// URL of one of its databases, which begin empty.
    pub fn url_of_database(&self, number: u32) -> String {
        assert!(number < DATABASES);
        format!("{}?db={number}", self.url())
    }

    /// Empties one of its databases.
    pub fn wipe(&self, number: u32) {
        let mut client = Command::new("redis-cli");
        client.arg("-s").arg(socket(self.dir.path())).args(["-n", &number.to_string(), "FLUSHDB"]);
        let done = client.output().unwrap();
        assert_eq!(done.stdout, b"OK\n", "{done:?}");
    }

    /// Whether one of its databases has a key.
    pub fn has(&self, number: u32, key: &str) -> bool {
        let mut client = Command::new("redis-cli");
        client.arg("-s").arg(socket(self.dir.path())).args(["-n", &number.to_string()]);
        let done = client.args(["EXISTS", key]).output().unwrap();
        done.stdout == b"1\n"
    }

    /// Ends it as a crash would; nothing was saved.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    pub fn start_again(&mut self) {
        self.process = launch(&socket(self.dir.path()));
    }
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("redis.sock")
}

fn launch(socket: &Path) -> ServerProcess {
    let _ = std::fs::remove_file(socket);
    let mut command = Command::new("redis-server");
    command.arg("--databases").arg(DATABASES.to_string());
    command.args(["--port", "0", "--save", "", "--appendonly", "no"]);
    command.arg("--unixsocket").arg(socket).current_dir("/");
    let mut process = ServerProcess::spawn(command, Signal::KILL);
    process.wait_until("redis-server", || UnixStream::connect(socket).is_ok());
    process
}
