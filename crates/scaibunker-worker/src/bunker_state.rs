//! The states of a bunker on its worker, and what calls see of them.
//!
//! ```text
//! starting ─▶ running ◀─▶ paused
//!     └──────────┴───────────┴──▶ ended
//! ```

use std::{future::pending, sync::Arc};

use jiff::Timestamp;
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    ids::BunkerId,
    worker::WorkerBunkerState,
};
use tokio::sync::{Semaphore, watch};

use crate::{activity::Activity, channel::GuestChannel, vm_home::Claim};

/// What a call on a running bunker needs.
#[derive(Debug, Clone)]
pub struct Guest {
    pub channel: GuestChannel,
    pub claim: Arc<Claim>,
    /// One permit for each call on files.
    pub file_calls: Arc<Semaphore>,
    pub activity: Arc<Activity>,
}

/// What the bunker's driver publishes.
#[derive(Debug, Clone)]
pub enum BunkerState {
    Starting,
    Running(Guest),
    Paused { started_at: Timestamp },
    Ended { reason: String },
}

impl BunkerState {
    /// The guest of a running bunker, or why there is none.
    pub fn guest(&self, id: BunkerId) -> Result<Guest, ErrorBody> {
        let message = match self {
            Self::Running(guest) => return Ok(guest.clone()),
            Self::Starting => format!("bunker {id} is still starting; wait until it runs"),
            Self::Paused { .. } => return Err(paused(id)),
            Self::Ended { reason } => format!("bunker {id} has ended: {reason}"),
        };
        Err(ErrorBody::new(ErrorCode::BunkerNotRunning, message))
    }

    /// As the controller sees it, and since when the bunker runs.
    #[must_use]
    pub fn reported(&self) -> (WorkerBunkerState, Option<Timestamp>) {
        match self {
            Self::Starting => (WorkerBunkerState::Starting, None),
            Self::Running(guest) => (WorkerBunkerState::Running, Some(guest.claim.started_at)),
            Self::Paused { started_at } => (WorkerBunkerState::Paused, Some(*started_at)),
            Self::Ended { reason } => (WorkerBunkerState::Ended { reason: reason.clone() }, None),
        }
    }
}

/// What a call that needs a running guest is answered while it stands still.
#[must_use]
pub fn paused(id: BunkerId) -> ErrorBody {
    let message = format!("bunker {id} is paused; resume it (POST /bunkers/{id}/resume) first");
    ErrorBody::new(ErrorCode::BunkerNotRunning, message)
}

/// Follows one bunker's state.
#[derive(Debug, Clone)]
pub struct BunkerWatch(watch::Receiver<BunkerState>);

impl BunkerWatch {
    /// From now on.
    #[must_use]
    pub fn new(state: watch::Receiver<BunkerState>) -> Self {
        Self(state)
    }

    /// Returns once the bunker has ended, and why.
    pub async fn ended(&mut self) -> String {
        match self.0.wait_for(|state| matches!(state, BunkerState::Ended { .. })).await.as_deref() {
            Ok(BunkerState::Ended { reason }) => reason.clone(),
            // The bunker has been forgotten.
            _ => "deleted".to_owned(),
        }
    }

    /// Returns once the bunker is paused.
    pub async fn paused(&mut self) {
        if self.0.wait_for(|state| matches!(state, BunkerState::Paused { .. })).await.is_err() {
            pending().await
        }
    }

    /// Returns once the bunker is not paused.
    pub async fn unpaused(&mut self) {
        if self.0.wait_for(|state| !matches!(state, BunkerState::Paused { .. })).await.is_err() {
            pending().await
        }
    }
}
