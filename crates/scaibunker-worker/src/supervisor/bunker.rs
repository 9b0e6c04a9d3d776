//! One bunker, as everyone but its driver sees it.

use std::{
    io,
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use jiff::Timestamp;
use scaibunker_api::{
    bunker::BunkerMetrics, error::ErrorBody, ids::BunkerId, worker::BunkerReport,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::drive::Order;
use crate::{
    activity::Activity,
    bunker_state::{BunkerState, BunkerWatch},
    execs::Execs,
    vitals::Vitals,
};

/// Orders to one bunker that wait for their turn.
const MAX_ORDERS: usize = 8;

/// Handle of one bunker.
pub(super) struct Bunker {
    pub state: watch::Sender<BunkerState>,
    pub orders: mpsc::Sender<Order>,
    pub stop: CancellationToken,
    pub execs: Arc<Execs>,
    pub activity: Arc<Activity>,
    /// Set once there is a VM.
    pub vitals: OnceLock<Vitals>,
    /// Set once there is a VM, if it is given one.
    pub address: OnceLock<IpAddr>,
}

impl Bunker {
    /// One that starts, and what is ordered of it.
    pub fn new() -> (Self, mpsc::Receiver<Order>) {
        let (orders, receiver) = mpsc::channel(MAX_ORDERS);
        let bunker = Self {
            state: watch::Sender::new(BunkerState::Starting),
            orders,
            stop: CancellationToken::new(),
            execs: Arc::default(),
            activity: Arc::default(),
            vitals: OnceLock::new(),
            address: OnceLock::new(),
        };
        (bunker, receiver)
    }

    pub fn watch(&self) -> BunkerWatch {
        BunkerWatch::new(self.state.subscribe())
    }

    pub fn is_running(&self) -> bool {
        matches!(*self.state.borrow(), BunkerState::Running(_))
    }

    /// Why there is no VM, unless it runs or is paused.
    pub fn check_vm(&self, id: BunkerId) -> Result<(), ErrorBody> {
        match &*self.state.borrow() {
            BunkerState::Paused { .. } => Ok(()),
            state => state.guest(id).map(drop),
        }
    }

    pub fn report(&self, id: BunkerId) -> BunkerReport {
        let (state, started_at) = self.state.borrow().reported();
        let last_active_at = self.activity.last_active_at();
        let ip_address = self.address.get().copied();
        BunkerReport { id, state, started_at, last_active_at, ip_address }
    }

    /// What its VM uses; reads some files of `/proc`.
    pub fn metrics(&self) -> io::Result<BunkerMetrics> {
        let vitals = self.vitals.get().ok_or(io::ErrorKind::NotFound)?;
        Ok(BunkerMetrics {
            cpu_time_ms: u64::try_from(vitals.cpu_time()?.as_millis()).unwrap_or(u64::MAX),
            memory_bytes: vitals.memory_bytes()?,
            disk_bytes: vitals.disk_bytes()?,
            execs_running: u32::try_from(self.execs.running()).unwrap_or(u32::MAX),
            last_active_at: self.activity.last_active_at().unwrap_or_else(Timestamp::now),
            network: None,
        })
    }
}
