//! Bridges of workers.

use std::{collections::BTreeSet, sync::Arc};

use jiff::Timestamp;
use scaibunker_api::{
    bridge::{Bridge, CreateBridge},
    bunker::{Interface, NetworkProfile},
    error::{ErrorBody, ErrorCode, ErrorDetail},
    ids::{BridgeId, WorkerId},
    worker::MakeBridge,
};

use crate::{
    domain::{actor::Actor, bridge},
    failure::Failure,
    fleet::{Fleet, Link},
    store::Store,
};

/// The service.
pub struct Bridges {
    store: Store,
    fleet: Arc<Fleet>,
}

impl Bridges {
    /// A service on `store` and `fleet`.
    #[must_use]
    pub fn new(store: Store, fleet: Arc<Fleet>) -> Self {
        Self { store, fleet }
    }

    /// Has a worker make a bridge, or take the one that its host has.
    pub async fn create(&self, actor: &Actor, request: CreateBridge) -> Result<Bridge, Failure> {
        bridge::check(&request)?;
        if self.fleet.record(request.worker_id).is_none() {
            let message = format!("there is no worker {}", request.worker_id);
            return Err(ErrorBody::invalid("worker_id", message).into());
        }
        let link = self.link(request.worker_id)?;
        let CreateBridge { name, worker_id, mtu } = request;
        let (id, created_at) = (BridgeId::generate(), Timestamp::now());
        let bridge = Bridge { id, name, worker_id, mtu, created_at };
        // Written down first: a bridge that only the worker knows could not be removed.
        if !self.store.insert_bridge(&bridge).await? {
            let message = format!("the worker has a bridge `{}` already", bridge.name);
            return Err(Failure::new(ErrorCode::AlreadyExists, message));
        }
        let request_id = actor.request_id.to_string();
        let made = link.make_bridge(&bridge.name, MakeBridge { mtu }, &request_id).await;
        if let Err(error) = made {
            self.store.delete_bridge(id).await?;
            return Err(error.into());
        }
        Ok(bridge)
    }

    /// The newest `limit` bridges made before `before`.
    pub async fn list(
        &self,
        before: Option<BridgeId>,
        limit: usize,
    ) -> Result<Vec<Bridge>, Failure> {
        Ok(self.store.list_bridges(before, limit).await?)
    }

    /// Removes a bridge that no bunker is attached to.
    pub async fn delete(&self, actor: &Actor, id: BridgeId) -> Result<(), Failure> {
        let unknown = || Failure::new(ErrorCode::NotFound, format!("there is no bridge {id}"));
        let bridge = self.store.bridge(id).await?.ok_or_else(unknown)?;
        let live = self.store.live_bunkers(Some(bridge.worker_id)).await?;
        let uses = |interface: &Interface| interface.bridge_name == bridge.name;
        let users = live.iter().filter(|bunker| {
            bunker.spec.interfaces.as_ref().is_some_and(|interfaces| interfaces.iter().any(uses))
        });
        if let Some(user) = users.map(|bunker| bunker.id).next() {
            let message = format!("bunker {user} is attached to the bridge; end it first");
            return Err(Failure::new(ErrorCode::InUse, message));
        }
        // With a worker that is gone for good, its bridges are too.
        if self.fleet.record(bridge.worker_id).is_some() {
            let link = self.link(bridge.worker_id)?;
            link.remove_bridge(&bridge.name, &actor.request_id.to_string()).await?;
        }
        Ok(self.store.delete_bridge(id).await?)
    }

    fn link(&self, worker: WorkerId) -> Result<Link, Failure> {
        let message = "the worker is not linked at the moment; try again";
        Ok(self.fleet.link_or(worker, message)?)
    }
}

/// The workers that have every bridge a bunker is to be attached to; `None` of one that is attached to
/// none.
pub async fn workers_with(
    store: &Store,
    profile: NetworkProfile,
    interfaces: &[Interface],
) -> Result<Option<BTreeSet<WorkerId>>, Failure> {
    if profile != NetworkProfile::Transit {
        return Ok(None);
    }
    let mut common: Option<BTreeSet<WorkerId>> = None;
    for (index, interface) in interfaces.iter().enumerate() {
        let bridges = store.bridges_named(&interface.bridge_name).await?;
        let workers: BTreeSet<_> = bridges.into_iter().map(|bridge| bridge.worker_id).collect();
        if workers.is_empty() {
            return Err(missing(index, &format!("there is no bridge `{}`", interface.bridge_name)));
        }
        common = Some(match common {
            Some(common) => common.intersection(&workers).copied().collect(),
            None => workers,
        });
    }
    match common {
        Some(common) if common.is_empty() => {
            Err(missing(0, "no worker has all of the bridges that are named"))
        }
        common => Ok(common),
    }
}

fn missing(index: usize, message: &str) -> Failure {
    let field = format!("interfaces[{index}].bridge_name");
    let detail = ErrorDetail { field, message: message.to_owned() };
    let message = format!("{message}; `GET /bridges` lists those there are");
    let error = ErrorBody::new(ErrorCode::BridgeNotFound, message);
    ErrorBody { details: vec![detail], ..error }.into()
}
