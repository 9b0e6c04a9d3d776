//! The bunkers of this worker.
//!
//! One task drives each bunker from its start to its end and alone owns the [`Vm`]; everyone else
//! holds a [`Bunker`] handle and watches its state. An ended bunker stays listed until the
//! controller deletes it, so that the reason reaches the database.

mod bunker;
mod drive;
mod fork;
mod origin;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fs::File,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use scaibunker_api::{
    bunker::BunkerMetrics,
    error::{ErrorBody, ErrorCode},
    ids::BunkerId,
    image::RootConfig,
    worker::{BunkerReport, PauseBunker, StartBunker, WorkerBunkerState},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::MissedTickBehavior,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::origin::Origin;
use self::{
    bunker::Bunker,
    drive::{Order, Want},
};
use crate::{
    activity::{CpuSampler, SAMPLE_INTERVAL},
    bunker_state::{BunkerState, BunkerWatch, Guest, paused},
    execs::Execs,
    jail::{Cgroup, JailedProcess},
    network::Networks,
    pool::Pool,
    vitals::Vitals,
    vm::Copied,
    vm_home::{Claim, ProcessMark, VmHome},
};

/// All bunkers of the worker.
pub struct Supervisor {
    pool: Arc<Pool>,
    bunkers: Mutex<HashMap<BunkerId, Arc<Bunker>>>,
    /// Told whenever a bunker ends by itself, so that the controller hears of it at once.
    pub ended: watch::Sender<()>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    keep_bunkers: bool,
}

impl Supervisor {
    /// A supervisor without bunkers. At `shutdown` it ends them, or leaves them running.
    #[must_use]
    pub fn new(pool: Arc<Pool>, shutdown: CancellationToken, keep_bunkers: bool) -> Arc<Self> {
        Arc::new(Self {
            pool,
            bunkers: Mutex::default(),
            ended: watch::Sender::default(),
            tasks: TaskTracker::new(),
            shutdown,
            keep_bunkers,
        })
    }

    /// The networks of this worker, where it can make any.
    pub fn networks(&self) -> Option<Arc<Networks>> {
        self.pool.host().networks.clone()
    }

    fn bunkers(&self) -> MutexGuard<'_, HashMap<BunkerId, Arc<Bunker>>> {
        self.bunkers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the bunker, or joins the start that is under way; returns once it runs or ended.
    pub async fn start(
        self: &Arc<Self>,
        id: BunkerId,
        spec: StartBunker,
        origin: Origin,
        request_id: String,
    ) -> Result<BunkerReport, ErrorBody> {
        if self.shutdown.is_cancelled() {
            let message = "the worker is shutting down; try another one";
            return Err(ErrorBody::new(ErrorCode::ShuttingDown, message));
        }
        let Some((image, lease)) = self.pool.images().lease(&spec.image) else {
            let message = format!("this worker has no image `{}`", spec.image);
            return Err(ErrorBody::new(ErrorCode::NoSuitableWorker, message));
        };
        let (bunker, orders) = self.entry(id);
        if let Some(orders) = orders {
            let RootConfig { user, mut env, workdir, .. } = image.config.root;
            env.extend(spec.env_vars.clone());
            let started_at = Timestamp::now();
            let claim = Claim {
                bunker_id: id,
                image: image.digest,
                image_user: user,
                workdir,
                env,
                started_at,
                network: spec.network.clone(),
                disk_mb: spec.disk_mb,
            };
            let (supervisor, driven) = (Arc::clone(self), Arc::clone(&bunker));
            self.tasks.spawn(async move {
                let started =
                    origin::make(&supervisor.pool, origin, &spec, claim, &request_id).await;
                if let Ok(vm) = &started {
                    // What the bunker remembers from before it was written out.
                    driven.execs.record_in(vm.home().path());
                    driven.execs.restore().await;
                }
                supervisor.drive(id, &driven, orders, started_at, started).await;
                drop(lease);
            });
        }
        let mut state = bunker.state.subscribe();
        // The sender lives in `bunker`, so the wait cannot fail; a failed one reports `Starting`.
        let _ = state.wait_for(|state| !matches!(state, BunkerState::Starting)).await;
        match bunker.report(id) {
            BunkerReport { state: WorkerBunkerState::Ended { reason }, .. } => {
                Err(ErrorBody::new(ErrorCode::ProvisioningFailed, reason))
            }
            report => Ok(report),
        }
    }

    /// The bunker of that id; for a new one, also what is ordered of it.
    fn entry(&self, id: BunkerId) -> (Arc<Bunker>, Option<mpsc::Receiver<Order>>) {
        let mut bunkers = self.bunkers();
        if let Some(bunker) = bunkers.get(&id) {
            return (Arc::clone(bunker), None);
        }
        let (bunker, orders) = Bunker::new();
        let bunker = Arc::new(bunker);
        bunkers.insert(id, Arc::clone(&bunker));
        (bunker, Some(orders))
    }

    /// Stops a bunker in the middle of what it does; one that is paused already is fine.
    pub async fn pause(
        &self,
        id: BunkerId,
        PauseBunker { idle_since }: PauseBunker,
        request_id: String,
    ) -> Result<(), ErrorBody> {
        let want = Want::Pause { idle_since };
        self.order(id, |done| Order::Swing { want, request_id, done }).await
    }

    /// Lets a paused bunker go on, with its clock set; one that runs already is fine.
    pub async fn resume(&self, id: BunkerId, request_id: String) -> Result<(), ErrorBody> {
        let want = Want::Resume;
        self.order(id, |done| Order::Swing { want, request_id, done }).await
    }

    /// Copies a bunker's disk as it is at one moment into an empty file.
    pub async fn copy_disk(
        &self,
        id: BunkerId,
        target: File,
        request_id: String,
    ) -> Result<Copied, ErrorBody> {
        self.order(id, |done| Order::CopyDisk { target, request_id, done }).await
    }

    async fn order<T>(
        &self,
        id: BunkerId,
        order: impl FnOnce(oneshot::Sender<Result<T, ErrorBody>>) -> Order,
    ) -> Result<T, ErrorBody> {
        let bunker = self.bunker(id)?;
        bunker.check_vm(id)?;
        let (done, answer) = oneshot::channel();
        let sent = bunker.orders.send(order(done)).await;
        if sent.is_ok()
            && let Ok(done) = answer.await
        {
            return done;
        }
        if self.shutdown.is_cancelled() {
            let message = "the worker is shutting down; its next start can do that";
            return Err(ErrorBody::new(ErrorCode::ShuttingDown, message));
        }
        // The driver has given its VM up, and is about to say so.
        bunker.watch().ended().await;
        bunker.check_vm(id)?;
        Err(ErrorBody::new(ErrorCode::BunkerLost, format!("bunker {id} was lost")))
    }

    /// Ends the bunker, frees everything it holds and forgets it. Unknown ids are fine.
    pub async fn remove(&self, id: BunkerId) {
        let Some(bunker) = self.bunkers().get(&id).cloned() else { return };
        bunker.stop.cancel();
        bunker.watch().ended().await;
        self.bunkers().remove(&id);
    }

    fn bunker(&self, id: BunkerId) -> Result<Arc<Bunker>, ErrorBody> {
        self.bunkers().get(&id).cloned().ok_or_else(|| {
            ErrorBody::new(ErrorCode::NotFound, format!("this worker holds no bunker {id}"))
        })
    }

    /// The commands of a bunker, also of one that has ended.
    pub fn execs(&self, id: BunkerId) -> Result<Arc<Execs>, ErrorBody> {
        Ok(Arc::clone(&self.bunker(id)?.execs))
    }

    /// What a call on a running bunker needs.
    pub fn guest(&self, id: BunkerId) -> Result<Guest, ErrorBody> {
        self.bunker(id)?.state.borrow().guest(id)
    }

    /// An error while the bunker is paused.
    pub fn refuse_paused(&self, id: BunkerId) -> Result<(), ErrorBody> {
        match *self.bunker(id)?.state.borrow() {
            BunkerState::Paused { .. } => Err(paused(id)),
            _ => Ok(()),
        }
    }

    /// Follows a bunker's state.
    pub fn watch(&self, id: BunkerId) -> Result<BunkerWatch, ErrorBody> {
        Ok(self.bunker(id)?.watch())
    }

    /// One bunker, if this worker holds it.
    pub fn report(&self, id: BunkerId) -> Result<BunkerReport, ErrorBody> {
        Ok(self.bunker(id)?.report(id))
    }

    /// What a running or paused bunker uses.
    pub async fn metrics(&self, id: BunkerId) -> Result<BunkerMetrics, ErrorBody> {
        let bunker = self.bunker(id)?;
        bunker.check_vm(id)?;
        let networks = self.pool.host().networks.as_ref();
        let network = networks.and_then(|networks| networks.gateway.usage(id));
        // Walks the page tables of the VMM.
        let measured = tokio::task::spawn_blocking(move || {
            bunker.metrics().map(|metrics| BunkerMetrics { network, ..metrics })
        })
        .await;
        measured.map_err(std::io::Error::from).and_then(std::convert::identity).map_err(|error| {
            // Its end is not published yet.
            let message =
                format!("bunker {id} cannot be measured, it may just have ended: {error}");
            ErrorBody::new(ErrorCode::BunkerLost, message)
        })
    }

    /// Every bunker this worker holds.
    #[must_use]
    pub fn reports(&self) -> Vec<BunkerReport> {
        let bunkers = self.bunkers();
        bunkers.iter().map(|(id, bunker)| bunker.report(*id)).collect()
    }

    /// Notices which bunkers are busy, until the server stops: one task for all of them.
    pub fn follow_activity(self: &Arc<Self>) {
        let supervisor = Arc::clone(self);
        self.tasks.spawn(async move {
            let sampling = supervisor.sample_activity();
            supervisor.shutdown.run_until_cancelled(sampling).await;
        });
    }

    async fn sample_activity(&self) {
        let mut sampler = CpuSampler::default();
        let mut ticks = tokio::time::interval(SAMPLE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let running = self.running();
            let sampled = tokio::task::spawn_blocking(move || {
                let busy = sampler.busy(&running);
                (sampler, busy)
            });
            // A failure would be a panic, which has been reported already.
            let Ok((next, busy)) = sampled.await else { return };
            sampler = next;
            for id in busy {
                if let Ok(bunker) = self.bunker(id) {
                    bunker.activity.touch();
                }
            }
        }
    }

    fn running(&self) -> Vec<(BunkerId, Vitals)> {
        let bunkers = self.bunkers();
        let running = bunkers.iter().filter(|(_, bunker)| bunker.is_running());
        running.filter_map(|(id, bunker)| Some((*id, bunker.vitals.get()?.clone()))).collect()
    }

    /// Takes over what an earlier server left: bunkers whose VMs still run are adopted, all else
    /// is freed. Returns once every bunker is known; those that are being adopted report
    /// `Starting` until their agent has answered.
    pub async fn recover(self: &Arc<Self>) -> io::Result<()> {
        for home in VmHome::scan(&self.pool.host().vms_dir)? {
            let process = home.record().process.and_then(same_process);
            match (home.record().claim.as_ref().map(|claim| claim.bunker_id), process) {
                (Some(id), Some(process)) => self.adopt(id, home, process).await,
                (Some(id), None) => {
                    let (bunker, _) = self.entry(id);
                    self.restore_execs(&bunker, &home).await;
                    self.reap(home, None).await;
                    let reason = "its VM had ended when the worker came back".to_owned();
                    tracing::info!(bunker_id = %id, reason, "bunker ended");
                    bunker.state.send_replace(BunkerState::Ended { reason });
                }
                (None, process) => self.reap(home, process).await,
            }
        }
        Ok(())
    }

    async fn restore_execs(&self, bunker: &Bunker, home: &VmHome) {
        bunker.execs.record_in(home.path());
        bunker.execs.restore().await;
    }

    async fn adopt(self: &Arc<Self>, id: BunkerId, home: VmHome, process: JailedProcess) {
        let (bunker, orders) = self.entry(id);
        let Some(orders) = orders else {
            tracing::error!(bunker_id = %id, vm_id = home.name(), "a bunker has two VMs");
            return self.reap(home, Some(process)).await;
        };
        self.restore_execs(&bunker, &home).await;
        let digest = home.record().claim.as_ref().map(|claim| claim.image.clone());
        let lease = digest.and_then(|digest| self.pool.images().lease(&digest));
        let supervisor = Arc::clone(self);
        self.tasks.spawn(async move {
            let adopted = supervisor.pool.host().adopt(home, process).await;
            if adopted.is_ok() {
                tracing::info!(bunker_id = %id, "bunker adopted");
            }
            // What it did meanwhile is not known: it is not idle since before this server.
            supervisor.drive(id, &bunker, orders, Timestamp::now(), adopted).await;
            drop(lease);
        });
    }

    /// Frees what an earlier server left of a VM that no bunker uses.
    async fn reap(&self, home: VmHome, process: Option<JailedProcess>) {
        let cgroup = self.pool.host().cgroups.as_ref().map(|root| Cgroup::open(root, &home.name()));
        tracing::info!(vm_id = home.name(), "freeing what an earlier server left");
        // Waits for the VMM's end. A failure would be a panic, which has been reported already.
        let _ = tokio::task::spawn_blocking(move || drop((process, cgroup, home))).await;
    }

    /// Returns once every bunker has been ended or left, after `shutdown` was cancelled.
    pub async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

#[cfg(test)]
impl Supervisor {
    /// Holds a bunker that runs already, whose guest is a double and whose VMM is this process.
    pub fn insert_running(&self, id: BunkerId, guest: Guest, vm_dir: &std::path::Path) {
        let (bunker, _) = self.entry(id);
        bunker.execs.record_in(vm_dir);
        let process = ProcessMark::of(std::process::id() as i32).unwrap();
        let _ = bunker.vitals.set(Vitals { process, scratch_path: vm_dir.to_path_buf() });
        self.set_running(id, guest);
    }

    /// Runs such a bunker.
    pub fn set_running(&self, id: BunkerId, guest: Guest) {
        let bunker = self.bunker(id).unwrap();
        bunker.activity.run(guest.claim.started_at);
        let guest = Guest { activity: Arc::clone(&bunker.activity), ..guest };
        bunker.state.send_replace(BunkerState::Running(guest));
    }

    /// Pauses such a bunker.
    pub fn set_paused(&self, id: BunkerId) {
        let (bunker, started_at) = (self.bunker(id).unwrap(), Timestamp::UNIX_EPOCH);
        bunker.activity.stand_still(bunker.activity.last_active_at().unwrap());
        bunker.state.send_replace(BunkerState::Paused { started_at });
    }

    /// Ends such a bunker.
    pub fn set_ended(&self, id: BunkerId, reason: &str) {
        let ended = BunkerState::Ended { reason: reason.to_owned() };
        self.bunker(id).unwrap().state.send_replace(ended);
    }
}

/// The process that the mark names, if it still is there. The mark is looked at again after the
/// process is held, because the pid may have gone to another one in between.
fn same_process(mark: ProcessMark) -> Option<JailedProcess> {
    let process = JailedProcess::adopt(mark.pid).ok()?;
    if mark.is_alive() {
        return Some(process);
    }
    process.leave_running();
    None
}
