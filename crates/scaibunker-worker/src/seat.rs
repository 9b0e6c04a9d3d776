//! What a host sets aside for one microVM before its VMM starts.

use std::{
    collections::BTreeSet,
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use scaibunker_api::ids::VmId;

use crate::{
    gpus::GpuLease,
    jail::{Cgroup, CgroupRoot, JailError},
    network::VmNetwork,
    vm_home::VmHome,
};

/// Nothing could be set aside for a VM.
#[derive(Debug, thiserror::Error)]
pub enum SeatError {
    #[error("cannot make a VM's directory")]
    Home(#[source] io::Error),
    #[error(transparent)]
    Cgroup(#[from] JailError),
}

/// A place for one VMM. The fields' order is the order in which they are freed.
#[derive(Debug)]
pub struct Seat {
    /// `None` where this user may not make any.
    pub cgroup: Option<Cgroup>,
    pub home: VmHome,
    pub uid: UidSlot,
    /// Those that the VM has whole.
    pub gpus: Option<GpuLease>,
    /// That of a VM with a network device.
    pub network: Option<VmNetwork>,
}

impl Seat {
    /// A place whose cgroup has no limits yet.
    pub fn take(
        vms_dir: &Path,
        cgroups: Option<&CgroupRoot>,
        uids: &Arc<UidSlots>,
    ) -> Result<Self, SeatError> {
        let uid = uids.take();
        let home =
            VmHome::create(vms_dir, VmId::generate(), uid.number()).map_err(SeatError::Home)?;
        let cgroup = cgroups.map(|root| Cgroup::create(root, &home.name())).transpose()?;
        Ok(Self { cgroup, home, uid, gpus: None, network: None })
    }

    /// Sets GPUs aside too, and writes that down before the VMM has them.
    pub fn give_gpus(&mut self, gpus: GpuLease) -> Result<(), SeatError> {
        self.home.set_gpus(gpus.addresses()).map_err(SeatError::Home)?;
        self.gpus = Some(gpus);
        Ok(())
    }

    /// Frees everything; done off the runtime, because a cgroup may be busy for a moment.
    pub async fn free(self) {
        // The only failure is a panic in a destructor, which has been reported already.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }

    /// Leaves everything in place, for the next server.
    pub fn leave(self) {
        if let Some(cgroup) = self.cgroup {
            cgroup.leave();
        }
        self.home.leave();
    }
}

/// Hands out the numbers behind the jails' uids, each to one VM at a time.
#[derive(Debug, Default)]
pub struct UidSlots {
    taken: Mutex<BTreeSet<u32>>,
}

/// A number in use; dropping it gives it back.
#[derive(Debug)]
pub struct UidSlot {
    slots: Arc<UidSlots>,
    number: u32,
}

impl UidSlots {
    /// The lowest free number.
    pub fn take(self: &Arc<Self>) -> UidSlot {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let number = (0..).find(|number| !taken.contains(number)).unwrap_or_default();
        taken.insert(number);
        UidSlot { slots: Arc::clone(self), number }
    }

    /// Marks the number of an adopted VM as taken.
    pub fn take_again(self: &Arc<Self>, number: u32) -> UidSlot {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(number);
        UidSlot { slots: Arc::clone(self), number }
    }
}

impl UidSlot {
    /// Which one of the range it is.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }
}

impl Drop for UidSlot {
    fn drop(&mut self) {
        self.slots.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_serves_one_vm_at_a_time() {
        let slots = Arc::new(UidSlots::default());
        let (first, second) = (slots.take(), slots.take());
        assert_eq!((first.number(), second.number()), (0, 1));
        drop(first);
        assert_eq!(slots.take().number(), 0);
        assert_eq!(slots.take_again(7).number(), 7);
    }
}
