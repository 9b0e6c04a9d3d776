//! The helper's own side: what [`HELPER_COMMAND`](super::HELPER_COMMAND) runs.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Write as _},
    path::Path,
    process::ExitCode,
};

use super::{
    Compression,
    ext4::Workshop,
    jail::{self, WORK},
    job::{Fault, Order, ROOTFS, Report, TREE, Task},
    layer::{BytesRead, LayerStream},
    limits::{Limits, MAX_LOGICAL_BYTES, max_stream_bytes},
    survey::Survey,
    tree::{Tree, names},
    unpack::unpack,
};

/// Shares of the progress.
const UNPACKED_PERCENT: u64 = 60;
const PACKED_PERCENT: u8 = 95;

/// What is between this process and its layers.
const READ_BUFFER_BYTES: usize = 256 << 10;

/// Longest task that is read.
const MAX_TASK_BYTES: usize = 1 << 20;

/// Runs the task on standard input. Must be called before the program has other threads.
#[must_use]
pub fn helper_main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            report(&Report::Fault(fault));
            ExitCode::FAILURE
        }
    }
}

/// A parent that does not listen any more is about to end this process.
fn report(report: &Report) {
    if let Ok(mut line) = serde_json::to_vec(report) {
        line.push(b'\n');
        let _ = io::stdout().write_all(&line).and_then(|()| io::stdout().flush());
    }
}

fn run() -> Result<(), Fault> {
    let task = read_task().map_err(|error| Fault::internal(format_args!("no task: {error}")))?;
    let unshared = || {
        report(&Report::Unshared);
        Ok(())
    };
    match task {
        Task::Bake(order) => {
            let layers = open_layers(&order)?;
            jail::enter(&order.work_dir, MAX_LOGICAL_BYTES, unshared)?;
            in_child(|| bake(layers, order.size_mib))
        }
        Task::Clear(dir) => {
            jail::enter(&dir, MAX_LOGICAL_BYTES, unshared)?;
            in_child(|| clear(Path::new(WORK)))
        }
    }
}

/// Byte by byte: what comes after the line is for the jail.
fn read_task() -> io::Result<Task> {
    let mut line = Vec::new();
    let mut stdin = io::stdin().lock();
    io::Read::take(&mut stdin, MAX_TASK_BYTES as u64).read_until(b'\n', &mut line)?;
    Ok(serde_json::from_slice(&line)?)
}

struct OpenLayer {
    blob: File,
    compression: Compression,
    diff_id: Option<String>,
}

/// Before the jail, in which their paths are not.
fn open_layers(order: &Order) -> Result<Vec<OpenLayer>, Fault> {
    let open = |layer: &super::job::LayerOrder| {
        let blob = File::open(&layer.path).map_err(|error| Fault::io("open a layer", &error))?;
        let (compression, diff_id) = (layer.compression, layer.diff_id.clone());
        Ok(OpenLayer { blob, compression, diff_id })
    };
    order.layers.iter().map(open).collect()
}

/// Runs the rest as the first process of the new pid namespace and passes its end on.
fn in_child(work: impl FnOnce() -> Result<(), Fault>) -> Result<(), Fault> {
    // SAFETY: this process has a single thread, so the child may do all that it could.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(Fault::io("fork", &io::Error::last_os_error())),
        0 => {
            let result = jail::die_with_parent().and_then(|()| work());
            let code = match result {
                Ok(()) => {
                    report(&Report::Done);
                    0
                }
                Err(fault) => {
                    report(&Report::Fault(fault));
                    1
                }
            };
            std::process::exit(code)
        }
        pid => {
            let mut status = 0;
            // SAFETY: `status` outlives the call.
            while unsafe { libc::waitpid(pid, &raw mut status, 0) } == -1 {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(Fault::io("wait for its child", &error));
                }
            }
            if libc::WIFSIGNALED(status) {
                let signal = libc::WTERMSIG(status);
                return Err(Fault::internal(format_args!("the bake was ended by signal {signal}")));
            }
            // It has said why.
            Ok(())
        }
    }
}

fn bake(layers: Vec<OpenLayer>, size_mib: u32) -> Result<(), Fault> {
    let work = Path::new(WORK);
    let tree_path = work.join(TREE);
    fs::create_dir(&tree_path).map_err(|error| Fault::io("make the tree", &error))?;
    let tree = unpack_all(layers, &tree_path, size_mib)?;
    let survey = Survey::of(&tree)?;
    drop(tree);
    Workshop { dir: work, size_mib }.pack(&survey)?;
    report(&Report::Progress(PACKED_PERCENT));
    Ok(())
}

fn unpack_all(layers: Vec<OpenLayer>, tree_path: &Path, size_mib: u32) -> Result<Tree, Fault> {
    let mut tree = Tree::open(tree_path).map_err(|error| Fault::io("open the tree", &error))?;
    set_root_mode(&tree)?;
    let sizes = layers.iter().map(|layer| layer.blob.metadata().map_or(0, |found| found.len()));
    let total = sizes.sum::<u64>().max(1);
    let read = BytesRead::default();
    let mut told = 0;
    let mut tick = || {
        let percent = read.get() * UNPACKED_PERCENT / total;
        if percent > told {
            told = percent;
            report(&Report::Progress(percent.min(UNPACKED_PERCENT) as u8));
        }
    };
    let mut limits = Limits::new(size_mib);
    let mut stream_left = max_stream_bytes(size_mib);
    for OpenLayer { blob, compression, diff_id } in layers {
        let mut stream = LayerStream::open(blob, compression, read.clone(), &mut stream_left)
            .map_err(|error| Fault::io("open a layer", &error))?;
        let buffered = BufReader::with_capacity(READ_BUFFER_BYTES, &mut stream);
        unpack(buffered, &mut tree, &mut limits, &mut tick)?;
        if let Some(diff_id) = diff_id {
            stream.verify(&diff_id)?;
        }
    }
    Ok(tree)
}

/// What it is unless a layer says another, whatever the umask.
fn set_root_mode(tree: &Tree) -> Result<(), Fault> {
    let mode = rustix::fs::Mode::from_raw_mode(0o755);
    rustix::fs::fchmod(tree.root(), mode)
        .map_err(|error| Fault::io("set the root's mode", &error.into()))
}

/// Leaves what belongs to the server itself.
fn clear(work: &Path) -> Result<(), Fault> {
    let mut tree = Tree::open(work).map_err(|error| Fault::io("open a work directory", &error))?;
    let dir = tree.root().try_clone_to_owned();
    let dir = dir.map_err(|error| Fault::io("copy a descriptor", &error))?;
    for name in names(&dir)? {
        if name == TREE.as_bytes() || name == ROOTFS.as_bytes() {
            tree.remove(std::os::fd::AsFd::as_fd(&dir), &name)?;
        }
    }
    Ok(())
}
