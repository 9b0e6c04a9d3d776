//! The way into a running bunker.

use std::sync::Arc;

use jiff::Timestamp;
use scaibunker_api::{
    bunker::{BunkerMetrics, BunkerStatus, OnIdle},
    error::ErrorCode,
    ids::BunkerId,
};

use super::Bunkers;
use crate::{
    domain::{actor::Actor, bunker::Bunker},
    failure::Failure,
    fleet::Link,
};

impl Bunkers {
    /// The link to the worker of a bunker that the caller sees and that runs. Looking at a bunker
    /// is no activity of it.
    pub async fn link(&self, actor: &Actor, id: BunkerId) -> Result<Link, Failure> {
        self.link_of_running(&self.get(actor, id).await?)
    }

    fn link_of_running(&self, bunker: &Bunker) -> Result<Link, Failure> {
        if bunker.status() != BunkerStatus::Running {
            let status = bunker.status().as_str();
            let reason = bunker.life().status_reason.as_deref();
            let why = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
            let message = match bunker.status() {
                BunkerStatus::Paused => "the bunker is paused; resume it first".to_owned(),
                _ => format!("the bunker is {status}{why}; this needs a running one"),
            };
            return Err(Failure::new(ErrorCode::BunkerNotRunning, message));
        }
        self.link_of(bunker)
    }

    /// The link to the worker of a bunker, whatever its status.
    pub fn link_of(&self, bunker: &Bunker) -> Result<Link, Failure> {
        if bunker.worker().is_none() {
            let message = "the bunker's memory is written out; resume it first";
            return Err(Failure::new(ErrorCode::BunkerNotRunning, message));
        }
        let message = "the bunker's worker is not linked at the moment; try again";
        Ok(self.fleet.link_or(bunker.worker_id, message)?)
    }

    /// What a bunker that runs or is paused uses. Looking at it is no activity of it.
    pub async fn metrics(&self, actor: &Actor, id: BunkerId) -> Result<BunkerMetrics, Failure> {
        let bunker = self.get(actor, id).await?;
        match bunker.status() {
            BunkerStatus::Running | BunkerStatus::Paused => {
                Ok(self.link_of(&bunker)?.metrics(id, &actor.request_id.to_string()).await?)
            }
            status => {
                let message = format!("the bunker is {}; it uses nothing", status.as_str());
                Err(Failure::new(ErrorCode::BunkerNotRunning, message))
            }
        }
    }

    /// [`Self::link`] for work in the bunker, which counts as its activity. One that is paused when it is
    /// idle is resumed for it.
    pub async fn enter(self: &Arc<Self>, actor: &Actor, id: BunkerId) -> Result<Link, Failure> {
        let mut bunker = self.get(actor, id).await?;
        if bunker.status() == BunkerStatus::Paused && bunker.spec.on_idle == OnIdle::Pause {
            bunker = self.resume(actor, id).await?;
        }
        let link = self.link_of_running(&bunker)?;
        self.store.touch_bunker(id, Timestamp::now()).await?;
        Ok(link)
    }
}
