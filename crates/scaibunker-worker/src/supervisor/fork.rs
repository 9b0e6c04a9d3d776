//! Copies of a running bunker that go on beside it.

use std::sync::Arc;

use futures_util::future::join_all;
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    ids::BunkerId,
    worker::{BunkerReport, ExecReport, ForkBunker, ForkedBunker, StartBunker, WorkerBunkerState},
};

use super::{
    Supervisor,
    drive::{CopyAll, Order},
    origin::{Origin, shape},
};
use crate::vm::{Moment, Past};

impl Supervisor {
    /// Copies a bunker as it is at one moment, and starts the children from that. Each has run or ended by
    /// the time this returns.
    pub async fn fork(
        self: &Arc<Self>,
        parent: BunkerId,
        ask: ForkBunker,
        request_id: String,
    ) -> Result<ForkedBunker, ErrorBody> {
        let moment = self.copy_all(parent, &ask.start, request_id.clone()).await?;
        let children = ask.children.into_iter().map(|id| {
            let origin =
                Origin::Moment { template: Arc::clone(&moment.template), past: Past::Anothers };
            let (start, request_id) = (ask.start.clone(), request_id.clone());
            async move {
                match self.start(id, start, origin, request_id).await {
                    Ok(report) => report,
                    Err(ErrorBody { message: reason, .. }) => ended(id, reason),
                }
            }
        });
        let children = join_all(children).await;
        let stood_still_us = u64::try_from(moment.stood_still.as_micros()).unwrap_or(u64::MAX);
        Ok(ForkedBunker { stood_still_us, children })
    }

    /// What a bunker remembers of its commands, none of which runs any more.
    pub fn at_rest(&self, id: BunkerId) -> Result<Vec<ExecReport>, ErrorBody> {
        let execs = self.execs(id)?;
        if execs.running() > 0 {
            let message = format!("commands run in bunker {id}, which would lose their output");
            return Err(ErrorBody::new(ErrorCode::BunkerBusy, message));
        }
        Ok(execs.reports())
    }

    /// Copies everything of a bunker as it is at one moment. `spec` is what it was started with.
    pub async fn copy_all(
        &self,
        id: BunkerId,
        spec: &StartBunker,
        request_id: String,
    ) -> Result<Moment, ErrorBody> {
        let image = self.pool.images().image(&spec.image).ok_or_else(|| {
            let message = format!("this worker has no image `{}`", spec.image);
            ErrorBody::new(ErrorCode::NoSuitableWorker, message)
        })?;
        let scratch = tempfile::tempfile_in(&self.pool.host().vms_dir).map_err(|error| {
            let message = format!("cannot make room for a copy of bunker {id}: {error}");
            ErrorBody::new(ErrorCode::ProvisioningFailed, message)
        })?;
        let copy = Box::new(CopyAll { shape: shape(spec), image, scratch });
        self.order(id, |done| Order::CopyAll { copy, request_id, done }).await
    }
}

fn ended(id: BunkerId, reason: String) -> BunkerReport {
    let state = WorkerBunkerState::Ended { reason };
    BunkerReport { id, state, started_at: None, last_active_at: None, ip_address: None }
}
