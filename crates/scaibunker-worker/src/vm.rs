//! One microVM with everything the host has set aside for it.
//!
//! ```text
//! spawn ─▶ restore (unique, running) ──────────────────────────────▶ claim: a bunker's
//!                └─▶ rest (warm, standing still, in the pool) ─▶┘     │ ▲
//!                                                               pause ▼ │ resume
//!                                                               standing still
//! ```
//!
//! Dropping a [`Vm`] at any stage kills the VMM and frees its cgroup, directory and uid, in that
//! order.

mod copy;

use std::{
    fs::OpenOptions,
    io,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use scaibunker_api::{bunker::NetworkProfile, ids::BunkerId};
use scaibunker_guest_protocol::identity::{ENTROPY_BYTES, Identity, Prepare, SetClock};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

pub use self::copy::{Copied, Moment};
use crate::{
    assets::BakedImage,
    channel::{ChannelError, GuestChannel},
    engine::{DiskStart, Engine, EngineError, MicroVm, Nics, Shape, Template},
    gpus::Gpus,
    guest_log,
    jail::{Cgroup, CgroupLimits, CgroupRoot, CpuPriority, JailError, JailedProcess},
    network::{NetworkError, Networks, VmNetwork},
    pool::Restore,
    scratch::{DEVICE_BYTES, ScratchDisks, ScratchError},
    seat::{Seat, SeatError, UidSlots},
    snapshots::{self, Parts, RestoreError},
    vitals::Vitals,
    vm_home::{Claim, Pause, VmHome},
};

/// A guest confirms its identity in milliseconds; one that takes this long is given up.
const CONFIRM_LIMIT: Duration = Duration::from_secs(20);

/// Commands stop within milliseconds.
const HOLD_LIMIT: Duration = Duration::from_secs(2);

/// A template boots in 1–3 s and warms up for a few more; a loaded host takes longer.
const BOOT_LIMIT: Duration = Duration::from_secs(90);

/// Run in a VM that goes to the pool: a shell, and a program looked up in PATH. An image without
/// them is as well off, because looking them up is what most of the code is for.
const REST_COMMANDS: [&[&str]; 2] = [&["sh", "-c", "true"], &["echo", "ready"]];

/// Memory a VMM needs beside the guest's: its own code and data, translated code, page tables.
const VMM_OVERHEAD_MB: u32 = 192;

/// A VMM has a handful of threads, and up to 64 more while its disks are busy.
const MAX_VMM_TASKS: u32 = 128;

/// CPU a VM may use while it is made; the bunker's own share is set when it is claimed.
const PREPARING_CPU_MILLICORES: u32 = 2_000;

/// A microVM could not be made or claimed; everything of it has been freed.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    #[error(transparent)]
    Seat(#[from] SeatError),
    #[error(transparent)]
    Jail(#[from] JailError),
    #[error("the guest did not confirm its identity")]
    Guest(#[from] ChannelError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error("the worker cannot make networks; its log says why")]
    NoNetworks,
    #[error(
        "the bunker was made by an earlier version, whose disks cannot be copied while it runs"
    )]
    OldDisk,
    #[error("a bunker with GPUs cannot be copied: what is in a device is out of reach")]
    HasGpus,
    #[error("the guest did not hold its commands")]
    Hold(#[source] ChannelError),
    #[error("the guest did not hold its file system still")]
    Freeze(#[source] ChannelError),
    #[error("the VMM could not copy the disk")]
    Copy(#[source] EngineError),
    #[error(transparent)]
    Restore(#[from] RestoreError),
    #[error("the worker has the image no more")]
    NoImage,
    #[error("the worker has no {0} GPUs free")]
    NoGpus(u32),
    #[error("cannot {what}")]
    Io { what: &'static str, source: io::Error },
}

fn io_failed(what: &'static str) -> impl FnOnce(io::Error) -> VmError {
    move |source| VmError::Io { what, source }
}

/// What all microVMs of a host share.
pub struct Host {
    pub engine: Arc<dyn Engine>,
    pub disks: ScratchDisks,
    pub vms_dir: PathBuf,
    /// `None` where this user may not make any: limits are then the guest's own only.
    pub cgroups: Option<CgroupRoot>,
    pub uid_slots: Arc<UidSlots>,
    pub gpus: Arc<Gpus>,
    /// `None` where none can be made.
    pub networks: Option<Arc<Networks>>,
}

/// What a guest was before a bunker claims its VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Past {
    /// Nobody's: it is fresh from a template.
    None,
    /// This bunker's own.
    Own,
    /// Another bunker's, of which this one is a copy.
    Anothers,
}

/// A microVM at any stage. The fields' order is the order in which they are freed.
pub struct Vm {
    channel: Option<GuestChannel>,
    /// Follows the agent's log. It holds the session open as well, so it ends with the VM.
    log: Option<AbortOnDropHandle<()>>,
    /// The bunker that the agent's log lines are about.
    log_owner: guest_log::Owner,
    machine: Box<dyn MicroVm>,
    seat: Seat,
    networks: Option<Arc<Networks>>,
}

impl Host {
    /// Boots a VM of that shape, mounts its disks, runs the image's warm-up, and keeps it.
    pub async fn boot_template(
        &self,
        shape: &Shape,
        image: &BakedImage,
    ) -> Result<Template, VmError> {
        let mut seat = self.seat(shape, CpuPriority::Normal)?;
        let scratch = self.disks.create(&seat.home.scratch_path(), shape.disk_mb).await?;
        let disk = scratch.file.try_clone().map_err(io_failed("copy a descriptor"))?;
        let machine = self.engine.boot(shape, image, &mut seat, scratch).await?;
        let channel = GuestChannel::connect(&seat.home, BOOT_LIMIT).await?;
        if shape.disk == DiskStart::Fresh {
            let identity = fresh_identity("template".to_owned())?;
            let prepare = Prepare { identity, warm_up: image.config.warm_up.clone() };
            channel.post("/prepare", &prepare, "", BOOT_LIMIT).await?;
        } else {
            // A session that was saved in the middle of its handshake would take the clone's for the rest
            // of it.
            let clock = SetClock { unix_time_ns: unix_time_ns()? };
            channel.post("/clock", &clock, "", CONFIRM_LIMIT).await?;
        }
        drop(channel);
        let saved = machine.save().await?;
        Ok(Template { shape: shape.clone(), image: image.clone(), saved, scratch: disk })
    }

    /// Starts a VMM for a clone of `template`, with a copy of its disk.
    pub async fn spawn(
        &self,
        template: &Arc<Template>,
        priority: CpuPriority,
    ) -> Result<Vm, VmError> {
        let shape = &template.shape;
        let mut seat = self.seat(shape, priority)?;
        let path = seat.home.scratch_path();
        let scratch = self.disks.copy(&template.scratch, &path, shape.disk_mb).await?;
        let machine = self.engine.spawn_clone(template, &mut seat, scratch).await?;
        Ok(self.vm(machine, seat))
    }

    /// Starts a VMM for a copy of a bunker, whose disk it reads until it writes on its own.
    pub async fn spawn_copy(&self, moment: &Arc<Template>) -> Result<Vm, VmError> {
        let shape = &moment.shape;
        let mut seat = self.seat(shape, CpuPriority::Normal)?;
        let scratch =
            self.disks.above(&moment.scratch, &seat.home.scratch_path(), shape.disk_mb)?;
        let machine = self.engine.spawn_clone(moment, &mut seat, scratch).await?;
        Ok(self.vm(machine, seat))
    }

    /// Boots a VM that has GPUs. It is no clone: what a real device holds is in no template.
    pub async fn boot_with_gpus(
        &self,
        shape: &Shape,
        image: &BakedImage,
        count: u32,
    ) -> Result<Vm, VmError> {
        let gpus = self.gpus.take(count).ok_or(VmError::NoGpus(count))?;
        let mut seat = self.seat(shape, CpuPriority::Normal)?;
        seat.give_gpus(gpus)?;
        let scratch = self.disks.create(&seat.home.scratch_path(), shape.disk_mb).await?;
        let machine = self.engine.boot(shape, image, &mut seat, scratch).await?;
        let mut vm = self.vm(machine, seat);
        let prepared = async {
            vm.connect(BOOT_LIMIT).await?;
            vm.prepare().await
        };
        let prepared = prepared.await;
        vm.unless_failed(prepared).await
    }

    fn seat(&self, shape: &Shape, priority: CpuPriority) -> Result<Seat, VmError> {
        let mut seat = Seat::take(&self.vms_dir, self.cgroups.as_ref(), &self.uid_slots)?;
        if shape.nics != Nics::None {
            let _ = self.networks.as_ref().ok_or(VmError::NoNetworks)?;
            let number = seat.uid.number();
            let made = tokio::task::block_in_place(|| VmNetwork::create(number, shape.nics));
            seat.network = Some(made?);
        }
        if let Some(cgroup) = &seat.cgroup {
            cgroup.limit(limits(PREPARING_CPU_MILLICORES, shape.memory_mb, priority))?;
        }
        Ok(seat)
    }

    fn vm(&self, machine: Box<dyn MicroVm>, seat: Seat) -> Vm {
        let networks = self.networks.clone();
        Vm { channel: None, log: None, log_owner: Arc::default(), machine, seat, networks }
    }

    /// Takes over a VM of an earlier server, and makes it run or stand still as its record says.
    /// The agent of one that runs must answer.
    pub async fn adopt(&self, home: VmHome, process: JailedProcess) -> Result<Vm, VmError> {
        let uid = self.uid_slots.take_again(home.record().uid_slot);
        let cgroup = self.cgroups.as_ref().map(|root| Cgroup::open(root, &home.name()));
        let held = &home.record().gpus;
        let gpus = (!held.is_empty()).then(|| self.gpus.take_again(held));
        let seat = Seat { cgroup, home, uid, gpus, network: None };
        let machine = match self.engine.adopt(&seat.home, process).await {
            Ok(machine) => machine,
            Err(error) => {
                seat.free().await;
                return Err(error.into());
            }
        };
        let mut vm = self.vm(machine, seat);
        let adopted = match vm.paused() {
            // The earlier server may have died between writing that down and stopping the guest,
            // or between letting it run and writing that down.
            Some(_) => vm.machine.pause().await.map_err(VmError::from),
            // The earlier server may have died while it copied the VM.
            None => vm.go_on_unwatched().await,
        };
        let adopted = match adopted {
            Ok(()) => vm.find_network().await,
            Err(error) => Err(error),
        };
        vm.unless_failed(adopted).await
    }
}

impl Vm {
    /// Gets hold of the network that an adopted VM has, and lets its bunker go on reaching what it
    /// may. Its earlier connections ended with the earlier server.
    async fn find_network(&mut self) -> Result<(), VmError> {
        let Some(Claim { bunker_id, network: wanted, .. }) = self.owner().cloned() else {
            return Ok(());
        };
        if wanted.profile == NetworkProfile::Isolated {
            return Ok(());
        }
        let tap = self.machine.tap().map_err(io_failed("find a VM's network device"))?;
        let network = VmNetwork::of(&tap, self.seat.uid.number(), wanted.profile)?;
        network.open_again(self.networks()?, bunker_id, &wanted).await?;
        self.seat.network = Some(network);
        Ok(())
    }

    /// Lets a guest run that nobody may have let go on.
    async fn go_on_unwatched(&mut self) -> Result<(), VmError> {
        self.machine.resume().await?;
        self.connect(CONFIRM_LIMIT).await?;
        self.set_clock("").await
    }

    /// Continues from a bunker's moment; the guest stands still until a bunker claims it.
    pub async fn restore_moment(&mut self, moment: &Template) -> Result<(), VmError> {
        Ok(self.machine.restore(moment).await?)
    }

    /// Continues from the template's state and becomes unique.
    pub async fn restore(&mut self, template: &Template) -> Result<(), VmError> {
        self.machine.restore(template).await?;
        self.machine.resume().await?;
        self.connect(CONFIRM_LIMIT).await?;
        let identity = self.first_identity()?;
        self.channel()?.post("/identify", &identity, "", CONFIRM_LIMIT).await?;
        Ok(())
    }

    /// Continues from the state of a template that has not mounted its disk, and stands still until there is
    /// something on it.
    pub async fn wait_for_disk(&mut self, template: &Template) -> Result<(), VmError> {
        self.machine.restore(template).await?;
        self.machine.resume().await?;
        self.connect(CONFIRM_LIMIT).await?;
        self.machine.pause().await?;
        Ok(())
    }

    /// Puts a snapshot on the disk of such a VM, mounts it, and becomes unique.
    pub async fn mount_restored(&mut self, restore: &Restore) -> Result<(), VmError> {
        let path = self.seat.home.scratch_path();
        let disk = OpenOptions::new().write(true).open(&path);
        let disk = disk.map_err(io_failed("open a VM's disk"))?;
        // Without what the template's disk began with.
        disk.set_len(0)
            .and_then(|()| disk.set_len(DEVICE_BYTES))
            .map_err(io_failed("empty a disk"))?;
        let parts = Arc::new(Parts::of_disk(disk, restore.manifest.layout.disk_bytes));
        let storage = restore.snapshots.storage();
        snapshots::fill(storage, &restore.from, &restore.manifest, &parts).await?;
        self.machine.resume().await?;
        self.prepare().await
    }

    /// That of a VM which no bunker has claimed.
    fn first_identity(&self) -> Result<Identity, VmError> {
        let network = self.seat.network.as_ref().and_then(VmNetwork::known_before);
        Ok(Identity { network, ..fresh_identity("bunker".to_owned())? })
    }

    /// Mounts the disks of a VM whose template did not, or that has none.
    async fn prepare(&mut self) -> Result<(), VmError> {
        let identity = self.first_identity()?;
        let prepare = Prepare { identity, warm_up: Vec::new() };
        self.channel()?.post("/prepare", &prepare, "", BOOT_LIMIT).await?;
        Ok(())
    }

    /// Opens the session, and follows the agent's log for as long as it lasts.
    async fn connect(&mut self, limit: Duration) -> Result<(), VmError> {
        let channel = GuestChannel::connect(&self.seat.home, limit).await?;
        if let Some(claim) = self.owner() {
            // Only an adopted VM has an owner already, and it is set once.
            let _ = self.log_owner.set(claim.bunker_id);
        }
        let log = guest_log::follow(channel.clone(), Arc::clone(&self.log_owner));
        self.log = Some(AbortOnDropHandle::new(tokio::spawn(log)));
        self.channel = Some(channel);
        Ok(())
    }

    /// Makes a VM that nobody waits for quick: runs commands, so that an emulator has translated
    /// what the first real one executes, and stops the guest until it is claimed.
    pub async fn rest(&mut self, template: &Template) -> Result<(), VmError> {
        let config = &template.image.config;
        for argv in REST_COMMANDS {
            self.channel()?.warm_up(argv, config, CONFIRM_LIMIT).await?;
        }
        self.machine.pause().await?;
        Ok(())
    }

    /// Gives a ready VM to a bunker: runs it under the bunker's limits, name and clock. Written
    /// down before it runs, so that a server that dies in between reaps or adopts it.
    pub async fn claim(
        &mut self,
        claim: Claim,
        past: Past,
        (cpu_millicores, memory_mb): (u32, u32),
        request_id: &str,
    ) -> Result<(), VmError> {
        let (id, hostname) = (claim.bunker_id, hostname(claim.bunker_id));
        // A VM is claimed once.
        let _ = self.log_owner.set(id);
        let wanted = claim.network.clone();
        self.seat.home.set_claim(claim).map_err(io_failed("write a VM's record"))?;
        if let Some(cgroup) = &self.seat.cgroup {
            cgroup.limit(limits(cpu_millicores, memory_mb, CpuPriority::Normal))?;
        }
        let network = match &self.seat.network {
            // A guest with a past is in another place.
            Some(network) if past != Past::None => {
                network.open(self.networks()?, id, &wanted).await?.or(network.known_before())
            }
            Some(network) => network.open(self.networks()?, id, &wanted).await?,
            None => None,
        };
        self.machine.resume().await?;
        if self.channel.is_none() {
            self.connect(CONFIRM_LIMIT).await?;
        }
        let boot_id = (past == Past::Anothers).then(|| Uuid::new_v4().to_string());
        let machine_id = id.uuid().simple().to_string();
        let identity = Identity { network, boot_id, machine_id, ..fresh_identity(hostname)? };
        self.channel()?.post("/identify", &identity, request_id, CONFIRM_LIMIT).await?;
        Ok(())
    }

    /// The bunker's address, if the worker gives it one.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.seat.network.as_ref().and_then(VmNetwork::address)
    }

    fn networks(&self) -> Result<&Networks, VmError> {
        self.networks.as_deref().ok_or(VmError::NoNetworks)
    }

    /// Stops a bunker's guest in the middle of what it does, and says so in the record.
    ///
    /// The session stays open: neither side asks the other for signs of life. Time limits of
    /// commands are the guest's to keep, by its monotonic clock, which stands still with it under
    /// tcg; a guest whose clock source is the host's TSC under kvm finds that the time has passed.
    pub async fn pause(&mut self, pause: Pause, request_id: &str) -> Result<(), VmError> {
        self.seat.home.set_paused(Some(pause)).map_err(io_failed("write a VM's record"))?;
        // Without it the guest's commands see the old clock for a moment when it is resumed.
        let held = self.channel()?.post("/hold", &(), request_id, HOLD_LIMIT).await;
        if let Err(error) = held {
            tracing::warn!(error = %crate::chain(&error), "a guest is paused that does not answer");
        }
        self.machine.pause().await?;
        Ok(())
    }

    /// Lets a paused guest go on with its clock set. If it does not confirm the clock, it stands
    /// still again; only if the VMM could not be told to do so is the error an [`EngineError`].
    pub async fn resume(&mut self, request_id: &str) -> Result<(), VmError> {
        self.machine.resume().await?;
        let went_on = self.go_on(request_id).await;
        if went_on.is_err() {
            self.machine.pause().await?;
        }
        went_on
    }

    async fn go_on(&mut self, request_id: &str) -> Result<(), VmError> {
        if self.channel.is_none() {
            self.connect(CONFIRM_LIMIT).await?;
        }
        self.set_clock(request_id).await?;
        self.seat.home.set_paused(None).map_err(io_failed("write a VM's record"))
    }

    /// Tells the guest the time; commands that were held go on with it.
    async fn set_clock(&self, request_id: &str) -> Result<(), VmError> {
        let clock = SetClock { unix_time_ns: unix_time_ns()? };
        Ok(self.channel()?.post("/clock", &clock, request_id, CONFIRM_LIMIT).await?)
    }

    /// Whether the bunker is paused, by the record.
    #[must_use]
    pub fn paused(&self) -> Option<Pause> {
        self.seat.home.record().paused
    }

    /// Where to learn what the VM uses.
    #[must_use]
    pub fn vitals(&self) -> Option<Vitals> {
        let process = self.seat.home.record().process?;
        Some(Vitals { process, scratch_path: self.seat.home.scratch_path() })
    }

    /// The session with the agent.
    pub fn channel(&self) -> Result<GuestChannel, VmError> {
        let missing =
            || io_failed("reach a VM that is not prepared")(io::ErrorKind::NotConnected.into());
        self.channel.clone().ok_or_else(missing)
    }

    /// The directory of the VM.
    #[must_use]
    pub fn home(&self) -> &VmHome {
        &self.seat.home
    }

    /// The bunker that owns the VM.
    #[must_use]
    pub fn owner(&self) -> Option<&Claim> {
        self.seat.home.record().claim.as_ref()
    }

    /// Waits for the VMM's end and tells why it ended.
    pub async fn ended(&self) -> String {
        let how = self.machine.process().ended().await;
        if self.seat.cgroup.as_ref().is_some_and(Cgroup::was_oom_killed) {
            return "the VMM process was killed for using more memory than its bound".to_owned();
        }
        how.unwrap_or_else(|error| format!("the VMM process cannot be watched: {error}"))
    }

    /// The VM, or why a step on it failed, with everything freed.
    pub async fn unless_failed(self, step: Result<(), VmError>) -> Result<Self, VmError> {
        match step {
            Ok(()) => Ok(self),
            Err(error) => {
                self.destroy().await;
                Err(error)
            }
        }
    }

    /// Frees everything; done off the runtime, because it waits for the VMM's end.
    pub async fn destroy(self) {
        if let (Some(networks), Some(claim)) = (&self.networks, self.owner()) {
            // First, so that what the bunker has reached is written down when the VM is gone.
            networks.close(claim.bunker_id).await;
        }
        // The only failure is a panic in a destructor, which has been reported already.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }

    /// Leaves the VM running for the next server.
    pub fn leave_running(self) {
        self.machine.into_process().leave_running();
        self.seat.leave();
    }
}

fn limits(cpu_millicores: u32, memory_mb: u32, cpu_priority: CpuPriority) -> CgroupLimits {
    CgroupLimits {
        cpu_millicores,
        cpu_priority,
        memory_bytes: u64::from(memory_mb + VMM_OVERHEAD_MB) << 20,
        max_tasks: MAX_VMM_TASKS,
    }
}

/// Host names hold 63 of `[a-z0-9-]`: the id with its underscore replaced.
fn hostname(bunker_id: BunkerId) -> String {
    bunker_id.to_string().replace('_', "-")
}

fn fresh_identity(hostname: String) -> Result<Identity, VmError> {
    let mut entropy = vec![0; ENTROPY_BYTES];
    rustix::rand::getrandom(&mut entropy, rustix::rand::GetRandomFlags::empty())
        .map_err(|e| io_failed("draw entropy")(e.into()))?;
    let machine_id = Uuid::new_v4().simple().to_string();
    Ok(Identity {
        entropy,
        unix_time_ns: unix_time_ns()?,
        hostname,
        machine_id,
        network: None,
        boot_id: None,
    })
}

fn unix_time_ns() -> Result<i64, VmError> {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_err(|e| io_failed("read the clock")(io::Error::other(e)))?;
    Ok(i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_differ_and_names_are_host_names() {
        let name = hostname(BunkerId::generate());
        assert!(name.len() <= 63 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
        let (a, b) = (fresh_identity(name.clone()).unwrap(), fresh_identity(name).unwrap());
        assert_ne!(a.entropy, b.entropy);
        assert_ne!(a.machine_id, b.machine_id);
    }
}
