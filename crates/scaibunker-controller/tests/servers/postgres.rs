//! A real PostgreSQL server on a socket in a directory of its own.

use std::{
    fs,
    io::{Seek as _, Write as _},
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use super::process::ServerProcess;

pub struct PostgresServer {
    process: ServerProcess,
    dir: tempfile::TempDir,
    databases: AtomicU32,
}

impl PostgresServer {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        if let Some((uid, gid)) = other_user() {
            chown(dir.path(), Some(uid), Some(gid)).unwrap();
        }
        let initdb = tool("initdb")
            .arg("--pgdata")
            .arg(dir.path().join("data"))
            .args([
                "--username=postgres",
                "--auth=trust",
                "--no-sync",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
            ])
            .output();
        let initdb = initdb.unwrap();
        assert!(initdb.status.success(), "{}", String::from_utf8_lossy(&initdb.stderr));
        let server = Self { process: launch(dir.path()), dir, databases: AtomicU32::new(0) };
        server.wait_until_ready();
        server
    }

    /// The URL of an empty database that nobody else has.
    pub fn new_database(&self) -> String {
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let made = self.client("createdb").arg(&name).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let host = self.dir.path().display().to_string().replace('/', "%2F");
        format!("postgres://postgres@{host}/{name}")
    }

    /// The URL of a database with what another one holds right now, though it is in use.
    pub fn copy_of_database(&self, url: &str) -> String {
        let name = |url: &str| url.rsplit('/').next().unwrap().to_owned();
        let dump = self.client("pg_dump").arg(name(url)).output().unwrap();
        assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
        let (copy, mut file) = (self.new_database(), tempfile::tempfile().unwrap());
        file.write_all(&dump.stdout).unwrap();
        file.rewind().unwrap();
        let mut psql = self.client("psql");
        psql.args(["--quiet", "--set=ON_ERROR_STOP=1", "--dbname", &name(&copy)]).stdin(file);
        let restored = psql.output().unwrap();
        assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
        copy
    }

    fn client(&self, name: &str) -> Command {
        let mut client = tool(name);
        client.arg("--host").arg(self.dir.path()).arg("--username=postgres");
        client
    }

    /// Ends it as a crash would; what was committed is on its disk.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    pub fn start_again(&mut self) {
        self.process = launch(self.dir.path());
        self.wait_until_ready();
    }

    fn wait_until_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let asked = tool("pg_isready").arg("--host").arg(self.dir.path()).output().unwrap();
            if asked.status.success() {
                return;
            }
            assert!(Instant::now() < deadline, "postgres did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn launch(dir: &Path) -> ServerProcess {
    let _ = fs::remove_file(dir.join("data/postmaster.pid"));
    let mut command = tool("postgres");
    command.arg("-D").arg(dir.join("data")).arg("-k").arg(dir).args([
        "-c",
        "listen_addresses=",
        "-c",
        "max_connections=400",
        "-c",
        "shared_buffers=32MB",
    ]);
    ServerProcess::spawn(command)
}

/// A program of PostgreSQL, run as somebody else than root, whom it refuses.
fn tool(name: &str) -> Command {
    let mut command = Command::new(directory().join(name));
    command.current_dir("/");
    if let Some((uid, gid)) = other_user() {
        command.uid(uid).gid(gid);
    }
    command
}

/// Of the newest version that is installed.
fn directory() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is not installed");
    let mut versions: Vec<_> = versions.flatten().map(|version| version.path()).collect();
    versions.sort();
    versions.pop().expect("PostgreSQL is not installed").join("bin")
}

fn other_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let accounts = fs::read_to_string("/etc/passwd").unwrap();
    let mut fields =
        accounts.lines().find(|line| line.starts_with("postgres:"))?.split(':').skip(2);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}
