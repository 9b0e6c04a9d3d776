//! Starts the helper, bounds it, and judges what it says.
//!
//! One thread does it all, blocking, from making the work directory to removing it. The future
//! only listens to it; dropped, it kills the helper, and the thread then cleans up.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, chown},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::sync::mpsc;

use super::{
    BakeError, BakeJob, Baked, HELPER_COMMAND, idmap,
    job::{Fault, LayerOrder, MAPPED, MAX_LINE_BYTES, Order, ROOTFS, Report, TREE, Task},
    limits::{MEMORY_BYTES, TIME_LIMIT},
    measure,
};
use crate::jail::{Cgroup, CgroupLimits, CgroupRoot, CpuPriority};

const STDERR_TAIL_BYTES: u64 = 2048;

/// Of a message that is shown to people.
const MAX_MESSAGE_CHARS: usize = 1000;

/// The helper's processes and threads.
const MAX_TASKS: u32 = 64;

/// All cores, behind everybody else.
const CPU_MILLICORES: u32 = 64_000;

fn failed(what: &'static str) -> impl Fn(io::Error) -> BakeError {
    move |source| BakeError::Io { what, source }
}

/// Bakes the layers. Dropping the future ends the helper at once; the work directory is gone a
/// moment later.
pub async fn bake(job: BakeJob<'_>) -> Result<Baked, BakeError> {
    let bench = Bench {
        order: Order {
            layers: job
                .layers
                .iter()
                .map(|layer| LayerOrder {
                    path: layer.path.to_owned(),
                    compression: layer.compression,
                    diff_id: layer.diff_id.map(ToOwned::to_owned),
                })
                .collect(),
            size_mib: job.size_mib,
            work_dir: job.work_dir.to_owned(),
        },
        result: job.result.to_owned(),
        program: job.program.to_owned(),
        cgroups: job.cgroups.cloned(),
        lifeline: Lifeline::default(),
    };
    let (sender, mut reports) = mpsc::channel(16);
    let end = EndOnDrop(bench.lifeline.clone());
    let work = tokio::task::spawn_blocking(move || bench.run(&sender));
    let listen = async {
        let mut told = None;
        while let Some(percent) = reports.recv().await {
            if told.is_none_or(|told| told < percent) {
                told = Some(percent);
                (job.progress)(percent);
            }
        }
        work.await
    };
    let result = tokio::time::timeout(TIME_LIMIT, listen).await;
    drop(end);
    match result {
        Err(_) => Err(BakeError::Timeout { limit_s: TIME_LIMIT.as_secs() }),
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(BakeError::Helper(format!("was lost: {error}"))),
    }
}

/// Removes the work directory of a bake that a killed server left. An ordinary user cannot do it
/// without the helper, because the files belong to other ids.
pub async fn clear(program: &Path, work_dir: &Path) -> Result<(), BakeError> {
    let (program, work_dir) = (program.to_owned(), work_dir.to_owned());
    let work = tokio::task::spawn_blocking(move || remove(&program, &work_dir));
    work.await.map_err(|error| BakeError::Helper(format!("was lost: {error}")))?
}

/// The running helper, for whoever wants to end it.
#[derive(Debug, Default, Clone)]
struct Lifeline(Arc<Mutex<Life>>);

#[derive(Debug, Default)]
enum Life {
    #[default]
    NotStarted,
    Runs(std::os::fd::OwnedFd),
    Ended,
}

impl Lifeline {
    /// Also what has not started yet never will.
    fn end(&self) {
        let mut life = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Life::Runs(pidfd) = &*life {
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
        *life = Life::Ended;
    }

    fn start(&self, command: &mut Command) -> io::Result<Child> {
        let mut life = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*life, Life::Ended) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let mut child = command.spawn()?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        match pid.map(|pid| pidfd_open(pid, PidfdFlags::empty())) {
            Some(Ok(pidfd)) => *life = Life::Runs(pidfd),
            _ => {
                child.kill()?;
                child.wait()?;
                return Err(io::Error::last_os_error());
            }
        }
        Ok(child)
    }
}

struct EndOnDrop(Lifeline);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// One bake, in the thread that does it.
struct Bench {
    order: Order,
    result: PathBuf,
    program: PathBuf,
    cgroups: Option<CgroupRoot>,
    lifeline: Lifeline,
}

impl Bench {
    fn run(self, reports: &mpsc::Sender<u8>) -> Result<Baked, BakeError> {
        let Self { order, result, program, cgroups, lifeline } = self;
        let work_dir = order.work_dir.clone();
        let max_bytes = u64::from(order.size_mib) << 20;
        make_work_dir(&work_dir).map_err(failed("make a work directory"))?;
        let cgroup = cgroup(cgroups.as_ref(), &work_dir);
        let baked = run_helper(&program, &Task::Bake(order), cgroup.as_ref(), &lifeline, reports)
            .and_then(|()| {
                let _ = reports.blocking_send(98);
                measure::take(&work_dir.join(ROOTFS), &result, max_bytes)
                    .map_err(failed("take the file system over"))
            });
        drop(cgroup);
        let removed = remove(&program, &work_dir);
        if let Err(error) = &removed {
            tracing::warn!(path = %work_dir.display(), %error, "cannot remove a work directory");
        }
        baked
    }
}

/// For the helper's root alone.
fn make_work_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)?;
    if rustix::process::geteuid().is_root() {
        chown(path, Some(idmap::FIRST_ID), Some(idmap::FIRST_ID))?;
    }
    Ok(())
}

/// A host that lets nobody make groups still has the limits of each process.
fn cgroup(root: Option<&CgroupRoot>, work_dir: &Path) -> Option<Cgroup> {
    let name = format!("bake-{}-{}", std::process::id(), work_dir.file_name()?.to_string_lossy());
    let limits = CgroupLimits {
        cpu_millicores: CPU_MILLICORES,
        cpu_priority: CpuPriority::Background,
        memory_bytes: MEMORY_BYTES,
        max_tasks: MAX_TASKS,
    };
    let made = Cgroup::create(root?, &name).and_then(|group| group.limit(limits).map(|()| group));
    made.inspect_err(|error| tracing::warn!(%error, "a bake runs without a cgroup")).ok()
}

fn run_helper(
    program: &Path,
    task: &Task,
    cgroup: Option<&Cgroup>,
    lifeline: &Lifeline,
    reports: &mpsc::Sender<u8>,
) -> Result<(), BakeError> {
    let mut stderr = tempfile::tempfile().map_err(failed("make a temporary file"))?;
    let copy = stderr.try_clone().map_err(failed("make a temporary file"))?;
    let mut command = Command::new(program);
    command
        .arg(HELPER_COMMAND)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(copy);
    let mut child = lifeline.start(&mut command).map_err(failed("start the bake's helper"))?;
    let verdict = match (child.stdin.take(), child.stdout.take()) {
        (Some(stdin), Some(stdout)) => listen(&child, stdin, stdout, task, cgroup, reports),
        _ => Err(BakeError::Helper("has no pipes".to_owned())),
    };
    // One that was not heard out does not go on.
    lifeline.end();
    let status = child.wait().map_err(failed("wait for the bake's helper"))?;
    if cgroup.is_some_and(Cgroup::was_oom_killed) {
        return Err(fault(Fault::out_of_memory(format_args!(
            "the bake needs more than {} MiB",
            MEMORY_BYTES >> 20
        ))));
    }
    match verdict {
        Ok(true) => Ok(()),
        Err(error) => Err(error),
        Ok(false) => {
            let said = tail(&mut stderr);
            if said.contains("memory allocation of") {
                return Err(fault(Fault::out_of_memory("the layers need too much to be unpacked")));
            }
            Err(BakeError::Helper(format!("ended without a result ({status}): {said}")))
        }
    }
}

/// Gives whether the helper says that it is done.
fn listen(
    child: &Child,
    mut stdin: ChildStdin,
    stdout: ChildStdout,
    task: &Task,
    cgroup: Option<&Cgroup>,
    reports: &mpsc::Sender<u8>,
) -> Result<bool, BakeError> {
    if let Some(cgroup) = cgroup {
        let files = cgroup.procs_files().map_err(|error| BakeError::Helper(error.to_string()))?;
        for mut file in files {
            file.write_all(child.id().to_string().as_bytes())
                .map_err(failed("put the bake's helper into its cgroup"))?;
        }
    }
    let mut task =
        serde_json::to_vec(task).map_err(|error| failed("write a task")(error.into()))?;
    task.push(b'\n');
    stdin.write_all(&task).map_err(failed("give the bake's helper its task"))?;
    let mut lines = BufReader::new(stdout);
    let mut is_mapped = false;
    while let Some(report) = next_report(&mut lines)? {
        match report {
            Report::Unshared if !is_mapped => {
                is_mapped = true;
                idmap::map(child.id()).map_err(failed("map the ids of the bake's helper"))?;
                stdin.write_all(&[MAPPED]).map_err(failed("let the bake's helper go on"))?;
            }
            // Nobody waits for one that comes too fast.
            Report::Progress(percent) => drop(reports.try_send(percent.min(99))),
            Report::Fault(told) => return Err(fault(told)),
            Report::Done => return Ok(true),
            Report::Unshared => return Err(BakeError::Helper("repeats itself".to_owned())),
        }
    }
    Ok(false)
}

fn next_report(lines: &mut BufReader<ChildStdout>) -> Result<Option<Report>, BakeError> {
    let mut line = Vec::new();
    lines
        .by_ref()
        .take(MAX_LINE_BYTES)
        .read_until(b'\n', &mut line)
        .map_err(failed("listen to the bake's helper"))?;
    if line.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&line)
        .map(Some)
        .map_err(|_| BakeError::Helper("says what cannot be understood".to_owned()))
}

fn fault(told: Fault) -> BakeError {
    let message = told.message.chars().take(MAX_MESSAGE_CHARS);
    let message = message.map(|char| if char.is_control() { ' ' } else { char }).collect();
    BakeError::Fault { cause: told.cause, message }
}

fn tail(file: &mut File) -> String {
    let length = file.seek(io::SeekFrom::End(0)).unwrap_or(0);
    let mut bytes = Vec::new();
    let from = io::SeekFrom::Start(length.saturating_sub(STDERR_TAIL_BYTES));
    let read = file.seek(from).and_then(|_| file.take(STDERR_TAIL_BYTES).read_to_end(&mut bytes));
    match read {
        Ok(_) => String::from_utf8_lossy(&bytes).trim().to_owned(),
        Err(_) => String::new(),
    }
}

/// Root may remove everything; an ordinary user's helper first removes what is not his.
fn remove(program: &Path, work_dir: &Path) -> Result<(), BakeError> {
    let is_gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    if !rustix::process::geteuid().is_root() && work_dir.join(TREE).exists() {
        let task = Task::Clear(work_dir.to_owned());
        let (sender, _) = mpsc::channel(1);
        run_helper(program, &task, None, &Lifeline::default(), &sender)?;
    }
    match fs::remove_dir_all(work_dir) {
        Err(error) if !is_gone(&error) => Err(failed("remove a work directory")(error)),
        _ => Ok(()),
    }
}
