//! The controllers that share a database: who lives, where workers reach them, and which of them
//! runs a task of which there is to be one.
//!
//! Each writes down every few seconds that it lives. Nobody is special: whoever finds a task's lease
//! free takes it, and whoever dies is forgotten.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use scaibunker_api::{ids::ControllerId, worker::ControllerAddress};

use crate::store::{SeenController, Store, StoreError};

/// Between two signs of life.
pub const SIGN_INTERVAL: Duration = Duration::from_secs(3);
/// After so long without one a controller counts as dead.
const LIFETIME: SignedDuration = SignedDuration::from_secs(15);
/// The right to a task, and how much of it is left when it is renewed.
const LEASE: SignedDuration = SignedDuration::from_secs(15);
const RENEWAL: SignedDuration = SignedDuration::from_secs(10);

/// This controller among its like.
pub struct Replicas {
    id: ControllerId,
    url: Option<String>,
    store: Store,
    /// Those that live, this one included, as far as it knows.
    live: Mutex<Vec<SeenController>>,
    /// Until when this one holds which task.
    held: Mutex<HashMap<&'static str, Timestamp>>,
}

impl Replicas {
    /// A controller that workers reach at `url`, if there is such an address.
    #[must_use]
    pub fn new(store: Store, url: Option<String>) -> Self {
        let id = ControllerId::generate();
        Self { id, url, store, live: Mutex::default(), held: Mutex::default() }
    }

    /// This controller's id, new with every start.
    #[must_use]
    pub fn id(&self) -> ControllerId {
        self.id
    }

    fn live(&self) -> MutexGuard<'_, Vec<SeenController>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, HashMap<&'static str, Timestamp>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a sign of life and looks for those of the others.
    pub async fn sign(&self) -> Result<(), StoreError> {
        let now = Timestamp::now();
        let oldest = now - LIFETIME;
        let own = SeenController { id: self.id, url: self.url.clone(), seen_at: now };
        self.store.note_controller(&own, oldest).await?;
        let seen = self.store.controllers().await?;
        *self.live() = seen;
        Ok(())
    }

    /// Leaves the tasks to the others.
    pub async fn leave(&self) {
        if let Err(error) = self.store.forget_controller(self.id).await {
            // They find out by themselves.
            tracing::warn!(error = crate::failure::chain(&error), "cannot say good-bye");
        }
    }

    /// Whether a controller is another one than this, and lives. One that is alone has none: whoever
    /// was seen is what it was before it was killed.
    #[must_use]
    pub fn is_another_alive(&self, id: ControllerId) -> bool {
        self.url.is_some() && id != self.id && self.live().iter().any(|seen| seen.id == id)
    }

    /// Whether there are others.
    #[must_use]
    pub fn are_several(&self) -> bool {
        self.url.is_some() && self.live().iter().any(|seen| seen.id != self.id)
    }

    /// Where workers reach each live controller.
    #[must_use]
    pub fn addresses(&self) -> Vec<ControllerAddress> {
        self.live().iter().filter_map(SeenController::address).collect()
    }

    /// Whether this controller is the one that runs a task now.
    pub async fn holds(&self, task: &'static str) -> Result<bool, StoreError> {
        if self.url.is_none() {
            return Ok(true);
        }
        let now = Timestamp::now();
        if self.held().get(task).is_some_and(|until| until.duration_since(now) > RENEWAL) {
            return Ok(true);
        }
        let until = now + LEASE;
        let holds = self.store.hold_task(task, self.id, now, until).await?;
        if holds {
            self.held().insert(task, until);
        } else {
            self.held().remove(task);
        }
        Ok(holds)
    }
}
