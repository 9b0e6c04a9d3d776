//! Changes of single bunkers, written many to a transaction.
//!
//! A lane takes all that waits, writes it in one transaction and takes what came meanwhile: a busy
//! server pays for one commit and one use of a connection where it would pay for dozens, and an
//! idle one writes at once.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use scaibunker_api::ids::BunkerId;
use sqlx::{AnyConnection, AnyPool};
use tokio::sync::oneshot;

use super::{StoreError, bunkers::LifeChange, bunkers::insert_row};
use crate::domain::bunker::Bunker;

/// Writes of one transaction: few enough that nobody waits long for the others.
const MAX_BATCH: usize = 64;

/// A change of one bunker.
#[derive(Debug)]
pub(super) enum Write {
    Insert(Box<Bunker>),
    Life(LifeChange),
}

impl Write {
    fn id(&self) -> BunkerId {
        match self {
            Self::Insert(bunker) => bunker.id,
            Self::Life(change) => change.id,
        }
    }

    async fn run(&self, connection: &mut AnyConnection) -> Result<bool, StoreError> {
        match self {
            Self::Insert(bunker) => Ok(insert_row(connection, bunker).await?.rows_affected() == 1),
            Self::Life(change) => change.run(connection).await,
        }
    }
}

#[derive(Debug)]
struct Waiting {
    write: Write,
    answer: oneshot::Sender<Result<bool, StoreError>>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    busy_lanes: usize,
}

/// The writes that wait, and the lanes that write them.
#[derive(Debug)]
pub(super) struct GroupedWrites {
    pool: AnyPool,
    lanes: usize,
    queue: Mutex<Queue>,
}

impl GroupedWrites {
    /// Writes over at most `lanes` connections of `pool` at once.
    pub(super) fn new(pool: AnyPool, lanes: usize) -> Self {
        Self { pool, lanes, queue: Mutex::default() }
    }

    /// Returns once the write is committed; whether it found the row that it was for.
    pub(super) async fn write(self: &Arc<Self>, write: Write) -> Result<bool, StoreError> {
        let (answer, answered) = oneshot::channel();
        let lane = {
            let mut queue = self.queue();
            queue.waiting.push_back(Waiting { write, answer });
            let free = queue.busy_lanes < self.lanes;
            queue.busy_lanes += usize::from(free);
            free.then(|| Lane(Arc::clone(self)))
        };
        if let Some(lane) = lane {
            // A task of its own: a caller that goes away takes nobody else's write along.
            tokio::spawn(lane.run());
        }
        let lost = |_| Err(StoreError::query("write a bunker")(sqlx::Error::WorkerCrashed));
        answered.await.unwrap_or_else(lost)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // No change of the queue can be left half-done.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the busy lanes, until it is dropped.
struct Lane(Arc<GroupedWrites>);

impl Drop for Lane {
    fn drop(&mut self) {
        self.0.queue().busy_lanes -= 1;
    }
}

impl Lane {
    async fn run(self) {
        let mut lane = self;
        loop {
            let batch = take(&mut lane.0.queue().waiting);
            if !batch.is_empty() {
                lane.write(batch).await;
                continue;
            }
            let grouped = Arc::clone(&lane.0);
            drop(lane);
            // Whoever came between the look and the drop saw a busy lane.
            let mut queue = grouped.queue();
            if queue.waiting.is_empty() || queue.busy_lanes >= grouped.lanes {
                return;
            }
            queue.busy_lanes += 1;
            drop(queue);
            lane = Self(grouped);
        }
    }

    async fn write(&self, mut batch: Vec<Waiting>) {
        let pool = &self.0.pool;
        while batch.len() > 1 {
            match together(pool, &batch).await {
                Ok(found) => {
                    for (waiting, found) in batch.into_iter().zip(found) {
                        let _ = waiting.answer.send(Ok(found));
                    }
                    return;
                }
                Err(Failed::One { place, error }) => {
                    let _ = batch.remove(place).answer.send(Err(error));
                }
                Err(Failed::All(error)) => {
                    let reason = crate::failure::chain(&error);
                    for waiting in batch {
                        let source = sqlx::Error::Io(std::io::Error::other(reason.to_string()));
                        let error = StoreError::query("write bunkers")(source);
                        let _ = waiting.answer.send(Err(error));
                    }
                    return;
                }
            }
        }
        for waiting in batch {
            let _ = waiting.answer.send(alone(pool, &waiting.write).await);
        }
    }
}

/// Why nothing of a batch was written.
enum Failed {
    /// The database is there and refuses this write, if only for the lock that it waits for: the
    /// others need neither fail nor wait again.
    One {
        place: usize,
        error: StoreError,
    },
    All(StoreError),
}

/// The next batch: of writes of one bunker only the first, so that each sees the one before it.
fn take(waiting: &mut VecDeque<Waiting>) -> Vec<Waiting> {
    let mut ids = HashSet::new();
    let is_first = |next: &&Waiting| ids.insert(next.write.id());
    let count = waiting.iter().take(MAX_BATCH).take_while(is_first).count();
    let mut batch: Vec<_> = waiting.drain(..count).collect();
    // In one order everywhere: transactions with the same bunkers do not wait in a circle.
    batch.sort_unstable_by_key(|waiting| waiting.write.id());
    batch
}

async fn together(pool: &AnyPool, batch: &[Waiting]) -> Result<Vec<bool>, Failed> {
    let failed = |source| Failed::All(StoreError::query("write bunkers")(source));
    let mut transaction = pool.begin().await.map_err(failed)?;
    let mut found = Vec::with_capacity(batch.len());
    for (place, waiting) in batch.iter().enumerate() {
        let written = waiting.write.run(&mut transaction).await;
        found.push(written.map_err(|error| match error {
            StoreError::Query { source: sqlx::Error::Database(_), .. } => {
                Failed::One { place, error }
            }
            error => Failed::All(error),
        })?);
    }
    transaction.commit().await.map_err(failed)?;
    Ok(found)
}

async fn alone(pool: &AnyPool, write: &Write) -> Result<bool, StoreError> {
    let mut connection = pool.acquire().await.map_err(StoreError::query("write a bunker"))?;
    write.run(&mut connection).await
}
