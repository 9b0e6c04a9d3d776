//! Orders to bunkers whose VMM is a sleeping process and whose guest is a double.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Mutex as StdMutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use scaibunker_api::{ids::VmId, worker::StartNetwork};
use tokio::{net::UnixListener, time::timeout};

use super::*;
use crate::{
    assets::BakedImage,
    engine::{AGENT_SOCKET, Capture, Engine, EngineError, MicroVm, SavedVm, Shape, Template},
    guest_double::GuestDouble,
    images::Images,
    scratch::{ScratchDisk, ScratchDisks},
    seat::{Seat, UidSlots},
    vm::Host,
    vm_home::Pause,
};

const LONG_AGO: Timestamp = Timestamp::UNIX_EPOCH;

/// What the double of a VMM was told, and whether it does it.
#[derive(Default)]
struct Told {
    orders: StdMutex<Vec<&'static str>>,
    is_stubborn: AtomicBool,
}

impl Told {
    fn take(&self, order: &'static str) -> Result<(), EngineError> {
        self.orders.lock().unwrap().push(order);
        if self.is_stubborn.load(Ordering::SeqCst) {
            return Err(EngineError::Refused { command: order, message: "no".to_owned() });
        }
        Ok(())
    }

    fn orders(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.orders.lock().unwrap())
    }
}

struct EngineDouble(Arc<Told>);

struct VmDouble {
    process: JailedProcess,
    told: Arc<Told>,
}

fn cannot<T>() -> Result<T, EngineError> {
    Err(EngineError::Protocol("a double cannot do that".to_owned()))
}

#[async_trait]
impl Engine for EngineDouble {
    fn describe(&self) -> String {
        "double".to_owned()
    }

    fn cpu_class(&self) -> String {
        "double".to_owned()
    }

    async fn boot(
        &self,
        _: &Shape,
        _: &BakedImage,
        _: &mut Seat,
        _: ScratchDisk,
    ) -> Result<Box<dyn MicroVm>, EngineError> {
        cannot()
    }

    async fn spawn_clone(
        &self,
        _: &Arc<Template>,
        _: &mut Seat,
        _: ScratchDisk,
    ) -> Result<Box<dyn MicroVm>, EngineError> {
        cannot()
    }

    async fn adopt(
        &self,
        _: &VmHome,
        process: JailedProcess,
    ) -> Result<Box<dyn MicroVm>, EngineError> {
        Ok(Box::new(VmDouble { process, told: Arc::clone(&self.0) }))
    }
}

#[async_trait]
impl MicroVm for VmDouble {
    async fn restore(&mut self, _: &Template) -> Result<(), EngineError> {
        cannot()
    }

    async fn resume(&mut self) -> Result<(), EngineError> {
        self.told.take("cont")
    }

    async fn pause(&mut self) -> Result<(), EngineError> {
        self.told.take("stop")
    }

    async fn begin_disk_copy(&mut self, _: &std::fs::File) -> Result<(), EngineError> {
        cannot()
    }

    async fn finish_disk_copy(&mut self) -> Result<(), EngineError> {
        cannot()
    }

    async fn capture(&mut self) -> Result<Capture, EngineError> {
        cannot()
    }

    async fn save(self: Box<Self>) -> Result<SavedVm, EngineError> {
        cannot()
    }

    fn into_process(self: Box<Self>) -> JailedProcess {
        self.process
    }

    fn tap(&self) -> std::io::Result<std::os::fd::OwnedFd> {
        Err(std::io::ErrorKind::NotFound.into())
    }

    fn process(&self) -> &JailedProcess {
        &self.process
    }
}

/// A worker that has adopted one bunker.
struct Lab {
    id: BunkerId,
    guest: Arc<GuestDouble>,
    told: Arc<Told>,
    supervisor: Arc<Supervisor>,
    dir: tempfile::TempDir,
}

impl Lab {
    async fn new(paused: Option<Pause>) -> Self {
        let (dir, id) = (tempfile::tempdir().unwrap(), BunkerId::generate());
        let vms_dir = dir.path().join("vms");
        std::fs::create_dir(&vms_dir).unwrap();
        let guest = leave_behind(&vms_dir, id, paused);
        let told = Arc::new(Told::default());
        let host = Host {
            engine: Arc::new(EngineDouble(Arc::clone(&told))),
            disks: ScratchDisks::new(dir.path().join("disks")).unwrap(),
            vms_dir,
            cgroups: None,
            uid_slots: Arc::new(UidSlots::default()),
            gpus: Arc::default(),
            networks: None,
        };
        let pool = Pool::new(Arc::new(host), Images::none(dir.path()), 0);
        let supervisor = Supervisor::new(pool, CancellationToken::new(), false);
        supervisor.recover().await.unwrap();
        let lab = Self { id, guest, told, supervisor, dir };
        lab.until(|state| *state != WorkerBunkerState::Starting).await;
        if paused.is_none() {
            // Its server may have died while the guest stood still to be copied.
            assert_eq!(lab.told.orders(), ["cont"]);
            assert_eq!(std::mem::take(&mut *lab.guest.clocks.lock().unwrap()).len(), 1);
        }
        lab
    }

    fn report(&self) -> BunkerReport {
        self.supervisor.report(self.id).unwrap()
    }

    async fn until(&self, is_so: impl Fn(&WorkerBunkerState) -> bool) {
        let waited = async {
            while !is_so(&self.report().state) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(Duration::from_secs(20), waited).await.unwrap();
    }

    async fn pause(&self) -> Result<(), ErrorBody> {
        self.supervisor.pause(self.id, PauseBunker::default(), String::new()).await
    }

    async fn resume(&self) -> Result<(), ErrorBody> {
        self.supervisor.resume(self.id, String::new()).await
    }

    /// What the next server would find.
    fn recorded(&self) -> Option<Pause> {
        let home = VmHome::scan(&self.dir.path().join("vms")).unwrap().pop().unwrap();
        let paused = home.record().paused;
        home.leave();
        paused
    }
}

/// What an earlier server leaves: a record, a process, an agent that listens.
#[expect(clippy::zombie_processes, reason = "whoever adopts the process waits for it")]
fn leave_behind(vms_dir: &Path, id: BunkerId, paused: Option<Pause>) -> Arc<GuestDouble> {
    let mut home = VmHome::create(vms_dir, VmId::generate(), 0).unwrap();
    let vmm = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    home.set_process(vmm.id() as i32).unwrap();
    let claim = Claim {
        bunker_id: id,
        image: String::new(),
        workdir: String::new(),
        image_user: "bunker".to_owned(),
        env: BTreeMap::new(),
        started_at: LONG_AGO,
        network: StartNetwork::default(),
        disk_mb: 64,
    };
    home.set_claim(claim).unwrap();
    home.set_paused(paused).unwrap();
    let listener = std::os::unix::net::UnixListener::from(home.listen(AGENT_SOCKET).unwrap());
    listener.set_nonblocking(true).unwrap();
    let (listener, guest) = (UnixListener::from_std(listener).unwrap(), Arc::default());
    home.leave();
    let served: Arc<GuestDouble> = Arc::clone(&guest);
    tokio::spawn(async move {
        while let Ok((port, _)) = listener.accept().await {
            served.serve(port);
        }
    });
    guest
}

#[tokio::test]
async fn a_bunker_is_paused_and_resumed_once_and_its_record_says_so() {
    let lab = Lab::new(None).await;
    assert!(lab.report().last_active_at.unwrap() > LONG_AGO);
    assert!(lab.told.orders().is_empty());
    lab.pause().await.unwrap();
    lab.pause().await.unwrap();
    let paused = lab.report();
    assert_eq!((paused.state, paused.started_at), (WorkerBunkerState::Paused, Some(LONG_AGO)));
    assert_eq!(lab.recorded().map(|pause| pause.last_active_at), paused.last_active_at);
    assert_eq!(lab.told.orders(), ["stop"]);

    let before = Timestamp::now();
    lab.resume().await.unwrap();
    lab.resume().await.unwrap();
    assert_eq!(lab.report().state, WorkerBunkerState::Running);
    assert_eq!((lab.recorded(), lab.told.orders()), (None, vec!["cont"]));
    assert!(lab.report().last_active_at.unwrap() >= before);
    let clocks = lab.guest.clocks.lock().unwrap().clone();
    assert_eq!(clocks.len(), 1);
    assert!(i128::from(clocks[0]) >= before.as_nanosecond());
}

#[tokio::test]
async fn orders_of_many_callers_are_carried_out_one_after_the_other() {
    let lab = Lab::new(None).await;
    let orders =
        (0..40).map(async |n| if n % 2 == 0 { lab.pause().await } else { lab.resume().await });
    for done in futures_util::future::join_all(orders).await {
        done.unwrap();
    }
    lab.resume().await.unwrap();
    assert_eq!(lab.report().state, WorkerBunkerState::Running);
    let told = lab.told.orders();
    assert!(told.chunks(2).all(|pair| pair == ["stop", "cont"]), "{told:?}");
}

#[tokio::test]
async fn a_paused_bunker_is_adopted_as_such_without_its_agent() {
    let lab = Lab::new(Some(Pause { last_active_at: LONG_AGO })).await;
    let adopted = lab.report();
    assert_eq!(adopted.state, WorkerBunkerState::Paused);
    assert_eq!(adopted.last_active_at, Some(LONG_AGO));
    // The earlier server may have died before it did so.
    assert_eq!(lab.told.orders(), ["stop"]);
    lab.resume().await.unwrap();
    assert_eq!(lab.report().state, WorkerBunkerState::Running);
    assert_eq!(lab.guest.clocks.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_guest_that_does_not_set_its_clock_stays_paused() {
    let lab = Lab::new(None).await;
    lab.pause().await.unwrap();
    lab.guest.has_no_clock.store(true, Ordering::SeqCst);
    let error = lab.resume().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::ProvisioningFailed);
    assert!(error.message.contains("stays paused"), "{error}");
    assert_eq!(lab.report().state, WorkerBunkerState::Paused);
    assert!(lab.recorded().is_some());
    assert_eq!(lab.told.orders(), ["stop", "cont", "stop"]);
    lab.guest.has_no_clock.store(false, Ordering::SeqCst);
    lab.resume().await.unwrap();
    assert_eq!(lab.report().state, WorkerBunkerState::Running);
}

#[tokio::test]
async fn a_bunker_whose_record_cannot_be_written_runs_on() {
    let lab = Lab::new(None).await;
    let vm_dir = VmHome::scan(&lab.dir.path().join("vms")).unwrap().pop().unwrap();
    let next = vm_dir.path().join("record.json.next");
    vm_dir.leave();
    std::fs::create_dir(&next).unwrap();
    let error = lab.pause().await.unwrap_err();
    assert!(error.message.contains("runs on"), "{error}");
    assert_eq!(lab.report().state, WorkerBunkerState::Running);
    assert!(lab.told.orders().is_empty());
    std::fs::remove_dir(next).unwrap();
    lab.pause().await.unwrap();
}

#[tokio::test]
async fn a_vmm_that_does_not_obey_ends_its_bunker() {
    let lab = Lab::new(None).await;
    lab.told.is_stubborn.store(true, Ordering::SeqCst);
    let error = lab.pause().await.unwrap_err();
    assert_eq!(error.code, ErrorCode::BunkerLost);
    lab.until(|state| matches!(state, WorkerBunkerState::Ended { .. })).await;
    assert_eq!(lab.resume().await.unwrap_err().code, ErrorCode::BunkerNotRunning);
    assert_eq!(std::fs::read_dir(lab.dir.path().join("vms")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_paused_bunker_can_be_deleted() {
    let lab = Lab::new(Some(Pause { last_active_at: LONG_AGO })).await;
    lab.supervisor.remove(lab.id).await;
    assert_eq!(lab.resume().await.unwrap_err().code, ErrorCode::NotFound);
    assert_eq!(std::fs::read_dir(lab.dir.path().join("vms")).unwrap().count(), 0);
}

impl Drop for Lab {
    /// Ends what a test leaves running; the process is its bunker's.
    fn drop(&mut self) {
        for home in VmHome::scan(&self.dir.path().join("vms")).unwrap() {
            drop(home.record().process.and_then(same_process));
            home.leave();
        }
    }
}
