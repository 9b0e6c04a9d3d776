//! Calls that change how a bunker lives, and the stream that tells of it.

use http::Method;
use scaibunker_api::{
    bunker::{Bunker, ForkRequest, PatchBunker, StatusEvent},
    egress::EgressEvent,
    ids::BunkerId,
};

use super::{Client, ClientError, event_stream::EventStream};

/// The statuses of one bunker, as they come.
#[derive(Debug)]
pub struct StatusStream(EventStream);

impl StatusStream {
    /// The next status, first the one at the time of the call; `None` once none will follow.
    /// Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<StatusEvent>, ClientError> {
        while let Some(event) = self.0.next().await? {
            if event.name == "status" {
                return self.0.json(&event).map(Some);
            }
        }
        Ok(None)
    }
}

impl Client {
    /// What a bunker reached and tried to reach.
    pub async fn egress_events(&self, id: BunkerId) -> Result<Vec<EgressEvent>, ClientError> {
        self.every_page(&format!("/bunkers/{id}/egress-audit?")).await
    }

    /// Stops a bunker's CPUs.
    pub async fn pause_bunker(&self, id: BunkerId) -> Result<Bunker, ClientError> {
        self.change(Method::POST, &format!("/bunkers/{id}/pause"), None::<&()>).await
    }

    /// Lets them run again.
    pub async fn resume_bunker(&self, id: BunkerId) -> Result<Bunker, ClientError> {
        self.change(Method::POST, &format!("/bunkers/{id}/resume"), None::<&()>).await
    }

    /// Forks a bunker, and waits until its children run or have failed.
    pub async fn fork_bunker(
        &self,
        id: BunkerId,
        request: &ForkRequest,
    ) -> Result<Vec<Bunker>, ClientError> {
        let path = format!("/bunkers/{id}/fork?wait=true&wait_timeout_s=600");
        self.change(Method::POST, &path, Some(request)).await
    }

    /// Changes what may be changed of a bunker.
    pub async fn patch_bunker(
        &self,
        id: BunkerId,
        patch: &PatchBunker,
    ) -> Result<Bunker, ClientError> {
        self.change(Method::PATCH, &format!("/bunkers/{id}"), Some(patch)).await
    }

    /// Follows a bunker's status.
    pub async fn status_events(&self, id: BunkerId) -> Result<StatusStream, ClientError> {
        let path = format!("/bunkers/{id}/events");
        let response = self.transport.open(Method::GET, &path, None::<&()>).await?;
        Ok(StatusStream(EventStream::new(response)))
    }
}
