//! Stopping a bunker's CPUs and letting them run again.
//!
//! The worker does it first, then it is written down; what a crash leaves in between the reconciler
//! settles in the worker's favour.

use std::sync::Arc;

use jiff::Timestamp;
use scaibunker_api::{bunker::BunkerStatus, error::ErrorCode, ids::BunkerId, worker::PauseBunker};

use super::{Bunkers, transition::Outcome};
use crate::{
    domain::{
        actor::Actor,
        bunker::{Bunker, Event},
    },
    failure::{Failure, chain},
    fleet::LinkError,
};

impl Bunkers {
    /// Stops the bunker's CPUs. It gives its CPU quota back and keeps everything else. Doing it
    /// again is no error.
    pub async fn pause(&self, actor: &Actor, id: BunkerId) -> Result<Bunker, Failure> {
        let bunker = self.get(actor, id).await?;
        match bunker.status() {
            BunkerStatus::Paused => return Ok(bunker),
            BunkerStatus::Running => {}
            status => return Err(not(status, "paused", "a running")),
        }
        let link = self.link_of(&bunker)?;
        let limit = PauseBunker::default();
        link.pause(id, &limit, &actor.request_id.to_string()).await?;
        self.changed_to(bunker, Event::Paused { reason: None, at: Timestamp::now() }).await
    }

    /// Stops the CPUs of a bunker that has done nothing since `active_at`, unless it does something now.
    pub async fn pause_idle(
        &self,
        bunker: Bunker,
        active_at: Timestamp,
        reason: String,
        request_id: &str,
    ) -> Result<(), Failure> {
        let link = self.link_of(&bunker)?;
        let limit = PauseBunker { idle_since: Some(active_at) };
        match link.pause(bunker.id, &limit, request_id).await {
            Err(LinkError::Refused(error)) if error.code == ErrorCode::BunkerBusy => Ok(()),
            paused => {
                paused?;
                self.changed_to(
                    bunker,
                    Event::Paused { reason: Some(reason), at: Timestamp::now() },
                )
                .await
                .map(drop)
            }
        }
    }

    /// Lets the bunker's CPUs run again, if its owner's quota has room for them.
    pub async fn resume(self: &Arc<Self>, actor: &Actor, id: BunkerId) -> Result<Bunker, Failure> {
        let bunker = self.get(actor, id).await?;
        match bunker.status() {
            BunkerStatus::Running => return Ok(bunker),
            BunkerStatus::Paused => {}
            status => return Err(not(status, "resumed", "a paused")),
        }
        if let Some(from) = bunker.life().evicted_to {
            return self.bring_back(actor, bunker, from).await;
        }
        let link = self.link_of(&bunker)?;
        self.reserve_cpu(actor, &bunker).await?;
        if let Err(error) = link.resume(id, &actor.request_id.to_string()).await {
            if let Err(error) = self.ledger.pause(id).await {
                tracing::warn!(bunker_id = %id, error = chain(&error), "cannot give CPU back");
            }
            return Err(error.into());
        }
        self.changed_to(bunker, Event::Resumed).await
    }

    async fn changed_to(&self, bunker: Bunker, event: Event) -> Result<Bunker, Failure> {
        let wanted = bunker.apply(event.clone()).map(|bunker| bunker.status());
        match self.apply(bunker, event).await? {
            Outcome::Applied(bunker) => Ok(bunker),
            // Another call, or the reconciler, was quicker.
            Outcome::Rejected(bunker) if wanted == Ok(bunker.status()) => Ok(bunker),
            Outcome::Rejected(bunker) => Err(not(bunker.status(), "changed", "a living")),
        }
    }
}

fn not(status: BunkerStatus, done: &str, needed: &str) -> Failure {
    let message =
        format!("the bunker is {} and cannot be {done}; this needs {needed} one", status.as_str());
    Failure::new(ErrorCode::BunkerNotRunning, message)
}
