//! The tree becomes an ext4 file, by the programs of e2fsprogs.
//!
//! `mkfs.ext4` copies the tree, sorted by name; `debugfs` adds the devices; `resize2fs` takes the
//! rest back; `e2fsck` looks at the result. Settings of the host do not count: the programs get an
//! configuration of our own and a bare environment.
//!
//! Of a bake of 500 MB in 20,000 files about two thirds of the time are unpacking and hashing, the
//! rest is `mkfs.ext4` copying. That looks for room in a directory from its start for every name:
//! 100,000 files in one directory take it minutes, spread over a hundred of them seconds.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{
    inode_times,
    job::{Fault, ROOTFS, TREE},
    limits::size_cap,
    survey::{Device, Survey},
};

/// Options of the file system, which is only ever read, and whose bytes depend on the tree alone.
/// The UUID and the seed are those of the built-in images.
const OPTIONS: [&str; 9] = [
    "-q",
    "-F",
    "-b4096",
    "-I256",
    "-m0",
    "-O^has_journal,^resize_inode",
    "-Eroot_owner=0:0,hash_seed=6d3c0a52-2f5c-4f39-9d0e-5b1f7d3a9c11",
    "-U3f0e8d6b-7c55-4a7e-8a39-0c2d9b64e1f7",
    "-d",
];

const CONFIGURATION: &str = "[defaults]
base_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr
enable_periodic_fsck = 0
[fs_types]
ext4 = {
    features = extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize
}
";

/// The time of all that has none of its own: 2020-01-01.
const TIME: &str = "1577836800";

const PATH: &str = "/usr/sbin:/sbin:/usr/bin:/bin";

const BLOCK: u64 = 4096;

/// The commands that make devices, in the work directory.
const DEVICES: &str = "devices";

const MAX_OUTPUT_BYTES: u64 = 64 << 10;

/// A work directory with a finished tree.
pub struct Workshop<'a> {
    pub dir: &'a Path,
    pub size_mib: u32,
}

impl Workshop<'_> {
    /// Leaves the file system in the work directory.
    pub fn pack(&self, survey: &Survey) -> Result<(), Fault> {
        let configuration = self.path("mke2fs.conf");
        fs::write(&configuration, CONFIGURATION)
            .map_err(|error| Fault::io("write a configuration", &error))?;
        // Tables of inodes, bitmaps of each group, and room for what the survey cannot know.
        let inodes = survey.inodes + 64;
        let needed = survey.blocks + inodes / 16;
        let blocks = needed + needed / 128 + 2048;
        let needed_mib = (needed * BLOCK).div_ceil(1 << 20);
        if needed_mib > u64::from(self.size_mib) {
            return Err(self.too_small(needed_mib));
        }
        let mut mkfs = self.command("mkfs.ext4");
        mkfs.args(OPTIONS).arg(self.path(TREE)).arg(format!("-N{inodes}"));
        mkfs.arg(self.path(ROOTFS)).arg(format!("{}K", blocks * 4));
        self.run(mkfs, needed_mib)?;
        self.add_devices(&survey.devices(), needed_mib)?;
        let mut resize = self.command("resize2fs");
        resize.arg("-M").arg(self.path(ROOTFS));
        self.run(resize, needed_mib)?;
        let size = fs::metadata(self.path(ROOTFS))
            .map_err(|error| Fault::io("look at the file system", &error))?
            .len();
        if size > u64::from(self.size_mib) << 20 {
            return Err(self.too_small(size.div_ceil(1 << 20)));
        }
        inode_times::settle(&self.path(ROOTFS))
            .map_err(|error| Fault::io("settle the times of the file system", &error))?;
        let mut check = self.command("e2fsck");
        check.arg("-fn").arg(self.path(ROOTFS));
        self.run(check, needed_mib)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn too_small(&self, needed_mib: u64) -> Fault {
        size_cap(format_args!("needs about {needed_mib} MiB"), self.size_mib)
    }

    fn add_devices(&self, devices: &[&Device], needed_mib: u64) -> Result<(), Fault> {
        if devices.is_empty() {
            return Ok(());
        }
        let mut script = String::new();
        for device in devices {
            commands(device, &mut script)?;
        }
        fs::write(self.path(DEVICES), script).map_err(|error| Fault::io("list devices", &error))?;
        let mut debugfs = self.command("debugfs");
        debugfs.args(["-w", "-f", DEVICES, ROOTFS]);
        self.run(debugfs, needed_mib)
    }

    fn command(&self, program: &str) -> Command {
        let path = PATH.split(':').map(|dir| Path::new(dir).join(program));
        let path = path.into_iter().find(|path| path.is_file());
        let mut command = Command::new(path.unwrap_or_else(|| program.into()));
        command
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .env("MKE2FS_CONFIG", self.path("mke2fs.conf"))
            .env("E2FSPROGS_FAKE_TIME", TIME)
            .current_dir(self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, mut command: Command, needed_mib: u64) -> Result<(), Fault> {
        let name = command.get_program().to_string_lossy().into_owned();
        let name = name.rsplit('/').next().unwrap_or_default().to_owned();
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => Fault::internal(format_args!(
                "`{name}` is not installed: run `apt-get install e2fsprogs` as root"
            )),
            _ => Fault::io(&format!("run `{name}`"), &error),
        };
        let mut child = command.spawn().map_err(failed)?;
        let mut said = Vec::new();
        if let Some(stderr) = child.stderr.take() {
            let mut stderr = stderr.take(MAX_OUTPUT_BYTES);
            stderr.read_to_end(&mut said).map_err(failed)?;
            std::io::copy(&mut stderr.into_inner(), &mut std::io::sink()).map_err(failed)?;
        }
        let status = child.wait().map_err(failed)?;
        let said = String::from_utf8_lossy(&said);
        // debugfs goes on after a failed command; else it only says its version.
        if status.success() && (name != "debugfs" || said.lines().count() <= 1) {
            return Ok(());
        }
        let said = said.trim();
        if said.contains("No space left on device") {
            return Err(Fault::new(
                scaibunker_api::worker::ImageFaultCause::NoSpace,
                format!("no space left on the worker's disk: {name}: {said}"),
            ));
        }
        if said.contains("Memory allocation failed") || said.contains("Cannot allocate memory") {
            return Err(Fault::out_of_memory(format_args!("{name}: {said}")));
        }
        if said.contains("Could not allocate") || said.contains("too big") {
            return Err(self.too_small(needed_mib + needed_mib / 8 + 16));
        }
        Err(Fault::internal(format_args!("`{name}` failed ({status}): {said}")))
    }
}

/// debugfs has no way to write a line break.
fn quoted(path: &[u8]) -> Result<String, Fault> {
    let text = str::from_utf8(path).ok();
    let text = text.filter(|text| !text.contains(['\n', '\r', '"', '<', '>']));
    text.map(|text| format!("\"/{text}\""))
        .ok_or_else(|| Fault::refused("a device with an unusual name"))
}

fn commands(device: &Device, script: &mut String) -> Result<(), Fault> {
    use std::fmt::Write as _;
    const CHARACTER: u32 = 0o020_000;
    const BLOCK_DEVICE: u32 = 0o060_000;

    let path = quoted(&device.path)?;
    let Device { is_block, major, minor, mode, uid, gid, mtime, links, .. } = device;
    let (kind, type_bits) = if *is_block { ('b', BLOCK_DEVICE) } else { ('c', CHARACTER) };
    let (dir, name) = match path.trim_matches('"').rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((dir, name)) => (dir, name),
        None => ("/", ""),
    };
    // It makes nodes only in the directory it is in.
    let mut line = |text: std::fmt::Arguments<'_>| {
        writeln!(script, "{text}").map_err(|_| Fault::internal("cannot write a line"))
    };
    line(format_args!("cd \"{dir}\""))?;
    line(format_args!("mknod \"{name}\" {kind} {major} {minor}"))?;
    line(format_args!("cd /"))?;
    for (field, value) in [
        ("mode", format!("0{:o}", type_bits | mode)),
        ("uid", uid.to_string()),
        ("gid", gid.to_string()),
        ("mtime", format!("@{}", (*mtime).max(0))),
    ] {
        line(format_args!("set_inode_field {path} {field} {value}"))?;
    }
    for link in links {
        line(format_args!("ln {path} {}", quoted(link)?))?;
    }
    if !links.is_empty() {
        line(format_args!("set_inode_field {path} links_count {}", links.len() + 1))?;
    }
    Ok(())
}
