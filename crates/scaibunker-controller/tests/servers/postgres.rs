//! A real PostgreSQL server on a socket in a directory of its own.

use std::{
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use super::process::{ServerDir, ServerProcess, Signal};

/// What the server may never be asked for: it trusts whoever reaches its socket.
pub const PASSWORD: &str = "never-to-be-shown";

pub struct PostgresServer {
    process: ServerProcess,
    dir: ServerDir,
    databases: AtomicU32,
}

impl PostgresServer {
    /// The server that all tests of a program share: each takes a database of its own.
    pub fn shared() -> &'static Self {
        static SERVER: OnceLock<PostgresServer> = OnceLock::new();
        SERVER.get_or_init(Self::start)
    }

    pub fn start() -> Self {
        let dir = ServerDir::new();
        if let Some((uid, gid)) = account() {
            chown(dir.path(), Some(uid), Some(gid)).unwrap();
        }
        let mut init = program("initdb");
        init.arg("-D").arg(data(dir.path())).args(["-U", "postgres", "--auth=trust"]);
        init.args(["--no-sync", "--no-locale", "--encoding=UTF8"]);
        run(init);
        let process = launch(dir.path());
        Self { process, dir, databases: AtomicU32::new(0) }
    }

    /// URL of a new and empty database.
    pub fn database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut create = program("createdb");
        create.args(["-U", "postgres", "-h"]).arg(self.dir.path()).arg(&name);
        run(create);
        let host = self.dir.path().display();
        format!("postgres://postgres:{PASSWORD}@localhost/{name}?host={host}")
    }

    /// URL of a database with what another one holds right now, though it is in use.
    pub fn copy_of(&self, url: &str) -> String {
        let name = |url: &str| url.split(['/', '?']).nth(3).unwrap().to_owned();
        let (copy, file) = (self.database(), self.dir.path().join(format!("{}.sql", name(url))));
        let mut dump = program("pg_dump");
        dump.args(["-U", "postgres", "-h"]).arg(self.dir.path());
        dump.arg("-f").arg(&file).arg(name(url));
        run(dump);
        let mut restore = program("psql");
        restore.args(["-U", "postgres", "-h"]).arg(self.dir.path());
        restore.args(["-q", "-v", "ON_ERROR_STOP=1", "-f"]).arg(&file).arg(name(&copy));
        run(restore);
        copy
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    pub fn start_again(&mut self) {
        self.process = launch(self.dir.path());
    }
}

fn data(dir: &Path) -> PathBuf {
    dir.join("data")
}

fn launch(dir: &Path) -> ServerProcess {
    let mut command = program("postgres");
    command.arg("-D").arg(data(dir)).arg("-k").arg(dir);
    command.args(["-c", "listen_addresses=", "-c", "shared_buffers=32MB"]);
    command.args(["-c", "max_connections=400"]);
    // Its own quick end: the shared memory that it made goes too.
    let mut process = ServerProcess::spawn(command, Signal::QUIT);
    process.wait_until("postgres", || {
        let mut ask = program("pg_isready");
        ask.arg("-q").arg("-h").arg(dir);
        ask.status().unwrap().success()
    });
    process
}

/// One of the newest version's programs. The server refuses to be root's.
fn program(name: &str) -> Command {
    static BIN: OnceLock<PathBuf> = OnceLock::new();
    let bin = BIN.get_or_init(|| {
        let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
        let version = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
        let newest = versions.map(|entry| entry.unwrap().path()).max_by_key(version);
        newest.map(|version| version.join("bin")).unwrap_or_default()
    });
    let mut command = Command::new(bin.join(name));
    if let Some((uid, gid)) = account() {
        command.uid(uid).gid(gid);
    }
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn run(mut command: Command) {
    let output = command.stderr(Stdio::piped()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Whom the server runs as, should this be root.
fn account() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap();
    let fields = accounts.lines().find_map(|line| line.strip_prefix("postgres:")).unwrap();
    let mut numbers = fields.split(':').skip(1).map(|number| number.parse().unwrap());
    Some((numbers.next()?, numbers.next()?))
}
