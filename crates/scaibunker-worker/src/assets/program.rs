//! Programs of the host that make assets: a bare environment, bounded output, a time limit.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    time::timeout,
};

use super::AssetError;

/// Where programs are looked for; an ordinary user's own path often lacks the `sbin` ones.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is kept of each output; the rest is read and dropped.
const MAX_STDOUT_BYTES: usize = 1 << 20;
const STDERR_TAIL_BYTES: usize = 4096;

/// What of the tail an error repeats.
const SHOWN_LINES: usize = 8;

/// A program and the Debian package it comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    pub name: &'static str,
    pub package: &'static str,
}

macro_rules! programs {
    ($($constant:ident = $name:literal of $package:literal),* $(,)?) => {
        $(pub const $constant: Program = Program { name: $name, package: $package };)*
    };
}

programs! {
    APT_CACHE = "apt-cache" of "apt",
    APT_CONFIG = "apt-config" of "apt",
    APT_GET = "apt-get" of "apt",
    DEBUGFS = "debugfs" of "e2fsprogs",
    DPKG_DEB = "dpkg-deb" of "dpkg",
    E2FSCK = "e2fsck" of "e2fsprogs",
    IP = "ip" of "iproute2",
    MKFS_EXT4 = "mkfs.ext4" of "e2fsprogs",
    MMDEBSTRAP = "mmdebstrap" of "mmdebstrap",
    NEWGIDMAP = "newgidmap" of "uidmap",
    NEWUIDMAP = "newuidmap" of "uidmap",
    NFT = "nft" of "nftables",
    SHELL = "sh" of "dash",
    TC = "tc" of "iproute2",
    XZ = "xz" of "xz-utils",
}

impl Program {
    /// Where the program is, if it is installed.
    #[must_use]
    pub fn find(self) -> Option<PathBuf> {
        PATH.split(':').map(|dir| Path::new(dir).join(self.name)).find(|path| path.is_file())
    }
}

/// One run of a program.
pub struct Call<'a> {
    pub program: Program,
    pub args: Vec<OsString>,
    /// Added to the bare environment.
    pub env: Vec<(String, OsString)>,
    pub dir: &'a Path,
    pub limit: Duration,
    /// Sees each piece of stderr as it arrives.
    pub watch: &'a (dyn Fn(&str) + Send + Sync),
}

impl<'a> Call<'a> {
    /// A call with nothing but arguments.
    pub fn new<A: Into<OsString>>(
        program: Program,
        dir: &'a Path,
        limit: Duration,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        let args = args.into_iter().map(Into::into).collect();
        Self { program, args, env: Vec::new(), dir, limit, watch: &|_| {} }
    }

    /// Runs the program to its end and returns its standard output, at most 1 MiB of it.
    pub async fn run(self) -> Result<Vec<u8>, AssetError> {
        let name = self.program.name;
        let io_failed = |source| AssetError::Program { program: name, source };
        let Some(path) = self.program.find() else {
            return Err(AssetError::Missing { program: name, package: self.program.package });
        };
        let mut child = Command::new(path)
            .args(&self.args)
            .current_dir(self.dir)
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .envs(self.env)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Signals go to the whole group, so nothing the program started outlives it.
            .process_group(0)
            .spawn()
            .map_err(io_failed)?;
        let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
        let mut group = Group::of(&child);
        let ended = timeout(self.limit, async {
            let (out, tail) = tokio::try_join!(
                read(stdout.as_mut(), Keep::Head(MAX_STDOUT_BYTES), &|_| {}),
                read(stderr.as_mut(), Keep::Tail(STDERR_TAIL_BYTES), self.watch),
            )?;
            Ok::<_, io::Error>((child.wait().await?, out, tail))
        })
        .await
        .map_err(|_| AssetError::Timeout { program: name, limit_s: self.limit.as_secs() })?;
        group.has_ended();
        let (status, out, tail) = ended.map_err(io_failed)?;
        if status.success() {
            return Ok(out);
        }
        let tail = String::from_utf8_lossy(&tail);
        let output = last_lines(&tail, SHOWN_LINES);
        Err(AssetError::Failed { program: name, status, hint: hint(&tail), output })
    }
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// What to do about a failure, from what the program said of it.
fn hint(output: &str) -> &'static str {
    const HINTS: [(&[&str], &str); 6] = [
        (
            &["No space left on device"],
            "free space on the cache's file system and in /tmp, then try again",
        ),
        (
            &[
                "Unable to locate package",
                "No packages found",
                "Can't find a source",
                "404  Not Found",
            ],
            "apt's package lists are missing or old: run `apt-get update` as root, then try again",
        ),
        (
            &["newuidmap", "newgidmap", "/etc/subuid", "/etc/subgid", "unshare"],
            "install the package uidmap and give this user a range in /etc/subuid and /etc/subgid, \
             or run once as root with the same cache directory",
        ),
        (
            &["NO_PUBKEY", "EXPKEYSIG", "KEYEXPIRED"],
            "install or upgrade the package debian-archive-keyring",
        ),
        (
            &["Temporary failure resolving", "Could not resolve", "Could not connect"],
            "the Debian mirror cannot be reached: check the network and apt's proxy setting",
        ),
        (
            &["Failed to fetch", "Unable to connect", "Connection failed", "Could not handshake"],
            "the Debian mirror does not answer as it should: check the network and apt's sources",
        ),
    ];
    let known = HINTS.iter().find(|(signs, _)| signs.iter().any(|sign| output.contains(sign)));
    known.map_or("see what it said", |(_, hint)| hint)
}

/// Ends a program's process group when a call is given up. With a signal that can be caught,
/// because mmdebstrap then removes its own tree, which an ordinary user could not.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        Self(pid.and_then(Pid::from_raw))
    }

    fn has_ended(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            let _ = kill_process_group(pid, Signal::TERM);
        }
    }
}

enum Keep {
    Head(usize),
    Tail(usize),
}

async fn read<R: AsyncRead + Unpin>(
    pipe: Option<&mut R>,
    keep: Keep,
    watch: &(dyn Fn(&str) + Send + Sync),
) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let Some(pipe) = pipe else { return Ok(kept) };
    let mut piece = vec![0; 8192];
    loop {
        let count = pipe.read(&mut piece).await?;
        if count == 0 {
            return Ok(kept);
        }
        watch(&String::from_utf8_lossy(&piece[..count]));
        kept.extend_from_slice(&piece[..count]);
        match keep {
            Keep::Head(limit) => kept.truncate(limit),
            Keep::Tail(limit) => drop(kept.drain(..kept.len().saturating_sub(limit))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn shell(script: &str, limit: Duration) -> Call<'static> {
        Call::new(SHELL, Path::new("/"), limit, ["-c", script])
    }

    #[tokio::test]
    async fn output_without_end_stays_bounded() {
        let script =
            "head -c 3000000 /dev/zero; head -c 100000 /dev/zero >&2; echo last >&2; exit 3";
        let error = shell(script, Duration::from_secs(20)).run().await.unwrap_err();
        let AssetError::Failed { status, output, .. } = error else { panic!("{error:?}") };
        assert_eq!(status.code(), Some(3));
        assert!(output.ends_with("last") && output.len() <= STDERR_TAIL_BYTES);
        let out = shell("head -c 3000000 /dev/zero", Duration::from_secs(20)).run().await.unwrap();
        assert_eq!(out.len(), MAX_STDOUT_BYTES);
    }

    #[tokio::test]
    async fn a_call_past_its_limit_ends_with_all_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        let script = "mkfifo \"$1\"; (exec 3>\"$1\"; sleep 600) & sleep 600";
        let mut call = shell(script, Duration::from_secs(2));
        call.args.extend(["sh".into(), fifo.clone().into()]);
        assert!(matches!(call.run().await, Err(AssetError::Timeout { .. })));
        // The end of file comes once the grandchild, which holds the other end, has ended.
        let began = Instant::now();
        tokio::task::spawn_blocking(move || {
            let read_only = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK;
            let fd = rustix::fs::open(&fifo, read_only, rustix::fs::Mode::empty()).unwrap();
            while rustix::io::read(&fd, &mut [0; 1]) != Ok(0) {
                std::thread::yield_now();
            }
        })
        .await
        .unwrap();
        assert!(began.elapsed() < Duration::from_secs(60));
    }

    #[tokio::test]
    async fn a_missing_program_names_its_package() {
        let program = Program { name: "no-such-program", package: "no-such-package" };
        let call = Call::new(program, Path::new("/"), Duration::from_secs(1), [""; 0]);
        let text = call.run().await.unwrap_err().to_string();
        assert!(text.contains("apt-get install no-such-package"), "{text}");
    }

    #[test]
    fn failures_name_the_next_step() {
        assert!(hint("E: Unable to locate package x").contains("apt-get update"));
        assert!(hint("newuidmap: write failed").contains("uidmap"));
        assert!(hint("cannot write: No space left on device").contains("free space"));
    }
}
