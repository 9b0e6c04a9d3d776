//! Driving one bunker: this task alone owns its VM, carries out what is ordered, and publishes
//! what became of it.

use std::{fs::File, sync::Arc};

use jiff::Timestamp;
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    ids::BunkerId,
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};

use super::{Bunker, Supervisor};
use crate::{
    assets::BakedImage,
    bunker_state::{BunkerState, Guest},
    chain,
    engine::Shape,
    execs::END_LIMIT,
    vm::{Copied, Moment, Vm, VmError},
    vm_home::{Claim, Pause},
};

/// Calls on files of one bunker at once. The guest serves 256 streams: all of these and every
/// command leave it room for signals.
const MAX_FILE_CALLS: usize = 64;

/// What a running or paused bunker shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// Unless it has worked since.
    Pause {
        idle_since: Option<Timestamp>,
    },
    Resume,
}

/// What is ordered of a bunker's driver, by whoever waits for it.
#[derive(Debug)]
pub(super) enum Order {
    Swing {
        want: Want,
        request_id: String,
        done: oneshot::Sender<Result<(), ErrorBody>>,
    },
    CopyDisk {
        target: File,
        request_id: String,
        done: oneshot::Sender<Result<Copied, ErrorBody>>,
    },
    CopyAll {
        copy: Box<CopyAll>,
        request_id: String,
        done: oneshot::Sender<Result<Moment, ErrorBody>>,
    },
}

/// What a copy of everything takes.
#[derive(Debug)]
pub(super) struct CopyAll {
    pub shape: Shape,
    pub image: BakedImage,
    /// Empty.
    pub scratch: File,
}

/// A bunker with its VM.
struct Driven<'a> {
    /// When it last worked, as far as this server knows.
    active_at: Timestamp,
    id: BunkerId,
    bunker: &'a Bunker,
    vm: Vm,
    claim: Arc<Claim>,
    file_calls: Arc<Semaphore>,
}

impl Supervisor {
    /// Owns the VM until it ends, is deleted, or the server stops. `active_at`: when a bunker that
    /// is not paused has last worked.
    pub(super) async fn drive(
        &self,
        id: BunkerId,
        bunker: &Bunker,
        orders: mpsc::Receiver<Order>,
        active_at: Timestamp,
        started: Result<Vm, VmError>,
    ) {
        let reason = match started {
            Ok(vm) => match vm.owner().cloned() {
                Some(claim) => {
                    let file_calls = Arc::new(Semaphore::new(MAX_FILE_CALLS));
                    let claim = Arc::new(claim);
                    let driven = Driven { active_at, id, bunker, vm, claim, file_calls };
                    match self.hold(driven, orders).await {
                        Some(reason) => reason,
                        None => return,
                    }
                }
                None => {
                    vm.destroy().await;
                    "the VM lost its owner".to_owned()
                }
            },
            Err(error) => format!("cannot use the microVM: {}", chain(&error)),
        };
        tracing::info!(bunker_id = %id, reason, "bunker ended");
        if let Some(last) = bunker.activity.last_active_at() {
            bunker.activity.stand_still(last);
        }
        bunker.state.send_replace(BunkerState::Ended { reason });
        self.ended.send_replace(());
    }

    /// Returns why the bunker ended, after its VM was freed, or `None` if the VM was left running.
    async fn hold(
        &self,
        mut driven: Driven<'_>,
        mut orders: mpsc::Receiver<Order>,
    ) -> Option<String> {
        let stop = driven.bunker.stop.clone();
        // An order under way is given up with the VM. One that is left to the next server has been
        // written down as far as it went.
        let reason = tokio::select! {
            reason = driven.follow(&mut orders) => reason,
            () = stop.cancelled() => "deleted".to_owned(),
            () = self.shutdown.cancelled() => "the server was stopped".to_owned(),
        };
        if self.shutdown.is_cancelled() && self.keep_bunkers {
            driven.vm.leave_running();
            return None;
        }
        driven.vm.destroy().await;
        Some(reason)
    }
}

impl Driven<'_> {
    /// Publishes the VM and carries out orders until it ends.
    async fn follow(&mut self, orders: &mut mpsc::Receiver<Order>) -> String {
        if let Err(error) = self.begin() {
            return format!("cannot use the microVM: {}", chain(&error));
        }
        loop {
            let order = tokio::select! {
                reason = self.vm.ended() => return reason,
                Some(order) = orders.recv() => order,
            };
            // A caller that has gone needs no answer, here and below.
            match order {
                Order::Swing { want, request_id, done } => {
                    let swung = match (want, self.vm.paused().is_some()) {
                        (Want::Pause { idle_since: Some(since) }, false)
                            if self.has_worked_since(since) =>
                        {
                            // A caller that has gone needs no answer.
                            let _ = done.send(Err(at_work(self.id)));
                            continue;
                        }
                        (Want::Pause { .. }, false) => self.pause(&request_id).await,
                        (Want::Resume, true) => self.resume(&request_id).await,
                        (Want::Pause { .. }, true) | (Want::Resume, false) => Ok(()),
                    };
                    let what = match want {
                        Want::Pause { .. } => "could not be paused and runs on",
                        Want::Resume => "could not be resumed and stays paused",
                    };
                    if let Some(reason) = self.answer(what, swung, done).await {
                        return reason;
                    }
                }
                Order::CopyDisk { target, request_id, done } => {
                    let copied = self.vm.copy_disk(&target, &request_id).await;
                    if let Some(reason) = self.answer("could not be copied", copied, done).await {
                        return reason;
                    }
                }
                Order::CopyAll { copy, request_id, done } => {
                    let CopyAll { shape, image, scratch } = *copy;
                    let copied = self.vm.copy_all(shape, image, scratch, &request_id).await;
                    if let Some(reason) = self.answer("could not be copied", copied, done).await {
                        return reason;
                    }
                }
            }
        }
    }

    /// Tells what became of an order. Gives the reason if the bunker cannot be kept.
    async fn answer<T>(
        &mut self,
        what: &str,
        carried_out: Result<T, VmError>,
        done: oneshot::Sender<Result<T, ErrorBody>>,
    ) -> Option<String> {
        let (answer, lost) = match carried_out {
            Ok(value) => (Ok(value), None),
            // A VMM that does not obey cannot be kept: nobody knows whether the guest runs.
            Err(VmError::Engine(error)) => {
                // It may be just about to end, which is the better reason.
                let ended = timeout(END_LIMIT, self.vm.ended()).await;
                let reason = ended.unwrap_or_else(|_| chain(&error));
                let message = format!("bunker {} was lost: {reason}", self.id);
                (Err(ErrorBody::new(ErrorCode::BunkerLost, message)), Some(reason))
            }
            Err(error) => (Err(self.refused(what, &error)), None),
        };
        let _ = done.send(answer);
        lost
    }

    fn begin(&self) -> Result<(), VmError> {
        let Self { id, bunker, vm, .. } = self;
        bunker.execs.record_in(vm.home().path());
        if let Some(vitals) = vm.vitals() {
            // A bunker has one VM.
            let _ = bunker.vitals.set(vitals);
        }
        if let Some(address) = vm.address() {
            let _ = bunker.address.set(address);
        }
        match vm.paused() {
            Some(Pause { last_active_at }) => {
                tracing::info!(bunker_id = %id, "bunker is paused");
                bunker.activity.stand_still(last_active_at);
                self.publish_paused();
            }
            None => {
                tracing::info!(bunker_id = %id, "bunker runs");
                bunker.activity.run(self.active_at);
                self.publish_running()?;
            }
        }
        Ok(())
    }

    fn has_worked_since(&self, since: Timestamp) -> bool {
        self.bunker.activity.last_active_at().is_none_or(|last| last > since)
    }

    async fn pause(&mut self, request_id: &str) -> Result<(), VmError> {
        let activity = &self.bunker.activity;
        let last_active_at = activity.last_active_at().unwrap_or_else(Timestamp::now);
        activity.stand_still(last_active_at);
        if let Err(error) = self.vm.pause(Pause { last_active_at }, request_id).await {
            activity.run(last_active_at);
            return Err(error);
        }
        tracing::info!(bunker_id = %self.id, "bunker paused");
        self.publish_paused();
        Ok(())
    }

    async fn resume(&mut self, request_id: &str) -> Result<(), VmError> {
        self.vm.resume(request_id).await?;
        tracing::info!(bunker_id = %self.id, "bunker resumed");
        // Else a bunker with an idle limit would end as soon as it runs.
        self.bunker.activity.run(Timestamp::now());
        self.publish_running()
    }

    fn publish_running(&self) -> Result<(), VmError> {
        let guest = Guest {
            channel: self.vm.channel()?,
            claim: Arc::clone(&self.claim),
            file_calls: Arc::clone(&self.file_calls),
            activity: Arc::clone(&self.bunker.activity),
        };
        self.bunker.state.send_replace(BunkerState::Running(guest));
        Ok(())
    }

    fn publish_paused(&self) {
        let started_at = self.claim.started_at;
        self.bunker.state.send_replace(BunkerState::Paused { started_at });
    }

    /// The error of an order that left the bunker as it was.
    fn refused(&self, what: &str, error: &VmError) -> ErrorBody {
        let message = format!("bunker {} {what}: {}", self.id, chain(error));
        tracing::warn!(bunker_id = %self.id, message, "an order was not carried out");
        ErrorBody::new(ErrorCode::ProvisioningFailed, message)
    }
}

fn at_work(id: BunkerId) -> ErrorBody {
    ErrorBody::new(ErrorCode::BunkerBusy, format!("bunker {id} is at work again"))
}
