//! The bunkers a bench has made and not ended yet.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::anyhow;
use futures_util::{StreamExt as _, stream};
use scaibunker_api::{
    bunker::{Bunker, BunkerStatus, CreateBunker},
    envelope::Envelope,
    ids::BunkerId,
};

use crate::{
    client::{Client, ClientError},
    exit::Failure,
    signals::Stop,
};

/// Bunkers that are ended at the same time.
const AT_ONCE: usize = 8;

/// Makes bunkers and remembers them until they have ended.
#[derive(Debug)]
pub struct Fleet {
    client: Client,
    ids: Mutex<BTreeSet<BunkerId>>,
}

impl Fleet {
    /// A fleet without bunkers.
    pub fn new(client: Client) -> Self {
        Self { client, ids: Mutex::default() }
    }

    fn ids(&self) -> MutexGuard<'_, BTreeSet<BunkerId>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a bunker and waits until it runs or failed. Not to be cancelled: only the answer
    /// says what there is to end.
    pub async fn create(&self, request: &CreateBunker) -> Result<Envelope<Bunker>, ClientError> {
        let created = self.client.create_bunker(request, true).await?;
        self.ids().insert(created.data.id);
        Ok(created)
    }

    /// Takes over a bunker that was made in another way.
    pub fn remember(&self, id: BunkerId) {
        self.ids().insert(id);
    }

    /// Creates `count` bunkers, one after the other, all of which have to run.
    pub async fn create_running(
        &self,
        request: &CreateBunker,
        count: u32,
        stop: &Stop,
    ) -> Result<Vec<BunkerId>, Failure> {
        let mut ids = Vec::new();
        for _ in 0..count {
            let created = self.create(request).await?;
            if let Some(signal) = stop.signal() {
                return Err(Failure::Stopped(signal));
            }
            let (bunker, request_id) = (created.data, created.meta.request_id);
            if bunker.status != BunkerStatus::Running {
                let (id, status) = (bunker.id, bunker.status.as_str());
                let message = format!("the bunker {id} is {status} instead of running");
                return Err(anyhow!("{message} [{request_id}]").into());
            }
            ids.push(bunker.id);
        }
        Ok(ids)
    }

    /// Ends one bunker and waits until nothing of it is left.
    pub async fn end(&self, id: BunkerId) -> Result<(), ClientError> {
        self.client.delete_bunker_and_wait(id, false).await?;
        self.ids().remove(&id);
        Ok(())
    }

    /// Ends every bunker that is left; the error names those that remain.
    pub async fn end_all(&self) -> Result<(), Failure> {
        let ids: Vec<_> = self.ids().iter().copied().collect();
        let mut ends = stream::iter(ids).map(|id| self.end(id)).buffer_unordered(AT_ONCE);
        let mut failure = None;
        while let Some(end) = ends.next().await {
            failure = failure.or(end.err());
        }
        match failure {
            None => Ok(()),
            Some(error) => {
                let left: Vec<_> = self.ids().iter().map(BunkerId::to_string).collect();
                let left = left.join(" ");
                Err(anyhow!("cannot end all bunkers: {error}; try `scaibunker rm {left}`").into())
            }
        }
    }
}
