//! The way into a running bunker.

use jiff::Timestamp;
use scaibunker_api::{
    bunker::BunkerStatus,
    error::{ErrorBody, ErrorCode},
    ids::BunkerId,
};

use super::Bunkers;
use crate::{domain::actor::Actor, failure::Failure, fleet::Link};

impl Bunkers {
    /// The link to the worker of a bunker that the caller sees and that runs. Looking at a bunker
    /// is no activity of it.
    pub async fn link(&self, actor: &Actor, id: BunkerId) -> Result<Link, Failure> {
        let bunker = self.get(actor, id).await?;
        if bunker.status() != BunkerStatus::Running {
            let status = bunker.status().as_str();
            let reason = bunker.life().status_reason.as_deref();
            let why = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
            let message = format!("the bunker is {status}{why}; this needs a running one");
            return Err(Failure::new(ErrorCode::BunkerNotRunning, message));
        }
        self.fleet.link(bunker.worker_id).ok_or_else(|| {
            let message = "the bunker's worker is not linked at the moment; try again";
            let error = ErrorBody::new(ErrorCode::WorkerUnavailable, message);
            ErrorBody { retry_after: Some(2), ..error }.into()
        })
    }

    /// [`Self::link`] for work in the bunker, which counts as its activity.
    pub async fn enter(&self, actor: &Actor, id: BunkerId) -> Result<Link, Failure> {
        let link = self.link(actor, id).await?;
        self.store.touch_bunker(id, Timestamp::now()).await?;
        Ok(link)
    }
}
