//! The one way in which a bunker's state changes.

use scaibunker_api::bunker::BunkerStatus;

use super::Bunkers;
use crate::{
    domain::bunker::{Bunker, Event},
    store::StoreError,
};

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The bunker after the event.
    Applied(Bunker),
    /// The bunker, which does not take the event in its state.
    Rejected(Bunker),
}

impl Outcome {
    /// The bunker, whatever became of the event.
    #[must_use]
    pub fn bunker(self) -> Bunker {
        match self {
            Self::Applied(bunker) | Self::Rejected(bunker) => bunker,
        }
    }
}

impl Bunkers {
    /// Applies an event to the bunker as it is now, however often others change it meanwhile. For
    /// events that are true whatever the bunker's state.
    pub async fn apply(&self, mut bunker: Bunker, event: Event) -> Result<Outcome, StoreError> {
        loop {
            let Ok(changed) = bunker.apply(event.clone()) else {
                return Ok(Outcome::Rejected(bunker));
            };
            if self.write(&bunker, &changed).await? {
                return Ok(Outcome::Applied(changed));
            }
            match self.store.bunker(bunker.id).await? {
                Some(current) => bunker = current,
                None => return Ok(Outcome::Rejected(bunker)),
            }
        }
    }

    /// Applies an event to exactly the bunker that was read. For events that were concluded from
    /// that reading: `None` when it is out of date.
    pub async fn apply_if_unchanged(
        &self,
        bunker: &Bunker,
        event: Event,
    ) -> Result<Option<Bunker>, StoreError> {
        let Ok(changed) = bunker.apply(event) else { return Ok(None) };
        Ok(self.write(bunker, &changed).await?.then_some(changed))
    }

    async fn write(&self, before: &Bunker, after: &Bunker) -> Result<bool, StoreError> {
        if !self.store.update_life(after).await? {
            return Ok(false);
        }
        if let Some(worker) = before.worker()
            && (after.status().is_terminal() || after.worker().is_none())
        {
            self.fleet.give_back(worker, &after.spec);
        }
        self.settle_quota(before, after).await;
        self.changes.tell(after);
        let life = after.life();
        let (from, to) = (before.status().as_str(), life.status.as_str());
        let (bunker_id, reason) = (after.id, life.status_reason.as_deref().unwrap_or_default());
        match life.status {
            BunkerStatus::Failed => tracing::warn!(%bunker_id, from, to, reason, "bunker failed"),
            _ => tracing::info!(%bunker_id, from, to, reason, "bunker changed its state"),
        }
        Ok(true)
    }
}
