//! Ending a bunker: write down that it ends, have the worker free everything, write down that it
//! did. Each step may be the last that this process takes; the reconciler takes the others.

use std::sync::Arc;

use jiff::Timestamp;
use scaibunker_api::{bunker::BunkerStatus, error::ErrorCode};
use tokio::task::JoinHandle;
use tracing::Instrument as _;

use super::Bunkers;
use crate::{
    domain::bunker::{Bunker, Event},
    failure::chain,
    fleet::{Link, LinkError},
    store::StoreError,
};

impl Bunkers {
    /// Writes down that the bunker ends, and begins to end it: the handle has the bunker after
    /// that. For a bunker that has ended both are the same.
    pub async fn request_end(
        self: &Arc<Self>,
        bunker: Bunker,
        reason: Option<String>,
        request_id: String,
    ) -> Result<(Bunker, JoinHandle<Result<Bunker, StoreError>>), StoreError> {
        let bunker = self.apply(bunker, Event::EndRequested { reason }).await?.bunker();
        let (service, ending) = (Arc::clone(self), bunker.clone());
        let work = async move { service.release(ending, &request_id).await };
        let released = self.tasks.spawn(work.instrument(tracing::Span::current()));
        Ok((bunker, released))
    }

    /// Has the worker free what it holds of a terminating bunker.
    async fn release(&self, bunker: Bunker, request_id: &str) -> Result<Bunker, StoreError> {
        if bunker.status() != BunkerStatus::Terminating {
            return Ok(bunker);
        }
        let Some(link) = self.fleet.link(bunker.worker_id) else {
            if bunker.worker().is_none() {
                let released = Event::Released { at: Timestamp::now() };
                return Ok(self.apply(bunker, released).await?.bunker());
            }
            tracing::warn!(bunker_id = %bunker.id, "no link to the worker of a bunker that ends");
            return Ok(bunker);
        };
        match forget(&link, &bunker, request_id).await {
            Ok(()) => {
                let released = Event::Released { at: Timestamp::now() };
                Ok(self.apply(bunker, released).await?.bunker())
            }
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(bunker_id = %bunker.id, error, "the worker did not end a bunker");
                Ok(bunker)
            }
        }
    }
}

async fn forget(link: &Link, bunker: &Bunker, request_id: &str) -> Result<(), LinkError> {
    match link.remove(bunker.id, request_id).await {
        Err(LinkError::Refused(error)) if error.code == ErrorCode::NotFound => Ok(()),
        result => result,
    }
}
