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
use tokio::sync::{Notify, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    chain,
    channel::GuestChannel,
    engine::Shape,
    jail::{Cgroup, JailedProcess},
    pool::{Kind, Pool},
    vm::{Vm, VmError},
    vm_home::{Claim, VmHome, VmRecord},
};

/// What an exec needs to know of a running bunker.
#[derive(Debug, Clone)]
pub struct Guest {
    pub channel: GuestChannel,
    pub claim: Claim,
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
        let image_user = match self.pool.image(&spec.image) {
            Some(image) => image.config.user.clone(),
            None => {
                let message = format!("this worker has no image `{}`", spec.image);
                return Err(ErrorBody::new(ErrorCode::NoSuitableWorker, message));
            }
        };
        let (bunker, is_new) = self.entry(id);
        if is_new {
            let claim = Claim {
                bunker_id: id,
                image_user,
                env: spec.env_vars.clone(),
                started_at: Timestamp::now(),
            };
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
        };
        let mut vm = self.pool.take(&Kind { shape, disk_mb: spec.disk_mb }).await?;
        match vm.claim(claim, spec.cpu_millicores, spec.memory_mb, request_id).await {
            Ok(()) => Ok(vm),
            Err(error) => {
                vm.destroy().await;
                Err(error)
            }
        }
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
                bunker.state.send_replace(State::Running(Guest { channel, claim }));
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
            Err(error) => format!("cannot start the microVM: {}", chain(&error)),
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

    /// What a running bunker's exec needs.
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

    /// Adopts the bunkers of an earlier server whose VMs still run, and frees all else it left.
    pub async fn recover(self: &Arc<Self>) -> io::Result<()> {
        for (home, record) in VmHome::scan(&self.pool.host().vms_dir)? {
            match record {
                Some(record) => self.recover_one(home, record).await,
                None => self.reap(home, None).await,
            }
        }
        Ok(())
    }

    async fn recover_one(self: &Arc<Self>, home: VmHome, record: VmRecord) {
        let alive = record.process.filter(|mark| mark.is_alive());
        let (Some(mark), Some(claim)) = (alive, record.claim.clone()) else {
            return self.reap(home, Some(record)).await;
        };
        let Ok(process) = JailedProcess::adopt(mark.pid) else {
            return self.reap(home, Some(record)).await;
        };
        let id = claim.bunker_id;
        let (bunker, _) = self.entry(id);
        let adopted = self.pool.host().adopt(home, record, process).await;
        match &adopted {
            Ok(_) => tracing::info!(bunker_id = %id, "bunker adopted"),
            Err(error) => {
                tracing::warn!(bunker_id = %id, error = %chain(error), "cannot adopt a bunker");
            }
        }
        let supervisor = Arc::clone(self);
        self.tasks.spawn(async move { supervisor.drive(id, &bunker, adopted).await });
    }

    /// Frees what an earlier server left of a VM that no bunker uses.
    async fn reap(&self, home: VmHome, record: Option<VmRecord>) {
        let mark = record.and_then(|record| record.process).filter(|mark| mark.is_alive());
        let process = mark.and_then(|mark| JailedProcess::adopt(mark.pid).ok());
        let cgroup = self.pool.host().cgroups.as_ref().map(|root| Cgroup::open(root, &home.name()));
        tracing::info!(vm_id = home.name(), "freeing what an earlier server left");
        let free = move || {
            drop(process);
            // A VMM that was started but not yet written down is known by its cgroup alone.
            for pid in cgroup.iter().flat_map(Cgroup::pids) {
                drop(JailedProcess::adopt(pid));
            }
            drop((cgroup, home));
        };
        let _ = tokio::task::spawn_blocking(free).await;
    }

    /// Returns once every bunker has been ended or left, after `shutdown` was cancelled.
    pub async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
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
