//! Copies of a bunker that go on beside it, on its worker. Made like any other: room for all of them is
//! taken first, or for none, and they are written down before the worker is asked.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use jiff::Timestamp;
use scaibunker_api::{bunker, ids::BunkerId, image::Image, worker::ForkBunker};
use tokio::time::timeout;
use tracing::Instrument as _;

use super::{
    Bunkers,
    create::{event_of, start_spec},
    quota::Reservation,
    starting::StartGuard,
};
use crate::{
    creation::{Created, Creation},
    domain::{
        actor::Actor,
        bunker::{Bunker, Event, Spec},
        create::check_fork,
    },
    failure::{Failure, chain},
    fleet::{Link, LinkError},
    store::{Inserted, StoreError},
};

/// Children that have room and are written down.
struct Fork {
    parent: Bunker,
    image: Image,
    children: Vec<Bunker>,
    guards: Vec<StartGuard>,
    link: Link,
    request_id: String,
}

impl Bunkers {
    /// Forks a bunker. With `wait` the answer comes once its children run or have failed, or after that
    /// long.
    pub async fn fork(
        self: &Arc<Self>,
        actor: &Actor,
        id: BunkerId,
        count: u32,
        key: Option<String>,
        wait: Option<Duration>,
    ) -> Result<Created<Vec<bunker::Bunker>>, Failure> {
        let parent = self.get(actor, id).await?;
        check_fork(actor, &parent, count)?;
        let asked = (id, count);
        let creation = match Creation::begin(&self.store, actor, key, "fork", &asked).await? {
            Ok(creation) => creation,
            Err(repeated) => return Ok(repeated),
        };
        let link = self.link_of(&parent)?;
        let image = self.image_below(parent.spec.image_id).await?;
        let profiles = self.profiles_of(actor, &parent).await?;
        let here = BTreeSet::from([parent.worker_id]);
        let spec = Spec { parent_id: Some(id), ..parent.spec.clone() };
        let mut reservations: Vec<Reservation> = Vec::new();
        let mut children = Vec::new();
        for _ in 0..count {
            let child = BunkerId::generate();
            let reservation = self.reserve(&profiles, child, &spec, &image, Some(&here)).await?;
            let owner = (parent.tenant_id, parent.owner_id);
            let (worker, buckets) = (parent.worker_id, reservation.buckets.clone());
            let mut child =
                Bunker::placed(child, owner, worker, buckets, spec.clone(), Timestamp::now());
            child.starter = Some(self.replicas.id());
            children.push(child);
            reservations.push(reservation);
        }
        let answer: Vec<bunker::Bunker> = children.iter().map(bunker::Bunker::from).collect();
        let guards = children.iter().map(|child| self.starting.begin(child.id)).collect();
        let key = creation.key(&answer);
        let inserted = self.store.insert_bunkers(&children, key.as_ref()).await?;
        let is_new = matches!(inserted, Inserted::Done);
        for reservation in &mut reservations {
            reservation.kept = is_new;
        }
        let created = creation.finish(inserted, answer, "id").await?;
        let Created::New(answer) = created else { return Ok(created) };
        let ids: Vec<_> = children.iter().map(|child| child.id).collect();
        let request_id = actor.request_id.to_string();
        let fork = Fork { parent, image: image.image, children, guards, link, request_id };
        let service = Arc::clone(self);
        let work = async move {
            service.carry_out_fork(fork).await;
            drop(reservations);
        };
        let work = self.tasks.spawn(work.instrument(tracing::Span::current()));
        let Some(wait) = wait else { return Ok(Created::New(answer)) };
        tokio::select! {
            _ = timeout(wait, work) => {}
            () = self.drained.cancelled() => {}
        }
        let mut settled = Vec::new();
        for (id, placed) in ids.into_iter().zip(answer) {
            let current = self.store.bunker(id).await?;
            settled.push(current.map_or(placed, |child| bunker::Bunker::from(&child)));
        }
        Ok(Created::New(settled))
    }

    async fn carry_out_fork(&self, fork: Fork) {
        let Fork { parent, image, children, guards, link, request_id } = fork;
        let ask = ForkBunker {
            children: children.iter().map(|child| child.id).collect(),
            start: start_spec(&parent.spec, &image),
        };
        let forked = link.fork(parent.id, &ask, &request_id).await;
        if let Ok(forked) = &forked {
            let stood_still_us = forked.stood_still_us;
            tracing::info!(bunker_id = %parent.id, stood_still_us, "bunker forked");
        }
        let settled = children.into_iter().map(|child| {
            let started = match &forked {
                Ok(forked) => match forked.children.iter().find(|report| report.id == child.id) {
                    Some(report) => Ok(report.clone()),
                    None => Err("the worker said nothing of it".to_owned()),
                },
                Err(LinkError::Refused(error)) => Err(error.message.clone()),
                Err(error) => Err(format!("the fork failed: {}", chain(error))),
            };
            let event = match started {
                Ok(report) => event_of(Ok(report)),
                Err(reason) => Event::Failed { reason, at: Timestamp::now() },
            };
            self.settle_child(child, event, &link, &request_id)
        });
        for settled in join_all(settled).await {
            if let Err(error) = settled {
                tracing::error!(error = chain(&error), "the outcome of a fork was not stored");
            }
        }
        drop(guards);
    }

    async fn settle_child(
        &self,
        child: Bunker,
        event: Event,
        link: &Link,
        request_id: &str,
    ) -> Result<(), StoreError> {
        let id = child.id;
        let bunker = self.apply(child, event).await?.bunker();
        if bunker.status().is_terminal()
            && let Err(error) = link.remove(id, request_id).await
        {
            // The reconciler finds what is left.
            tracing::warn!(bunker_id = %id, error = chain(&error), "cannot undo a start");
        }
        Ok(())
    }
}
