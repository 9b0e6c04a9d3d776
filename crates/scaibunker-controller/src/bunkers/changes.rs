//! Who is told when a bunker's status changes.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use scaibunker_api::{
    bunker::{BunkerStatus, StatusEvent},
    ids::{BunkerId, EventId},
};
use tokio::{
    sync::broadcast::{self, error::RecvError},
    time::{sleep, timeout},
};

use super::Bunkers;
use crate::{
    domain::{actor::Actor, bunker::Bunker},
    failure::Failure,
};

/// Changes that a slow reader may be behind; past that it is told the latest only.
const BACKLOG: usize = 16;

/// Changes that no other controller makes are told at once; this is for what was missed.
const LOOK_SELDOM: Duration = Duration::from_secs(5);
/// What other controllers change is found by looking.
const LOOK_OFTEN: Duration = Duration::from_millis(500);

/// A change, and the bunker's generation after it.
type Change = (i64, StatusEvent);

/// The readers of each bunker's changes.
#[derive(Debug, Default)]
pub(super) struct Changes {
    readers: Mutex<HashMap<BunkerId, broadcast::Sender<Change>>>,
}

impl Changes {
    fn readers(&self) -> MutexGuard<'_, HashMap<BunkerId, broadcast::Sender<Change>>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tell(&self, bunker: &Bunker) {
        let mut readers = self.readers();
        let Some(sender) = readers.get(&bunker.id) else { return };
        if sender.send((bunker.generation, event(bunker))).is_err() || bunker.status().is_terminal()
        {
            readers.remove(&bunker.id);
        }
    }

    fn subscribe(&self, id: BunkerId) -> broadcast::Receiver<Change> {
        let mut readers = self.readers();
        readers.retain(|_, sender| sender.receiver_count() > 0);
        readers.entry(id).or_insert_with(|| broadcast::Sender::new(BACKLOG)).subscribe()
    }
}

/// A bunker's statuses, from the one that it has when this is made.
pub struct StatusStream {
    id: BunkerId,
    changes: broadcast::Receiver<Change>,
    /// The last one told; none yet.
    last: Option<BunkerStatus>,
    generation: i64,
}

impl Bunkers {
    /// Follows the status of a bunker that the caller sees.
    pub async fn follow(&self, actor: &Actor, id: BunkerId) -> Result<StatusStream, Failure> {
        self.get(actor, id).await?;
        let changes = self.changes.subscribe(id);
        Ok(StatusStream { id, changes, last: None, generation: -1 })
    }

    /// The next status; `None` after a terminal one. A future that is dropped has lost nothing.
    pub async fn next_status(
        &self,
        stream: &mut StatusStream,
    ) -> Result<Option<StatusEvent>, Failure> {
        if stream.last.is_some_and(BunkerStatus::is_terminal) {
            return Ok(None);
        }
        loop {
            // What is told first is read from the database, after subscribing: nothing is missed.
            if stream.last.is_some() {
                let look_every = if self.replicas.are_several() { LOOK_OFTEN } else { LOOK_SELDOM };
                match timeout(look_every, stream.changes.recv()).await {
                    Ok(Ok((generation, event))) => {
                        if generation <= stream.generation {
                            continue;
                        }
                        (stream.generation, stream.last) = (generation, Some(event.status));
                        return Ok(Some(event));
                    }
                    Ok(Err(RecvError::Closed)) => sleep(look_every).await,
                    Ok(Err(RecvError::Lagged(_))) | Err(_) => {}
                }
            }
            let Some(bunker) = self.store.bunker(stream.id).await? else { return Ok(None) };
            if bunker.generation <= stream.generation || stream.last == Some(bunker.status()) {
                continue;
            }
            (stream.generation, stream.last) = (bunker.generation, Some(bunker.status()));
            return Ok(Some(event(&bunker)));
        }
    }
}

fn event(bunker: &Bunker) -> StatusEvent {
    let life = bunker.life();
    StatusEvent {
        id: EventId::generate(),
        status: life.status,
        status_reason: life.status_reason.clone(),
        at: Timestamp::now(),
    }
}
