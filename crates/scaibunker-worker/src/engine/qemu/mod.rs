//! QEMU's `microvm` machine: kvm where it really works, else tcg.

mod backup;
mod command;
mod cpu_class;
mod probe;
mod qmp;
mod tsc;

use std::{
    ffi::CString,
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::{ffi::OsStrExt, fs::chown},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

pub use self::probe::{Verdict, probe_shape, remembered, version};
use self::{
    command::{PassedFile, Role, arguments},
    qmp::Qmp,
};
use super::{
    AGENT_SOCKET, Capture, Engine, EngineError, MicroVm, SavedVm, Shape, Template, memory,
};
use crate::{
    assets::{BakedImage, Kernel},
    gpus::GpuLease,
    jail::{self, JailSpec, JailedProcess, Privilege},
    scratch::ScratchDisk,
    seat::Seat,
    vm_home::VmHome,
};

const QMP_SOCKET: &str = "qmp.sock";

/// Beyond those of the disks.
const STATE_FD_SET: u32 = 1_001;

const VFIO: &str = "/dev/vfio/vfio";
/// A device for each IOMMU group.
const VFIO_GROUPS: &str = "/dev/vfio";
/// Memory besides the guest's that devices are given to see: their own, mapped into the VMM.
const LOCKED_OVERHEAD_MB: u32 = 256;

/// QEMU answers some 40 ms after its start; a loaded host takes longer.
const START_LIMIT: Duration = Duration::from_secs(30);
const MIGRATE_LIMIT: Duration = Duration::from_secs(20);
/// QEMU has no event for the end of a fast load that is cheaper than asking.
const POLL_INTERVAL: Duration = Duration::from_micros(500);

/// How guest code is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accelerator {
    Kvm,
    Tcg,
}

impl Accelerator {
    /// As it appears to operators.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// The engine; cheap to share.
#[derive(Debug)]
pub struct Qemu {
    pub program: PathBuf,
    pub version: String,
    pub accelerator: Accelerator,
    pub kernel: Kernel,
    /// Empty directory for the jails' roots.
    pub jail_root: PathBuf,
}

fn io_failed(what: &'static str) -> impl FnOnce(io::Error) -> EngineError {
    move |source| EngineError::Io { what, source }
}

impl Qemu {
    /// Starts a VMM in its jail, listening on both sockets.
    async fn spawn(
        &self,
        shape: &Shape,
        image: &BakedImage,
        memory: OwnedFd,
        role: Role,
        seat: &mut Seat,
        scratch: ScratchDisk,
    ) -> Result<QemuVm, EngineError> {
        let open =
            |path: &PathBuf, what| File::open(path).map(OwnedFd::from).map_err(io_failed(what));
        let mut files = vec![
            seat.home.listen(QMP_SOCKET).map_err(io_failed("listen for the control connection"))?,
            seat.home.listen(AGENT_SOCKET).map_err(io_failed("listen for the agent"))?,
            memory,
            open(&image.path, "open the image")?,
            scratch.file.into(),
            open(&self.kernel.vmlinux, "open the kernel")?,
            open(&self.kernel.initramfs, "open the initramfs")?,
        ];
        if let Some(network) = &mut seat.network {
            files.extend(network.take_taps());
        }
        let is_layered = scratch.below.is_some();
        files.extend(scratch.below.map(OwnedFd::from));
        let name = format!("scaibunker-{}", seat.home.name());
        let nul = |e: std::ffi::NulError| io_failed("build the command line")(e.into());
        let mut devices = match self.accelerator {
            Accelerator::Kvm => vec![PathBuf::from("/dev/kvm")],
            Accelerator::Tcg => Vec::new(),
        };
        let gpus = seat.gpus.as_ref().map_or(&[][..], GpuLease::devices);
        let privilege = if rustix::process::geteuid().is_root() {
            Privilege::OwnUid(jail::FIRST_UID + seat.uid.number())
        } else {
            Privilege::UserNamespace
        };
        if !gpus.is_empty() {
            devices.push(VFIO.into());
        }
        for gpu in gpus {
            let node = Path::new(VFIO_GROUPS).join(gpu.group.to_string());
            if let Privilege::OwnUid(uid) = privilege {
                // Other VMMs do not see it: no jail shows what is not its own.
                chown(&node, Some(uid), None).map_err(io_failed("give the VMM its GPU"))?;
            }
            devices.push(node);
        }
        let shown = gpus.iter().map(|gpu| gpu.sysfs.clone());
        // Devices write into the guest's memory, all of which has to stay where it is.
        let locked_mb = if gpus.is_empty() { 0 } else { shape.memory_mb + LOCKED_OVERHEAD_MB };
        let spec = JailSpec {
            program: CString::new(self.program.as_os_str().as_bytes()).map_err(nul)?,
            args: arguments(&name, shape, self.accelerator, role, is_layered, gpus).map_err(nul)?,
            privilege,
            root: self.jail_root.clone(),
            visible: [
                self.program.as_path(),
                "/usr/lib".as_ref(),
                "/lib".as_ref(),
                "/lib64".as_ref(),
                "/etc/ld.so.cache".as_ref(),
                "/usr/share/qemu".as_ref(),
                "/usr/share/seabios".as_ref(),
            ]
            .map(PathBuf::from)
            .into_iter()
            .chain(shown)
            .collect(),
            devices,
            files,
            stderr: seat.home.stderr().map_err(io_failed("open the VMM's log"))?.into(),
            cgroup: seat.cgroup.as_ref(),
            max_file_bytes: scratch.max_bytes,
            max_locked_bytes: u64::from(locked_mb) << 20,
        };
        let home = &mut seat.home;
        let process =
            tokio::task::block_in_place(|| jail::spawn(spec, |pid| home.set_process(pid)))?;
        QemuVm::control(&seat.home, process).await
    }
}

#[async_trait]
impl Engine for Qemu {
    fn describe(&self) -> String {
        format!("qemu {} ({})", self.version, self.accelerator.as_str())
    }

    fn cpu_class(&self) -> String {
        cpu_class::of_host(self.accelerator)
    }

    async fn boot(
        &self,
        shape: &Shape,
        image: &BakedImage,
        seat: &mut Seat,
        scratch: ScratchDisk,
    ) -> Result<Box<dyn MicroVm>, EngineError> {
        let memory = memory::create(u64::from(shape.memory_mb) << 20);
        let memory = memory.map_err(io_failed("make the memory file"))?;
        let kept = memory.try_clone().map_err(io_failed("copy a descriptor"))?;
        let mut vm = self.spawn(shape, image, memory, Role::Template, seat, scratch).await?;
        vm.memory = Some(kept);
        Ok(Box::new(vm))
    }

    async fn spawn_clone(
        &self,
        template: &Arc<Template>,
        seat: &mut Seat,
        scratch: ScratchDisk,
    ) -> Result<Box<dyn MicroVm>, EngineError> {
        let memory = template.saved.memory.try_clone().map_err(io_failed("copy a descriptor"))?;
        let (shape, image) = (&template.shape, &template.image);
        let vm = self.spawn(shape, image, memory, Role::Clone, seat, scratch).await?;
        Ok(Box::new(vm))
    }

    async fn adopt(
        &self,
        home: &VmHome,
        process: JailedProcess,
    ) -> Result<Box<dyn MicroVm>, EngineError> {
        process.thaw().map_err(io_failed("let the VMM go on"))?;
        let mut vm = QemuVm::control(home, process).await?;
        // Nobody waits any more for what an earlier server had begun.
        backup::clear(&mut vm.qmp).await;
        Ok(Box::new(vm))
    }
}

/// One QEMU process.
#[derive(Debug)]
struct QemuVm {
    process: JailedProcess,
    qmp: Qmp,
    /// Of a booted VM, whose memory others can continue from.
    memory: Option<OwnedFd>,
}

impl QemuVm {
    /// Connects to the control socket. QEMU listens on it for as long as it lives, and takes a
    /// new connection once the last one has gone, such as that of an earlier server.
    async fn control(home: &VmHome, process: JailedProcess) -> Result<Self, EngineError> {
        let connect = async {
            let stream = home.connect(QMP_SOCKET).await.map_err(io_failed("reach the VMM"))?;
            Qmp::connect(stream).await
        };
        // A VMM that fails at its start closes the socket; its own words say why.
        match timeout(START_LIMIT, connect).await {
            Ok(Ok(qmp)) => Ok(Self { process, qmp, memory: None }),
            _ => {
                process.kill();
                let reason = process.ended().await.unwrap_or_else(|e| e.to_string());
                Err(EngineError::Ended { reason, stderr: home.stderr_tail() })
            }
        }
    }

    /// The guest's clocks stand still from here on.
    async fn stop_cpus(&mut self) -> Result<(), EngineError> {
        self.qmp.execute("stop", json!({})).await.map(drop)
    }

    /// The state of all devices. The guest stands still, and its disks stay its own.
    async fn save_devices(&mut self) -> Result<File, EngineError> {
        let state = tempfile::tempfile().map_err(io_failed("make the state file"))?;
        // QEMU opens a descriptor for writing alone, and takes no other.
        let path = format!("/proc/self/fd/{}", state.as_raw_fd());
        let write_only = OpenOptions::new().write(true).open(path);
        let write_only = write_only.map_err(io_failed("open the state file"))?;
        let qmp = &mut self.qmp;
        qmp.add_fd(STATE_FD_SET, write_only.as_fd()).await?;
        let filename = format!("/dev/fdset/{STATE_FD_SET}");
        // `migrate` would write the memory too, of a VM whose memory is not shared with a file.
        let args = json!({ "filename": filename, "live": false });
        let saved = qmp.execute("xen-save-devices-state", args).await;
        let _ = qmp.execute("remove-fd", json!({ "fdset-id": STATE_FD_SET })).await;
        saved.map(|_| state)
    }
}

async fn on_own_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, EngineError> {
    let done = tokio::task::spawn_blocking(work).await.map_err(io::Error::from);
    done.and_then(|done| done).map_err(io_failed("copy the guest's memory"))
}

fn migrate_timeout(what: &'static str) -> EngineError {
    EngineError::Timeout { what, limit_s: MIGRATE_LIMIT.as_secs(), hint: String::new() }
}

#[async_trait]
impl MicroVm for QemuVm {
    async fn restore(&mut self, template: &Template) -> Result<(), EngineError> {
        // A descriptor of its own, because a shared one shares its position with the siblings.
        let path = format!("/proc/self/fd/{}", template.saved.state.as_raw_fd());
        let state = File::open(path).map_err(io_failed("open the saved state"))?;
        let qmp = &mut self.qmp;
        qmp.pass_fd("state", state.as_fd()).await?;
        qmp.execute("migrate-incoming", json!({ "uri": "fd:state" })).await?;
        let deadline = Instant::now() + MIGRATE_LIMIT;
        loop {
            let answer = qmp.execute("query-status", json!({})).await?;
            if answer["status"] != "inmigrate" {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(migrate_timeout("load the state"));
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    async fn resume(&mut self) -> Result<(), EngineError> {
        self.process.thaw().map_err(io_failed("let the VMM go on"))?;
        self.qmp.execute("cont", json!({})).await.map(drop)
    }

    async fn pause(&mut self) -> Result<(), EngineError> {
        self.process.thaw().map_err(io_failed("let the VMM go on"))?;
        self.stop_cpus().await?;
        // The main loop of a stopped VM waits for a timer on the guest's clock, which never
        // comes: it wakes up a thousand times a second, or without a pause.
        self.process.freeze().map_err(io_failed("stop the VMM"))
    }

    async fn begin_disk_copy(&mut self, target: &File) -> Result<(), EngineError> {
        backup::begin(&mut self.qmp, target).await
    }

    async fn finish_disk_copy(&mut self) -> Result<(), EngineError> {
        backup::finish(&mut self.qmp).await
    }

    async fn capture(&mut self) -> Result<Capture, EngineError> {
        let base = self.process.descriptor(PassedFile::Memory.number());
        let base = Arc::new(base.map_err(io_failed("find the guest's memory"))?);
        let copying = Arc::clone(&base);
        let copy = on_own_thread(move || memory::copy_base(&copying)).await?;
        self.process.thaw().map_err(io_failed("let the VMM go on"))?;
        self.stop_cpus().await?;
        let stopped_at = Instant::now();
        let state = self.save_devices().await?;
        // Nothing that arrives for the guest now may get into its memory, of which the devices know nothing.
        self.process.freeze().map_err(io_failed("stop the VMM"))?;
        let pid = self.process.pid();
        let memory = on_own_thread(move || {
            memory::copy_own_pages(pid, &base, &copy)?;
            memory::seal(&copy)?;
            Ok(copy)
        });
        let memory = memory.await;
        self.process.thaw().map_err(io_failed("let the VMM go on"))?;
        let saved = SavedVm { memory: memory?, state };
        Ok(Capture { saved, stopped_at: stopped_at.into_std() })
    }

    async fn save(mut self: Box<Self>) -> Result<SavedVm, EngineError> {
        let cannot = || EngineError::Protocol("a clone's memory cannot be saved".to_owned());
        let memory = self.memory.take().ok_or_else(cannot)?;
        self.stop_cpus().await?;
        let state = self.save_devices().await?;
        // As in `capture`.
        self.process.freeze().map_err(io_failed("stop the VMM"))?;
        // The VMM's writable mapping must be gone before the memory can be sealed.
        drop(self);
        memory::seal(&memory).map_err(io_failed("seal the template's memory"))?;
        Ok(SavedVm { memory, state })
    }

    fn into_process(self: Box<Self>) -> JailedProcess {
        self.process
    }

    fn tap(&self) -> io::Result<OwnedFd> {
        self.process.descriptor(PassedFile::Tap.number())
    }

    fn process(&self) -> &JailedProcess {
        &self.process
    }
}
