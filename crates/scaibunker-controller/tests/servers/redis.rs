//! A real Redis server on a socket in a directory of its own.

use std::{
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use super::process::{ServerDir, ServerProcess, Signal};

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
    command.args(["--port", "0", "--save", "", "--appendonly", "no"]);
    command.arg("--unixsocket").arg(socket).current_dir("/");
    let mut process = ServerProcess::spawn(command, Signal::KILL);
    process.wait_until("redis-server", || UnixStream::connect(socket).is_ok());
    process
}
