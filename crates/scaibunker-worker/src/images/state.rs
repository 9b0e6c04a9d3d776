//! What became of one image on this worker: changed by [`Held::apply`] alone.

use jiff::Timestamp;
use scaibunker_api::{
    ids::ImageId,
    image::CacheStatus,
    worker::{BakedRoot, ImageFault, ImageReport},
};

/// One image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub status: CacheStatus,
    pub progress: u8,
    pub fault: Option<ImageFault>,
    /// `sha256:…` of the root, once it is here.
    pub digest: Option<String>,
    pub size_bytes: Option<u64>,
    /// What was baked here and is stored.
    pub baked: Option<BakedRoot>,
    pub updated_at: Timestamp,
}

/// What happens to an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It is wanted (again).
    Asked,
    Pulling,
    Baking,
    /// So many percent of the step.
    Progress(u8),
    Arrived {
        digest: String,
        size_bytes: u64,
    },
    Stored(BakedRoot),
    Failed(ImageFault),
    Evicted(ImageFault),
}

impl Held {
    /// One that was just asked for.
    pub fn asked(at: Timestamp) -> Self {
        Self {
            status: CacheStatus::Pending,
            progress: 0,
            fault: None,
            digest: None,
            size_bytes: None,
            baked: None,
            updated_at: at,
        }
    }

    /// The image after `event`; `None` if nothing changes by it.
    pub fn apply(&self, event: Event, at: Timestamp) -> Option<Self> {
        use CacheStatus::{Baking, Failed, Pending, Pulling, Ready};
        let step = |status| Some(Self { status, progress: 0, ..self.clone() });
        let next = match (self.status, event) {
            (Failed | Pending, Event::Asked) => {
                Some(Self { baked: self.baked.clone(), ..Self::asked(at) })
            }
            (Pending, Event::Pulling) => step(Pulling),
            (Pulling | Pending, Event::Baking) => step(Baking),
            (Pulling | Baking, Event::Progress(progress)) => {
                Some(Self { progress: progress.min(100), ..self.clone() })
            }
            (Pending | Pulling | Baking, Event::Arrived { digest, size_bytes }) => Some(Self {
                status: Ready,
                progress: 100,
                fault: None,
                digest: Some(digest),
                size_bytes: Some(size_bytes),
                ..self.clone()
            }),
            (Ready, Event::Stored(baked)) => Some(Self { baked: Some(baked), ..self.clone() }),
            (Pending | Pulling | Baking, Event::Failed(fault)) => {
                Some(Self { status: Failed, fault: Some(fault), ..self.clone() })
            }
            (Ready, Event::Evicted(fault)) => Some(Self {
                status: Pending,
                progress: 0,
                fault: Some(fault),
                digest: None,
                ..self.clone()
            }),
            _ => None,
        };
        let next = Self { updated_at: at, ..next? };
        let is_same = Self { updated_at: at, ..self.clone() } == next;
        (!is_same).then_some(next)
    }

    /// Whether somebody works on it.
    pub fn is_under_way(&self) -> bool {
        match self.status {
            CacheStatus::Pulling | CacheStatus::Baking => true,
            CacheStatus::Pending => self.fault.is_none(),
            CacheStatus::Ready | CacheStatus::Failed => false,
        }
    }

    /// As controllers are told.
    pub fn report(&self, image_id: ImageId) -> ImageReport {
        ImageReport {
            image_id,
            status: self.status,
            progress: self.progress,
            error: self.fault.clone(),
            digest: self.digest.clone(),
            size_bytes: self.size_bytes,
            updated_at: self.updated_at,
            baked: self.baked.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use scaibunker_api::worker::ImageFaultCause;

    use super::*;

    fn fault() -> ImageFault {
        ImageFault { cause: ImageFaultCause::Internal, message: "x".to_owned() }
    }

    fn arrived() -> Event {
        Event::Arrived { digest: "sha256:0".to_owned(), size_bytes: 1 }
    }

    fn events() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Asked),
            Just(Event::Pulling),
            Just(Event::Baking),
            any::<u8>().prop_map(Event::Progress),
            Just(arrived()),
            Just(Event::Failed(fault())),
            Just(Event::Evicted(fault())),
        ]
    }

    proptest! {
        #[test]
        fn what_is_ready_has_a_root_and_what_failed_a_reason(
            events in proptest::collection::vec(events(), 0..40)
        ) {
            let mut held = Held::asked(Timestamp::UNIX_EPOCH);
            for event in events {
                held = held.apply(event, Timestamp::UNIX_EPOCH).unwrap_or(held);
                prop_assert_eq!(held.status == CacheStatus::Ready, held.digest.is_some());
                prop_assert!(held.status != CacheStatus::Failed || held.fault.is_some());
                prop_assert!(held.progress <= 100);
            }
        }
    }

    #[test]
    fn an_image_that_failed_or_was_evicted_is_tried_again_when_it_is_asked_for() {
        let at = Timestamp::UNIX_EPOCH;
        let apply = |held: &Held, event| held.apply(event, at).unwrap();
        let failed = apply(&Held::asked(at), Event::Failed(fault()));
        assert_eq!(apply(&failed, Event::Asked), Held::asked(at));
        let evicted = apply(&apply(&Held::asked(at), arrived()), Event::Evicted(fault()));
        assert!(!evicted.is_under_way());
        assert!(apply(&evicted, Event::Asked).is_under_way());
        let ready = apply(&Held::asked(at), arrived());
        assert_eq!(ready.apply(Event::Asked, at), None);
        assert_eq!(ready.apply(Event::Failed(fault()), at), None);
    }
}
