//! Runs Trivy on a root file system.
//!
//! Trivy reads hostile bytes: it runs as nobody where the controller is root, may not gain rights,
//! has bounds, ends with the controller, and may write into its cache alone. Its paths begin with
//! `/proc/self/cwd`, because nobody may walk down the controller's private directory.
//!
//! `trivy vm` reads the ext4 file itself: no tree of hostile names has to be laid out on the host.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use scaibunker_api::worker::BakedRoot;
use scaibunker_storage::{Objects, StorageError};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Command,
    runtime::Handle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    report::{self, shown},
    root_file::RootFile,
};
use crate::{domain::scan::ScanOutcome, store::StoreError};

/// For one image, the download of the database included.
const TIME_LIMIT: Duration = Duration::from_secs(15 * 60);
const MEMORY_BYTES: u64 = 2 << 30;
/// At which Trivy begins to collect its garbage.
const SOFT_MEMORY_BYTES: u64 = 3 << 29;
/// The vulnerability databases are the largest files it writes.
const FILE_BYTES: u64 = 8 << 30;
const MAX_REPORT_BYTES: u64 = 64 << 20;
const MAX_STDERR_BYTES: u64 = 64 << 10;

const NOBODY: u32 = 65534;

const IMAGE: &str = "image.ext4";
const CACHE: &str = "cache";
/// [`CACHE`] for the process that runs in its parent.
const CACHE_FROM_WITHIN: &str = "/proc/self/cwd/cache";

/// Settings of Trivy itself (a mirror's address, a Trivy server and its token, …), and what any
/// program needs to reach a server.
const PASSED_ON: [&str; 7] = [
    "DOCKER_CONFIG",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "PATH",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
];
const OWN_SETTINGS: &str = "TRIVY_";

/// An image could not be scanned.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScanError {
    #[error(
        "scanner not available: there is no program `{}`; install Trivy on the controller's machine \
         or name it with SCAIBUNKER_TRIVY, then ask for the scan again",
        program.display()
    )]
    NotAvailable { program: PathBuf },
    #[error("the image is not stored any more")]
    NotStored,
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot fetch the image from the object store")]
    Unpack(#[source] io::Error),
    #[error("cannot prepare the scanner's directory")]
    Prepare(#[source] io::Error),
    #[error("cannot run the scanner (through setpriv and prlimit of util-linux)")]
    Run(#[source] io::Error),
    #[error("the scanner failed: {message}")]
    Failed { message: String },
    #[error("the scanner was not done within {} s", TIME_LIMIT.as_secs())]
    Timeout,
    #[error("the scanner's report is over {} MiB", MAX_REPORT_BYTES >> 20)]
    TooLong,
    #[error("the scanner's report is not one of Trivy")]
    Report(#[source] serde_json::Error),
}

/// Trivy and where it works.
pub(super) struct Trivy {
    program: PathBuf,
    dir: PathBuf,
}

impl Trivy {
    pub(super) fn new(program: PathBuf, dir: PathBuf) -> Self {
        Self { program, dir }
    }

    /// Scans a stored root.
    pub(super) async fn scan(
        &self,
        objects: &Objects,
        root: &BakedRoot,
    ) -> Result<ScanOutcome, ScanError> {
        let program = self.find()?;
        self.prepare().map_err(ScanError::Prepare)?;
        let _file = RootFile::fetch(objects, root, self.dir.join(IMAGE)).await?;
        let report = run(self.command(&program)).await?;
        report::parse(&report).map_err(ScanError::Report)
    }

    /// The program's file, looked for anew each time: it may be installed while the server runs.
    fn find(&self) -> Result<PathBuf, ScanError> {
        let is_program = |path: &Path| {
            path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let is_name = self.program.components().count() == 1;
        let found = if is_name {
            std::env::split_paths(&path).map(|dir| dir.join(&self.program)).find(|p| is_program(p))
        } else {
            std::path::absolute(&self.program).ok().filter(|program| is_program(program))
        };
        found.ok_or_else(|| ScanError::NotAvailable { program: self.program.clone() })
    }

    /// A directory that only the controller writes to, and in it the cache.
    fn prepare(&self) -> io::Result<()> {
        let cache = self.dir.join(CACHE);
        fs::create_dir_all(&cache)?;
        if is_root() {
            fs::set_permissions(&self.dir, fs::Permissions::from_mode(0o755))?;
            chown(&cache, Some(NOBODY), Some(NOBODY))?;
        }
        // What a crash has left.
        match fs::remove_file(self.dir.join(IMAGE)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--no-new-privs", "--pdeathsig", "KILL"]);
        if is_root() {
            let nobody = NOBODY.to_string();
            command.args(["--reuid", &nobody, "--regid", &nobody, "--clear-groups"]);
            command.args(["--inh-caps=-all", "--bounding-set=-all"]);
        }
        command.arg("prlimit").arg(format!("--data={MEMORY_BYTES}"));
        command.arg(format!("--fsize={FILE_BYTES}")).arg("--core=0").arg(program);
        command.args(["vm", "--quiet", "--format", "json", "--list-all-pkgs=false"]);
        command.args(["--cache-dir", CACHE_FROM_WITHIN, "--cache-backend", "memory"]);
        command.args(["--skip-version-check", "--disable-telemetry"]);
        // No settings from files: there is none but what an image could have brought.
        command.args(["--config", "", "--ignorefile", "", "--secret-config", "", IMAGE]);
        command.env_clear().envs(std::env::vars_os().filter(|(name, _)| is_passed_on(name)));
        command.env("HOME", CACHE_FROM_WITHIN).env("TMPDIR", CACHE_FROM_WITHIN);
        command.env("GOMEMLIMIT", SOFT_MEMORY_BYTES.to_string());
        command.current_dir(&self.dir).stdin(Stdio::null()).kill_on_drop(true);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn is_passed_on(name: &OsString) -> bool {
    let Some(name) = name.to_str() else { return false };
    name.starts_with(OWN_SETTINGS) || PASSED_ON.contains(&name.to_uppercase().as_str())
}

/// Runs the program to its end and gives what it wrote. Dropping the future ends it.
///
/// It runs on a thread of its own, because a process that is to end with its parent ends with the
/// thread that started it, and the runtime's threads may end at any time.
async fn run(command: Command) -> Result<Vec<u8>, ScanError> {
    let dropped = CancellationToken::new();
    let _guard = dropped.clone().drop_guard();
    let runtime = Handle::current();
    let running = tokio::task::spawn_blocking(move || {
        runtime.block_on(async {
            tokio::select! {
                done = timeout(TIME_LIMIT, report_of(command)) => done.unwrap_or(Err(ScanError::Timeout)),
                () = dropped.cancelled() => Err(ScanError::Timeout),
            }
        })
    });
    running.await.map_err(|error| ScanError::Run(io::Error::other(error)))?
}

async fn report_of(mut command: Command) -> Result<Vec<u8>, ScanError> {
    let mut process = command.spawn().map_err(ScanError::Run)?;
    let (stdout, stderr) = (process.stdout.take(), process.stderr.take());
    let (report, complaint) =
        tokio::join!(bounded(stdout, MAX_REPORT_BYTES + 1), bounded(stderr, MAX_STDERR_BYTES),);
    let report = report.map_err(ScanError::Run)?;
    if report.len() as u64 > MAX_REPORT_BYTES {
        return Err(ScanError::TooLong);
    }
    let status = process.wait().await.map_err(ScanError::Run)?;
    if status.success() {
        return Ok(report);
    }
    let complaint = complaint.map_err(ScanError::Run)?;
    Err(ScanError::Failed { message: reason(&complaint, status) })
}

/// What comes until the end, or the first bytes of it; then the pipe is closed.
async fn bounded(source: Option<impl AsyncRead + Unpin>, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(source) = source {
        source.take(max_bytes).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// The line that says why: Trivy's last words begin with `FATAL`, and may go on over several lines.
fn reason(complaint: &[u8], status: std::process::ExitStatus) -> String {
    let text = String::from_utf8_lossy(complaint);
    let fatal = text.rfind("FATAL").map(|at| text[at + "FATAL".len()..].to_owned());
    let last = fatal.or_else(|| text.lines().rfind(|l| !l.trim().is_empty()).map(str::to_owned));
    let words = last.unwrap_or_default();
    let words = shown(&words.split_whitespace().collect::<Vec<_>>().join(" "));
    match words.trim_start_matches("Fatal error ") {
        "" => format!("it ended with {status}"),
        words => words.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn the_reason_is_what_the_scanner_called_fatal() {
        let status = std::process::ExitStatus::from_raw(256);
        let text = "2026-11-25T12:41:06Z\tINFO\tx\n2026-11-25T12:41:06Z\tFATAL\tFatal error\trun \
                    error: DB error:\n\t* no such host\n\n";
        assert_eq!(reason(text.as_bytes(), status), "run error: DB error: * no such host");
        assert_eq!(reason(b"setpriv: no such option\n", status), "setpriv: no such option");
        assert_eq!(reason(b"", status), "it ended with exit status: 1");
    }

    #[test]
    fn secrets_of_the_server_are_not_passed_on() {
        for name in ["SCAIBUNKER_WORKER_TOKEN", "AWS_SECRET_ACCESS_KEY", "LD_PRELOAD"] {
            assert!(!is_passed_on(&name.into()), "{name}");
        }
        for name in ["TRIVY_DB_REPOSITORY", "https_proxy", "PATH"] {
            assert!(is_passed_on(&name.into()), "{name}");
        }
    }
}
