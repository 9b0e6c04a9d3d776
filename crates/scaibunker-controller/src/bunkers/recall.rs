//! Bringing a bunker back whose memory was written out, on whichever worker can go on with it.
//!
//! Room is taken under a name of its own, and becomes the bunker's when it runs. Until then the bunker is
//! where it was written to: whatever fails or dies on the way is forgotten by the worker, and tried anew by
//! the next who resumes it. Of two who do so at once the last to begin wins.

use std::sync::Arc;

use scaibunker_api::{
    bunker::BunkerStatus,
    error::ErrorCode,
    ids::{BunkerId, SnapshotId},
    worker::{BunkerReport, WorkerBunkerState},
};
use scaibunker_snapshot::link::{RestoreSnapshot, StartFromSnapshot};
use tracing::Instrument as _;

use super::{Bunkers, create::start_spec, quota::Reservation};
use crate::{
    domain::{
        actor::Actor,
        bunker::{Bunker, Event},
        image::ImageRecord,
    },
    failure::{Failure, chain},
    fleet::Link,
    images::placement::fetched,
    snapshots::restorable,
};

/// What it takes to bring a bunker back.
struct Recall {
    /// As it was read.
    bunker: Bunker,
    image: ImageRecord,
    from: RestoreSnapshot,
    reservation: Reservation,
    link: Link,
    request_id: String,
}

impl Bunkers {
    /// Brings a bunker back. The caller need not wait for it.
    pub(super) async fn bring_back(
        self: &Arc<Self>,
        actor: &Actor,
        bunker: Bunker,
        from: SnapshotId,
    ) -> Result<Bunker, Failure> {
        let id = bunker.id;
        // Another request may be about to do the same.
        let _alone = self.recalls.lock(bunker.owner_id, &id.to_string()).await;
        let bunker = self.get(actor, id).await?;
        if bunker.life().evicted_to != Some(from) {
            return match bunker.status() {
                BunkerStatus::Running => Ok(bunker),
                _ => Err(try_again(id)),
            };
        }
        let lost = || Failure::new(ErrorCode::BunkerLost, "what the bunker was written to is gone");
        let record = self.store.snapshot(from).await?.ok_or_else(lost)?;
        let from = restorable(&record, &self.snapshot_keys)?;
        let image = self.image_below(bunker.spec.image_id).await?;
        let among = self.suited(None, record.machine.as_ref())?;
        self.reserve_cpu(actor, &bunker).await?;
        let recalling = async {
            let name = BunkerId::generate();
            let reservation = self.reserve(&[], name, &bunker.spec, &image, among.as_ref()).await?;
            let message = "the worker's link broke; try again";
            let link = self.fleet.link_or(reservation.place.worker_id, message)?;
            let request_id = actor.request_id.to_string();
            let recall = Recall { bunker, image, from, reservation, link, request_id };
            let service = Arc::clone(self);
            let work = async move { service.recall(recall).await };
            let work = self.tasks.spawn(work.instrument(tracing::Span::current()));
            work.await.unwrap_or_else(|_| Err(try_again(id)))
        };
        let recalled = recalling.await;
        if recalled.is_err()
            && let Err(error) = self.ledger.pause(id).await
        {
            tracing::warn!(bunker_id = %id, error = chain(&error), "cannot give CPU back");
        }
        recalled
    }

    async fn recall(&self, recall: Recall) -> Result<Bunker, Failure> {
        let Recall { bunker, image, from, reservation, link, request_id } = recall;
        let id = bunker.id;
        let _guard = self.starting.begin(id);
        let returning =
            Event::Returning { to: reservation.place.worker_id, by: self.replicas.id() };
        let Some(returning) = self.apply_if_unchanged(&bunker, returning).await? else {
            return Err(try_again(id));
        };
        if !reservation.place.has_image
            && let Some(ask) = self.images.ask_for_one_bunker(&image)
        {
            let image_id = image.image.id;
            let fetched = fetched(&link, image_id, &ask).await;
            fetched.map_err(|reason| Failure::new(ErrorCode::ImageNotFound, reason))?;
        }
        // What it was written out from may still be there, and would be taken for what is started now.
        link.remove(id, &request_id).await?;
        let start = start_spec(&returning.spec, &image.image);
        let start = StartFromSnapshot { start, snapshot: from, goes_on: true };
        let started = link.start_from_snapshot(id, &start, &request_id).await;
        let returned = match &started {
            Ok(BunkerReport { state: WorkerBunkerState::Running, ip_address, .. }) => {
                let event = Event::Returned { ip_address: *ip_address };
                self.apply_if_unchanged(&returning, event).await?
            }
            _ => None,
        };
        if let Some(returned) = returned {
            if let Err(error) = reservation.hand_over().await {
                // A name without a bunker is found by the quota reconciler.
                tracing::warn!(bunker_id = %id, error = chain(&error), "room is counted twice");
            }
            return Ok(returned);
        }
        if let Err(error) = link.remove(id, &request_id).await {
            // The reconciler finds what is left.
            tracing::warn!(bunker_id = %id, error = chain(&error), "cannot undo a return");
        }
        match started {
            Ok(_) => Err(try_again(id)),
            Err(error) => Err(error.into()),
        }
    }
}

fn try_again(id: BunkerId) -> Failure {
    let message = format!("bunker {id} changed while it was brought back; try again");
    Failure::new(ErrorCode::BunkerNotRunning, message)
}
