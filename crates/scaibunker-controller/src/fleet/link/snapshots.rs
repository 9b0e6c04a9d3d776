//! Calls about snapshots.

use std::time::Duration;

use http::Method;
use scaibunker_api::{
    ids::{BunkerId, SnapshotId},
    worker::BunkerReport,
};
use scaibunker_snapshot::link::{
    StartFromSnapshot, StoreSnapshot, StoredSnapshot, TakeSnapshot, TakenSnapshot,
};

use super::{Link, LinkError, RequestBody, json_request, request};

/// The guest writes out what it has in memory, and the disk is copied and read.
const TAKE_LIMIT: Duration = Duration::from_secs(600);
/// What is new is stored, which may be a disk's worth of bytes.
const STORE_LIMIT: Duration = Duration::from_secs(3_600);
/// The same is read back.
const RESTORE_LIMIT: Duration = Duration::from_secs(3_600);

impl Link {
    /// Copies a bunker's disk and says what is on it. The worker holds the copy for a while.
    pub async fn take_snapshot(
        &self,
        bunker: BunkerId,
        id: SnapshotId,
        ask: &TakeSnapshot,
        request_id: &str,
    ) -> Result<TakenSnapshot, LinkError> {
        let path = format!("/bunkers/{bunker}/snapshots/{id}");
        self.call(json_request(Method::PUT, &path, request_id, ask)?, TAKE_LIMIT).await
    }

    /// Has the worker store what is new of a copy.
    pub async fn store_snapshot(
        &self,
        id: SnapshotId,
        ask: &StoreSnapshot,
        request_id: &str,
    ) -> Result<StoredSnapshot, LinkError> {
        let path = format!("/snapshots/{id}/store");
        self.call(json_request(Method::POST, &path, request_id, ask)?, STORE_LIMIT).await
    }

    /// Has the worker let go of a copy.
    pub async fn forget_snapshot(&self, id: SnapshotId, request_id: &str) -> Result<(), LinkError> {
        let path = format!("/snapshots/{id}");
        self.tell(request(Method::DELETE, &path, request_id, RequestBody::Empty)).await
    }

    /// Starts a bunker from a snapshot; returns once it runs.
    pub async fn start_from_snapshot(
        &self,
        id: BunkerId,
        start: &StartFromSnapshot,
        request_id: &str,
    ) -> Result<BunkerReport, LinkError> {
        let path = format!("/bunkers/{id}/from-snapshot");
        self.call(json_request(Method::PUT, &path, request_id, start)?, RESTORE_LIMIT).await
    }
}
