//! A registry on loopback, and images to push to it.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use tempfile::TempDir;

use super::has_program;

const START_LIMIT: Duration = Duration::from_secs(10);
const LAYERS: u32 = 4;
const FILES_PER_DIRECTORY: u32 = 100;
/// The last layer of the larger image.
const SMALL_BYTES: usize = 64 * 1024;

/// What an image holds: half of it can be compressed, half can't.
#[derive(Debug, Clone)]
pub struct Contents<'a> {
    /// Images with different seeds have no layer in common.
    pub seed: u32,
    pub size_mb: u32,
    pub files: u32,
    /// A static busybox.
    pub shell: &'a [u8],
}

/// The registry; it ends with this value, and so does all that it holds.
pub struct Registry {
    dir: TempDir,
    port: u16,
    server: Child,
}

impl Registry {
    pub async fn start() -> anyhow::Result<Self> {
        for program in ["docker-registry", "skopeo"] {
            if !has_program(program) {
                return Err(anyhow!("this bench needs {program}: install the package {program}"));
            }
        }
        let dir = tempfile::tempdir().context("cannot make a directory for a registry")?;
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .context("there is no free port for a registry")?
            .port();
        let config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}/data\nhttp:\n  addr: \
             127.0.0.1:{port}\n",
            dir.path().display()
        );
        let file = dir.path().join("config.yml");
        fs::write(&file, config).context("cannot write the registry's configuration")?;
        let server = Command::new("docker-registry")
            .arg("serve")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start docker-registry")?;
        let registry = Self { dir, port, server };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if started.elapsed() > START_LIMIT {
                return Err(anyhow!("docker-registry does not answer on port {port}"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(registry)
    }

    /// Pushes an image with these contents; its reference.
    pub async fn push(&self, contents: &Contents<'_>) -> anyhow::Result<String> {
        for layer in 0..LAYERS {
            let path = self.layer(contents.seed, layer);
            write_layer(&path, contents, layer).context("cannot write a layer of an image")?;
        }
        self.copy(contents.seed, LAYERS).await
    }

    /// Pushes what was pushed before with a small layer on top.
    pub async fn push_with_one_more_layer(
        &self,
        contents: &Contents<'_>,
    ) -> anyhow::Result<String> {
        let path = self.layer(contents.seed, LAYERS);
        let mut tar = Tar::create(&path).context("cannot write a layer of an image")?;
        let pushed = tar.file("one-more", 0o644, &noise(contents.seed, SMALL_BYTES));
        pushed.and_then(|()| tar.finish()).context("cannot write a layer of an image")?;
        let reference = self.copy(contents.seed, LAYERS + 1).await?;
        for layer in 0..=LAYERS {
            fs::remove_file(self.layer(contents.seed, layer)).context("cannot remove a layer")?;
        }
        Ok(reference)
    }

    fn layer(&self, seed: u32, layer: u32) -> PathBuf {
        self.dir.path().join(format!("{seed}-{layer}.tar"))
    }

    async fn copy(&self, seed: u32, layers: u32) -> anyhow::Result<String> {
        let paths: Vec<_> = (0..layers).map(|layer| self.layer(seed, layer)).collect();
        let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
        let reference = format!("127.0.0.1:{}/bench:{seed}-{layers}", self.port);
        let copied = tokio::process::Command::new("skopeo")
            .args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"])
            .arg(format!("tarball:{}", paths.join(":")))
            .arg(format!("docker://{reference}"))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .context("cannot run skopeo")?;
        if !copied.status.success() {
            let reason = String::from_utf8_lossy(&copied.stderr);
            return Err(anyhow!("skopeo could not push an image: {}", reason.trim()));
        }
        Ok(reference)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn write_layer(path: &Path, contents: &Contents<'_>, layer: u32) -> io::Result<()> {
    let mut tar = Tar::create(path)?;
    if layer == 0 {
        for dir in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
            tar.directory(dir)?;
        }
        tar.file("bin/busybox", 0o755, contents.shell)?;
        tar.symlink("bin/sh", "busybox")?;
        tar.file("etc/passwd", 0o644, b"root:x:0:0::/root:/bin/sh\n")?;
    }
    let size = (u64::from(contents.size_mb) << 20) / u64::from(contents.files.max(1));
    let half = usize::try_from(size / 2).unwrap_or(usize::MAX);
    for file in (0..contents.files).filter(|file| file % LAYERS == layer) {
        let mut bytes = noise(contents.seed ^ file.wrapping_mul(0x85eb_ca6b), half);
        bytes.extend(b"the same again and again ".iter().cycle().take(half));
        let directory = file / FILES_PER_DIRECTORY;
        tar.file(&format!("data/{directory}/{file}"), 0o644, &bytes)?;
    }
    tar.finish()
}

/// Bytes that cannot be compressed.
fn noise(seed: u32, bytes: usize) -> Vec<u8> {
    let mut state = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let words = std::iter::repeat_with(next).take(bytes.div_ceil(8));
    let mut noise: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    noise.truncate(bytes);
    noise
}

struct Tar(tar::Builder<BufWriter<File>>);

impl Tar {
    fn create(path: &Path) -> io::Result<Self> {
        Ok(Self(tar::Builder::new(BufWriter::new(File::create(path)?))))
    }

    fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        let mut header = header(tar::EntryType::Regular, mode);
        header.set_size(bytes.len() as u64);
        self.0.append_data(&mut header, path, bytes)
    }

    fn directory(&mut self, path: &str) -> io::Result<()> {
        self.0.append_data(&mut header(tar::EntryType::Directory, 0o755), path, io::empty())
    }

    fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.0.append_link(&mut header(tar::EntryType::Symlink, 0o777), path, target)
    }

    fn finish(self) -> io::Result<()> {
        self.0.into_inner()?.flush()
    }
}

fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(0);
    header.set_mtime(1_000_000_000);
    header
}
