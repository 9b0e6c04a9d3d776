//! What a bunker reached and tried to reach, as workers have stored it.
//!
//! Workers store batches of lines as `audit/{bunker_id}/{microseconds}-{pid}.ndjson`, whose names sort
//! by time. A batch may be stored twice by a worker that crashed in between.

use std::{error::Error, fmt, str::FromStr};

use axum::body::to_bytes;
use scaibunker_api::{egress::EgressEvent, error::ErrorCode, ids::BunkerId};
use scaibunker_storage::Objects;

use crate::{
    bunkers::Bunkers,
    domain::actor::Actor,
    failure::{Failure, chain},
};

/// A batch is smaller.
const MAX_BATCH_BYTES: usize = 16 << 20;

/// Where an event is: the name of its batch, and its line in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventPlace {
    batch: String,
    line: usize,
}

impl fmt::Display for EventPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.batch)
    }
}

impl FromStr for EventPlace {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (line, batch) = text.split_once(':').unwrap_or((text, ""));
        Ok(Self { batch: batch.to_owned(), line: line.parse()? })
    }
}

/// Up to `limit` events of a bunker that the caller sees, the oldest first, from behind `after`.
pub async fn events(
    bunkers: &Bunkers,
    objects: &Objects,
    actor: &Actor,
    id: BunkerId,
    after: Option<&EventPlace>,
    limit: usize,
) -> Result<Vec<(EventPlace, EgressEvent)>, Failure> {
    bunkers.get(actor, id).await?;
    let mut batches =
        objects.names_below(&format!("audit/{id}")).await.map_err(|error| broken(&error))?;
    batches.sort();
    let mut events = Vec::new();
    for batch in batches {
        if after.is_some_and(|after| batch < after.batch) {
            continue;
        }
        let Some(text) = read(objects, id, &batch).await? else { continue };
        for (line, text) in text.split(|byte| *byte == b'\n').enumerate() {
            let place = EventPlace { batch: batch.clone(), line };
            if after.is_some_and(|after| place <= *after) {
                continue;
            }
            // A line that a full disk has cut off is not one.
            if let Ok(event) = serde_json::from_slice(text) {
                events.push((place, event));
            }
            if events.len() == limit {
                return Ok(events);
            }
        }
    }
    Ok(events)
}

/// A batch; `None` of one that is gone.
async fn read(objects: &Objects, id: BunkerId, batch: &str) -> Result<Option<Vec<u8>>, Failure> {
    let key = format!("audit/{id}/{batch}");
    let Some(object) = objects.read(&key, None).await.map_err(|error| broken(&error))? else {
        return Ok(None);
    };
    let bytes = to_bytes(object.body, MAX_BATCH_BYTES).await.map_err(|error| broken(&error))?;
    Ok(Some(bytes.to_vec()))
}

fn broken(error: &(dyn Error + 'static)) -> Failure {
    tracing::error!(error = chain(error), "cannot read an egress audit");
    Failure::new(ErrorCode::Internal, "the object store failed; the server's log says why")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_a_cursor() {
        let place = EventPlace { batch: "1764-12.ndjson".to_owned(), line: 7 };
        assert_eq!(place.to_string().parse::<EventPlace>().unwrap(), place);
        assert!("x".parse::<EventPlace>().is_err());
        let later = EventPlace { line: 0, batch: "1765-12.ndjson".to_owned() };
        assert!(place < later);
    }
}
