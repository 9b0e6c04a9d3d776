//! The bunkers of this worker.
//!
//! One task drives each bunker from its start to its end and alone owns the [`Vm`]; everyone else
//! holds a [`Bunker`] handle and watches its state. An ended bunker stays listed until the
//! controller deletes it, so that the reason reaches the database.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    ids::BunkerId,
    worker::{BunkerReport, StartBunker, WorkerBunkerState},
};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    chain,
    channel::GuestChannel,
    engine::Shape,
    execs::Execs,
    jail::{Cgroup, JailedProcess},
    pool::Pool,
    vm::{Vm, VmError},
    vm_home::{Claim, ProcessMark, VmHome},
};

/// Calls on files of one bunker at once. The guest serves 256 streams: all of these and every
/// command leave it room for signals.
const MAX_FILE_CALLS: usize = 64;

/// What a call on a running bunker needs.
#[derive(Debug, Clone)]
pub struct Guest {
    pub channel: GuestChannel,
    pub claim: Claim,
    /// One permit for each call on files.
    pub file_calls: Arc<Semaphore>,
}

#[derive(Debug, Clone)]
enum State {
    Starting,
    Running(Guest),
    Ended { reason: String },
}

/// Handle of one bunker.
struct Bunker {
    state: watch::Sender<State>,
    stop: CancellationToken,
    execs: Arc<Execs>,
}

/// All bunkers of the worker.
pub struct Supervisor {
    pool: Arc<Pool>,
    bunkers: Mutex<HashMap<BunkerId, Arc<Bunker>>>,
    /// Told whenever a bunker ends by itself, so that the controller hears of it at once.
    pub ended: Notify,
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
            ended: Notify::new(),
            tasks: TaskTracker::new(),
            shutdown,
            keep_bunkers,
        })
    }

    fn bunkers(&self) -> MutexGuard<'_, HashMap<BunkerId, Arc<Bunker>>> {
        self.bunkers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the bunker, or joins the start that is under way; returns once it runs or ended.
    pub async fn start(
        self: &Arc<Self>,
        id: BunkerId,
        spec: StartBunker,
        request_id: String,
    ) -> Result<BunkerReport, ErrorBody> {
        if self.shutdown.is_cancelled() {
            let message = "the worker is shutting down; try another one";
            return Err(ErrorBody::new(ErrorCode::ShuttingDown, message));
        }
        let Some(image) = self.pool.image(&spec.image) else {
            let message = format!("this worker has no image `{}`", spec.image);
            return Err(ErrorBody::new(ErrorCode::NoSuitableWorker, message));
        };
        let (bunker, is_new) = self.entry(id);
        if is_new {
            let mut env = image.config.env.clone();
            env.extend(spec.env_vars.clone());
            let image_user = image.config.user.clone();
            let claim = Claim { bunker_id: id, image_user, env, started_at: Timestamp::now() };
            let (supervisor, driven) = (Arc::clone(self), Arc::clone(&bunker));
            self.tasks.spawn(async move {
                let started = supervisor.make(&spec, claim, &request_id).await;
                supervisor.drive(id, &driven, started).await;
            });
        }
        let mut state = bunker.state.subscribe();
        // The sender lives in `bunker`, so the wait cannot fail; a failed one reports `Starting`.
        let _ = state.wait_for(|state| !matches!(state, State::Starting)).await;
        match report(id, &state.borrow()) {
            BunkerReport { state: WorkerBunkerState::Ended { reason }, .. } => {
                Err(ErrorBody::new(ErrorCode::ProvisioningFailed, reason))
            }
            report => Ok(report),
        }
    }

    fn entry(&self, id: BunkerId) -> (Arc<Bunker>, bool) {
        let mut bunkers = self.bunkers();
        if let Some(bunker) = bunkers.get(&id) {
            return (Arc::clone(bunker), false);
        }
        let bunker = Arc::new(Bunker {
            state: watch::Sender::new(State::Starting),
            stop: CancellationToken::new(),
            execs: Arc::default(),
        });
        bunkers.insert(id, Arc::clone(&bunker));
        (bunker, true)
    }

    async fn make(
        &self,
        spec: &StartBunker,
        claim: Claim,
        request_id: &str,
    ) -> Result<Vm, VmError> {
        let shape = Shape {
            image: spec.image.clone(),
            vcpus: spec.cpu_millicores.div_ceil(1000).max(1),
            memory_mb: spec.memory_mb,
            disk_mb: spec.disk_mb,
        };
        if let Some(vm) = self.pool.take_ready(&shape) {
            match give(vm, claim.clone(), spec, request_id).await {
                Ok(vm) => return Ok(vm),
                // It died on the shelf, which need not concern the caller.
                Err(error) => tracing::warn!(error = %chain(&error), "a ready VM was unusable"),
            }
        }
        let vm = self.pool.make_now(&shape).await?;
        give(vm, claim, spec, request_id).await
    }

    /// Owns the VM until it ends, is deleted, or the server stops.
    async fn drive(&self, id: BunkerId, bunker: &Bunker, started: Result<Vm, VmError>) {
        let running = started.and_then(|vm| {
            let guest = vm.channel().map(|channel| (channel, vm.owner().cloned()));
            guest.map(|guest| (vm, guest))
        });
        let reason = match running {
            Ok((vm, (channel, Some(claim)))) => {
                tracing::info!(bunker_id = %id, "bunker runs");
                bunker.execs.record_in(vm.home().path());
                let file_calls = Arc::new(Semaphore::new(MAX_FILE_CALLS));
                let guest = Guest { channel, claim, file_calls };
                bunker.state.send_replace(State::Running(guest));
                let reason = tokio::select! {
                    reason = vm.ended() => reason,
                    () = bunker.stop.cancelled() => "deleted".to_owned(),
                    () = self.shutdown.cancelled() => "the server was stopped".to_owned(),
                };
                if self.shutdown.is_cancelled() && self.keep_bunkers {
                    vm.leave_running();
                    return;
                }
                vm.destroy().await;
                reason
            }
            Ok((vm, (_, None))) => {
                vm.destroy().await;
                "the VM lost its owner".to_owned()
            }
            Err(error) => format!("cannot use the microVM: {}", chain(&error)),
        };
        tracing::info!(bunker_id = %id, reason, "bunker ended");
        bunker.state.send_replace(State::Ended { reason });
        self.ended.notify_one();
    }

    /// Ends the bunker, frees everything it holds and forgets it. Unknown ids are fine.
    pub async fn remove(&self, id: BunkerId) {
        let Some(bunker) = self.bunkers().get(&id).cloned() else { return };
        bunker.stop.cancel();
        let mut state = bunker.state.subscribe();
        let _ = state.wait_for(|state| matches!(state, State::Ended { .. })).await;
        self.bunkers().remove(&id);
    }

    /// The commands of a bunker, also of one that has ended.
    pub fn execs(&self, id: BunkerId) -> Result<Arc<Execs>, ErrorBody> {
        let bunkers = self.bunkers();
        bunkers.get(&id).map(|bunker| Arc::clone(&bunker.execs)).ok_or_else(|| unknown(id))
    }

    /// What a call on a running bunker needs.
    pub fn guest(&self, id: BunkerId) -> Result<Guest, ErrorBody> {
        let bunker = self.bunkers().get(&id).cloned().ok_or_else(|| unknown(id))?;
        match &*bunker.state.borrow() {
            State::Running(guest) => Ok(guest.clone()),
            State::Starting => {
                let message = format!("bunker {id} is still starting; wait until it runs");
                Err(ErrorBody::new(ErrorCode::BunkerNotRunning, message))
            }
            State::Ended { reason } => {
                let message = format!("bunker {id} has ended: {reason}");
                Err(ErrorBody::new(ErrorCode::BunkerNotRunning, message))
            }
        }
    }

    /// Returns once the bunker does not run any more.
    pub async fn ended(&self, id: BunkerId) -> String {
        let Some(bunker) = self.bunkers().get(&id).cloned() else { return "deleted".to_owned() };
        let mut state = bunker.state.subscribe();
        let ended = state.wait_for(|state| matches!(state, State::Ended { .. })).await;
        match ended.as_deref() {
            Ok(State::Ended { reason }) => reason.clone(),
            _ => "deleted".to_owned(),
        }
    }

    /// One bunker, if this worker holds it.
    pub fn report(&self, id: BunkerId) -> Result<BunkerReport, ErrorBody> {
        let bunker = self.bunkers().get(&id).cloned().ok_or_else(|| unknown(id))?;
        Ok(report(id, &bunker.state.borrow()))
    }

    /// Every bunker this worker holds.
    #[must_use]
    pub fn reports(&self) -> Vec<BunkerReport> {
        let bunkers = self.bunkers();
        bunkers.iter().map(|(id, bunker)| report(*id, &bunker.state.borrow())).collect()
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
                    self.restore_execs(id, &home).await;
                    self.reap(home, None).await;
                    let reason = "its VM had ended when the worker came back".to_owned();
                    tracing::info!(bunker_id = %id, reason, "bunker ended");
                    self.entry(id).0.state.send_replace(State::Ended { reason });
                }
                (None, process) => self.reap(home, process).await,
            }
        }
        Ok(())
    }

    async fn restore_execs(&self, id: BunkerId, home: &VmHome) -> Arc<Bunker> {
        let (bunker, _) = self.entry(id);
        bunker.execs.record_in(home.path());
        bunker.execs.restore().await;
        bunker
    }

    async fn adopt(self: &Arc<Self>, id: BunkerId, home: VmHome, process: JailedProcess) {
        let bunker = self.restore_execs(id, &home).await;
        let supervisor = Arc::clone(self);
        self.tasks.spawn(async move {
            let adopted = supervisor.pool.host().adopt(home, process).await;
            if adopted.is_ok() {
                tracing::info!(bunker_id = %id, "bunker adopted");
            }
            supervisor.drive(id, &bunker, adopted).await;
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
    /// Holds a bunker that runs already, whose guest is a double.
    pub fn insert_running(&self, id: BunkerId, guest: Guest, vm_dir: &std::path::Path) {
        let (bunker, _) = self.entry(id);
        bunker.execs.record_in(vm_dir);
        bunker.state.send_replace(State::Running(guest));
    }

    /// Ends such a bunker.
    pub fn set_ended(&self, id: BunkerId, reason: &str) {
        self.entry(id).0.state.send_replace(State::Ended { reason: reason.to_owned() });
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

/// Makes the VM the bunker's, or frees it.
async fn give(
    mut vm: Vm,
    claim: Claim,
    spec: &StartBunker,
    request_id: &str,
) -> Result<Vm, VmError> {
    match vm.claim(claim, spec.cpu_millicores, spec.memory_mb, request_id).await {
        Ok(()) => Ok(vm),
        Err(error) => {
            vm.destroy().await;
            Err(error)
        }
    }
}

fn unknown(id: BunkerId) -> ErrorBody {
    ErrorBody::new(ErrorCode::NotFound, format!("this worker holds no bunker {id}"))
}

fn report(id: BunkerId, state: &State) -> BunkerReport {
    let (state, started_at) = match state {
        State::Starting => (WorkerBunkerState::Starting, None),
        State::Running(guest) => (WorkerBunkerState::Running, Some(guest.claim.started_at)),
        State::Ended { reason } => (WorkerBunkerState::Ended { reason: reason.clone() }, None),
    };
    BunkerReport { id, state, started_at }
}
