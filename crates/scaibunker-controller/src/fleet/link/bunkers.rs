//! Calls on bunkers as a whole.

use std::time::Duration;

use http::Method;
use scaibunker_api::{
    bunker::BunkerMetrics,
    ids::BunkerId,
    worker::{BunkerReport, ForkBunker, ForkedBunker, PauseBunker, StartBunker},
};

use super::{CALL_LIMIT, Link, LinkError, RequestBody, json_request, request};

/// A microVM that is not there after this long counts as failed.
const START_LIMIT: Duration = Duration::from_secs(60);
/// A hundred of them take their time.
const FORK_LIMIT: Duration = Duration::from_secs(300);

impl Link {
    /// Starts a bunker; returns once it runs.
    pub async fn start(
        &self,
        id: BunkerId,
        spec: &StartBunker,
        request_id: &str,
    ) -> Result<BunkerReport, LinkError> {
        let request = json_request(Method::PUT, &format!("/bunkers/{id}"), request_id, spec)?;
        self.call(request, START_LIMIT).await
    }

    /// Copies a bunker and starts its children; returns once each runs or has ended.
    pub async fn fork(
        &self,
        parent: BunkerId,
        ask: &ForkBunker,
        request_id: &str,
    ) -> Result<ForkedBunker, LinkError> {
        let path = format!("/bunkers/{parent}/fork");
        let request = json_request(Method::POST, &path, request_id, ask)?;
        self.call(request, FORK_LIMIT).await
    }

    /// Frees everything of a bunker and makes the worker forget it.
    pub async fn remove(&self, id: BunkerId, request_id: &str) -> Result<(), LinkError> {
        let path = format!("/bunkers/{id}");
        self.tell(request(Method::DELETE, &path, request_id, RequestBody::Empty)).await
    }

    /// Stops a bunker's CPUs.
    pub async fn pause(
        &self,
        id: BunkerId,
        limit: &PauseBunker,
        request_id: &str,
    ) -> Result<(), LinkError> {
        let path = format!("/bunkers/{id}/pause");
        self.tell(json_request(Method::POST, &path, request_id, limit)?).await
    }

    /// Lets a bunker's CPUs run again.
    pub async fn resume(&self, id: BunkerId, request_id: &str) -> Result<(), LinkError> {
        let path = format!("/bunkers/{id}/resume");
        self.tell(request(Method::POST, &path, request_id, RequestBody::Empty)).await
    }

    /// What the worker knows of one bunker.
    pub async fn report(&self, id: BunkerId, request_id: &str) -> Result<BunkerReport, LinkError> {
        let path = format!("/bunkers/{id}");
        self.call(request(Method::GET, &path, request_id, RequestBody::Empty), CALL_LIMIT).await
    }

    /// What a bunker uses.
    pub async fn metrics(
        &self,
        id: BunkerId,
        request_id: &str,
    ) -> Result<BunkerMetrics, LinkError> {
        let path = format!("/bunkers/{id}/metrics");
        self.call(request(Method::GET, &path, request_id, RequestBody::Empty), CALL_LIMIT).await
    }

    /// What the worker holds.
    pub async fn list(&self, request_id: &str) -> Result<Vec<BunkerReport>, LinkError> {
        let request = request(Method::GET, "/bunkers", request_id, RequestBody::Empty);
        self.call(request, CALL_LIMIT).await
    }
}
