//! A bunker and its states.
//!
//! ```text
//! pending ──Acknowledged──▶ provisioning ──Started──▶ running ⇄ paused
//!    └───────────────────Started────────────────────────▲       (Paused, Resumed)
//!
//! each of these four ──EndRequested──▶ terminating ──Released──▶ terminated
//! each of these four ──Failed────────▶ failed
//! ```
//!
//! A `terminating` bunker is only ever released: whatever its worker says meanwhile, its end was
//! asked for.

use std::{collections::BTreeMap, net::IpAddr};

use jiff::{SignedDuration, Timestamp};
use scaibunker_api::{
    bunker::{BunkerStatus, Interface, LifecycleMode, NetworkProfile, OnIdle, SessionType},
    ids::{BunkerId, ControllerId, ImageId, SnapshotId, TenantId, UserId, WorkerId},
};
use serde::{Deserialize, Serialize};

use super::quota::{Bucket, Charge};

/// Characters of a status reason that are kept: some of it comes from workers.
const MAX_REASON_CHARS: usize = 1_000;

/// What the owner asked for, defaults filled in. Stored as JSON: a new field needs a serde default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// As the owner wrote it.
    pub image: String,
    pub image_id: ImageId,
    /// The snapshot that it started from.
    #[serde(default)]
    pub snapshot_id: Option<SnapshotId>,
    /// The bunker that it was forked from.
    #[serde(default)]
    pub parent_id: Option<BunkerId>,
    pub lifecycle_mode: LifecycleMode,
    pub name: Option<String>,
    pub label_set: BTreeMap<String, String>,
    pub network_profile: NetworkProfile,
    pub network_allowlist: Option<Vec<String>>,
    pub interfaces: Option<Vec<Interface>>,
    pub cpu_millicores: u32,
    pub memory_mb: u32,
    pub disk_mb: u32,
    #[serde(default)]
    pub gpu_count: u32,
    pub gpu_type: Option<String>,
    pub max_lifetime_s: Option<u64>,
    pub idle_timeout_s: Option<u64>,
    #[serde(default)]
    pub on_idle: OnIdle,
    /// Paused for longer, it is written out; `None`: never.
    #[serde(default)]
    pub pause_evict_after_s: Option<u64>,
    pub session_type: SessionType,
    pub session_ref: Option<String>,
    pub env_vars: BTreeMap<String, String>,
    pub bandwidth_mbit: Option<u32>,
    pub egress_audit: bool,
}

/// Where a bunker is in its life. Changed by [`Bunker::apply`] alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    pub status: BunkerStatus,
    pub status_reason: Option<String>,
    pub started_at: Option<Timestamp>,
    pub ip_address: Option<IpAddr>,
    pub terminated_at: Option<Timestamp>,
    pub paused_at: Option<Timestamp>,
    /// What has its memory and its disk while no worker has them.
    pub evicted_to: Option<SnapshotId>,
}

/// A bunker as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bunker {
    pub id: BunkerId,
    pub tenant_id: TenantId,
    pub owner_id: UserId,
    /// Chosen at create, before the bunker is written down, and again when it comes back from being
    /// written out.
    pub worker_id: WorkerId,
    /// The quota buckets that it is charged to.
    pub buckets: Vec<Bucket>,
    /// The controller that starts it, or brings it back.
    pub starter: Option<ControllerId>,
    pub spec: Spec,
    pub created_at: Timestamp,
    pub last_active_at: Option<Timestamp>,
    life: Life,
    /// Counts the changes; a writer that read an older one loses.
    pub generation: i64,
}

/// Something that happened to a bunker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The worker works on the start.
    Acknowledged,
    /// The worker runs the bunker.
    Started { at: Timestamp, ip_address: Option<IpAddr> },
    /// The start failed, or the bunker ended without being asked to.
    Failed { reason: String, at: Timestamp },
    /// The worker stopped its CPUs, for a `reason` if nobody asked for it.
    Paused { reason: Option<String>, at: Timestamp },
    /// The worker lets its CPUs run again.
    Resumed,
    /// Its memory and disk are in a snapshot; its worker is to forget it.
    Evicted { to: SnapshotId },
    /// A controller begins to bring it back, on a worker.
    Returning { to: WorkerId, by: ControllerId },
    /// It runs there.
    Returned { ip_address: Option<IpAddr> },
    /// The owner, or a limit that `reason` names, ends the bunker.
    EndRequested { reason: Option<String> },
    /// The worker holds nothing of the bunker any more.
    Released { at: Timestamp },
}

/// The event does not fit the state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a bunker that is {} cannot take the event {event:?}", status.as_str())]
pub struct Rejected {
    pub status: BunkerStatus,
    pub event: Event,
}

impl Bunker {
    /// A bunker that has a place and waits for its worker.
    #[must_use]
    pub fn placed(
        id: BunkerId,
        (tenant_id, owner_id): (TenantId, UserId),
        worker_id: WorkerId,
        buckets: Vec<Bucket>,
        spec: Spec,
        created_at: Timestamp,
    ) -> Self {
        let life = Life {
            status: BunkerStatus::Pending,
            status_reason: None,
            started_at: None,
            ip_address: None,
            terminated_at: None,
            paused_at: None,
            evicted_to: None,
        };
        let last_active_at = None;
        Self {
            id,
            tenant_id,
            owner_id,
            worker_id,
            buckets,
            starter: None,
            spec,
            created_at,
            last_active_at,
            life,
            generation: 0,
        }
    }

    /// The same bunker with the life that was written down for it.
    #[must_use]
    pub fn with_stored_life(self, life: Life, generation: i64) -> Self {
        Self { life, generation, ..self }
    }

    /// Where the bunker is in its life.
    #[must_use]
    pub fn life(&self) -> &Life {
        &self.life
    }

    /// The bunker's state.
    #[must_use]
    pub fn status(&self) -> BunkerStatus {
        self.life.status
    }

    /// The worker that has it; none has one that is written out.
    #[must_use]
    pub fn worker(&self) -> Option<WorkerId> {
        self.life.evicted_to.is_none().then_some(self.worker_id)
    }

    /// What the bunker is charged; `None` once it has ended.
    #[must_use]
    pub fn charge(&self) -> Option<Charge> {
        (!self.status().is_terminal()).then(|| Charge {
            paused: self.status() == BunkerStatus::Paused,
            ..Charge::new(&self.buckets, self.worker(), &self.spec)
        })
    }

    /// Whether it has been paused for as long as it may be before it is written out.
    #[must_use]
    pub fn is_to_be_evicted(&self, now: Timestamp) -> bool {
        let (
            Life { status: BunkerStatus::Paused, paused_at: Some(since), evicted_to: None, .. },
            Some(limit),
        ) = (&self.life, self.spec.pause_evict_after_s)
        else {
            return false;
        };
        let limit = SignedDuration::from_secs(i64::try_from(limit).unwrap_or(i64::MAX));
        since.checked_add(limit).is_ok_and(|until| until <= now)
    }

    /// Whether what becomes of its start is still to be written down.
    #[must_use]
    pub fn is_starting(&self) -> bool {
        match self.status() {
            BunkerStatus::Pending | BunkerStatus::Provisioning => true,
            BunkerStatus::Paused => self.life.evicted_to.is_some() && self.starter.is_some(),
            _ => false,
        }
    }

    /// When the bunker's lifetime is over; `None` for one without a limit.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        let seconds = i64::try_from(self.spec.max_lifetime_s?).ok()?;
        self.created_at.checked_add(SignedDuration::from_secs(seconds)).ok()
    }

    /// How long the bunker may go on idling if it worked last at `active_at`; `None` for one that
    /// may idle for ever.
    #[must_use]
    pub fn idle_until(&self, active_at: Timestamp) -> Option<Timestamp> {
        let seconds = i64::try_from(self.spec.idle_timeout_s?).ok()?;
        active_at.checked_add(SignedDuration::from_secs(seconds)).ok()
    }

    /// The bunker after `event`, one generation later.
    pub fn apply(&self, event: Event) -> Result<Self, Rejected> {
        use BunkerStatus as S;

        let mut life = self.life.clone();
        let (mut worker_id, mut starter) = (self.worker_id, self.starter);
        match (self.life.status, &event) {
            (S::Pending, Event::Acknowledged) => life.status = S::Provisioning,
            (S::Pending | S::Provisioning, Event::Started { at, ip_address }) => {
                life.status = S::Running;
                life.started_at = Some(*at);
                life.ip_address = *ip_address;
            }
            (S::Running, Event::Paused { reason, at }) => {
                life.status = S::Paused;
                life.paused_at = Some(*at);
                life.status_reason = reason.as_deref().map(bounded);
            }
            (S::Paused, Event::Resumed) if life.evicted_to.is_none() => {
                life.status = S::Running;
                life.status_reason = None;
                life.paused_at = None;
            }
            (S::Paused, Event::Evicted { to }) if life.evicted_to.is_none() => {
                life.evicted_to = Some(*to);
                life.ip_address = None;
                starter = None;
            }
            (S::Paused, Event::Returning { to, by }) if life.evicted_to.is_some() => {
                (worker_id, starter) = (*to, Some(*by));
            }
            (S::Paused, Event::Returned { ip_address }) if life.evicted_to.is_some() => {
                life.status = S::Running;
                life.status_reason = None;
                life.paused_at = None;
                life.evicted_to = None;
                life.ip_address = *ip_address;
            }
            (
                S::Pending | S::Provisioning | S::Running | S::Paused,
                Event::Failed { reason, at },
            ) => {
                life.status = S::Failed;
                life.status_reason = Some(bounded(reason));
                life.terminated_at = Some(*at);
            }
            (
                S::Pending | S::Provisioning | S::Running | S::Paused,
                Event::EndRequested { reason },
            ) => {
                life.status = S::Terminating;
                life.status_reason = reason.as_deref().map(bounded);
            }
            (S::Terminating, Event::Released { at }) => {
                life.status = S::Terminated;
                life.terminated_at = Some(*at);
            }
            _ => return Err(Rejected { status: self.life.status, event }),
        }
        Ok(Self { life, worker_id, starter, generation: self.generation + 1, ..self.clone() })
    }
}

fn bounded(reason: &str) -> String {
    reason.chars().take(MAX_REASON_CHARS).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn spec() -> Spec {
        Spec {
            image: "busybox".to_owned(),
            image_id: ImageId::generate(),
            snapshot_id: None,
            parent_id: None,
            lifecycle_mode: LifecycleMode::Ephemeral,
            name: None,
            label_set: BTreeMap::new(),
            network_profile: NetworkProfile::Isolated,
            network_allowlist: None,
            interfaces: None,
            cpu_millicores: 1000,
            memory_mb: 256,
            disk_mb: 512,
            gpu_count: 0,
            gpu_type: None,
            max_lifetime_s: Some(3600),
            idle_timeout_s: Some(300),
            on_idle: OnIdle::Terminate,
            pause_evict_after_s: Some(3600),
            session_type: SessionType::Standalone,
            session_ref: None,
            env_vars: BTreeMap::new(),
            bandwidth_mbit: None,
            egress_audit: false,
        }
    }

    pub(crate) fn pending_bunker() -> Bunker {
        Bunker::placed(
            BunkerId::generate(),
            (TenantId::generate(), UserId::generate()),
            WorkerId::generate(),
            Vec::new(),
            spec(),
            Timestamp::UNIX_EPOCH,
        )
    }

    pub(crate) fn bunker_in(status: BunkerStatus) -> Bunker {
        let bunker = pending_bunker();
        let life = Life { status, ..bunker.life.clone() };
        bunker.with_stored_life(life, 7)
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let at = Timestamp::UNIX_EPOCH;
        prop_oneof![
            Just(Event::Acknowledged),
            Just(Event::Started { at, ip_address: None }),
            ".{0,8}".prop_map(move |reason| Event::Failed { reason, at }),
            proptest::option::of(".{0,8}").prop_map(|reason| Event::EndRequested { reason }),
            proptest::option::of(".{0,8}").prop_map(move |reason| Event::Paused { reason, at }),
            Just(Event::Resumed),
            Just(Event::Evicted { to: SnapshotId::generate() }),
            Just(Event::Returning { to: WorkerId::generate(), by: ControllerId::generate() }),
            Just(Event::Returned { ip_address: None }),
            Just(Event::Released { at }),
        ]
    }

    fn rank(status: BunkerStatus) -> usize {
        match status {
            BunkerStatus::Pending => 0,
            BunkerStatus::Provisioning => 1,
            BunkerStatus::Running | BunkerStatus::Paused => 2,
            BunkerStatus::Terminating => 3,
            BunkerStatus::Terminated | BunkerStatus::Failed => 4,
        }
    }

    proptest! {
        #[test]
        fn a_life_only_goes_forward_and_every_change_counts(
            events in proptest::collection::vec(any_event(), 0..12),
        ) {
            let mut bunker = pending_bunker();
            for event in events {
                let Ok(next) = bunker.apply(event) else { continue };
                let swings = rank(next.status()) == 2 && rank(bunker.status()) == 2;
                prop_assert!(swings || rank(next.status()) > rank(bunker.status()));
                prop_assert_eq!(next.generation, bunker.generation + 1);
                prop_assert_eq!(next.life.terminated_at.is_some(), next.status().is_terminal());
                prop_assert!(next.status() != BunkerStatus::Failed || next.life.status_reason.is_some());
                bunker = next;
            }
        }

        #[test]
        fn terminal_states_take_nothing(event in any_event(), failed: bool) {
            let status = if failed { BunkerStatus::Failed } else { BunkerStatus::Terminated };
            prop_assert!(bunker_in(status).apply(event).is_err());
        }

        #[test]
        fn an_end_is_taken_in_each_live_state_and_then_only_a_release(event in any_event()) {
            for status in &BunkerStatus::ALL[..4] {
                let ending = bunker_in(*status).apply(Event::EndRequested { reason: None }).unwrap();
                prop_assert_eq!(ending.status(), BunkerStatus::Terminating);
                let released = matches!(event, Event::Released { .. });
                prop_assert_eq!(ending.apply(event.clone()).is_ok(), released);
            }
        }

        #[test]
        fn any_lifetime_is_taken(max_lifetime_s: u64) {
            let mut bunker = pending_bunker();
            bunker.spec.max_lifetime_s = Some(max_lifetime_s);
            let _ = bunker.expires_at();
        }
    }

    /// All states × all events: what is not in the drawing above is refused.
    #[test]
    fn every_transition_is_the_drawn_one() {
        use BunkerStatus as S;
        let at = Timestamp::UNIX_EPOCH;
        let events = [
            Event::Acknowledged,
            Event::Started { at, ip_address: None },
            Event::Paused { reason: None, at },
            Event::Resumed,
            Event::Failed { reason: "a".to_owned(), at },
            Event::EndRequested { reason: None },
            Event::Released { at },
        ];
        let (no, failed, ending) = (None, Some(S::Failed), Some(S::Terminating));
        #[rustfmt::skip]
        let drawn = [
            //                acknowledged           started          paused           resumed           failed  end     released
            (S::Pending,      [Some(S::Provisioning), Some(S::Running), no,              no,               failed, ending, no]),
            (S::Provisioning, [no,                    Some(S::Running), no,              no,               failed, ending, no]),
            (S::Running,      [no,                    no,               Some(S::Paused), no,               failed, ending, no]),
            (S::Paused,       [no,                    no,               no,              Some(S::Running), failed, ending, no]),
            (S::Terminating,  [no,                    no,               no,              no,               no,     no,     Some(S::Terminated)]),
            (S::Terminated,   [no, no, no, no, no, no, no]),
            (S::Failed,       [no, no, no, no, no, no, no]),
        ];
        for (status, expected) in drawn {
            for (event, expected) in events.iter().zip(expected) {
                let next = bunker_in(status).apply(event.clone()).ok().map(|next| next.status());
                assert_eq!(next, expected, "{status:?} + {event:?}");
            }
        }
    }

    #[test]
    fn one_that_is_written_out_is_nowhere_until_it_comes_back() {
        let at = Timestamp::UNIX_EPOCH;
        let running = bunker_in(BunkerStatus::Running);
        let (to, by) = (WorkerId::generate(), ControllerId::generate());
        let evict = Event::Evicted { to: SnapshotId::generate() };
        assert!(running.apply(evict.clone()).is_err());
        let paused = running.apply(Event::Paused { reason: None, at }).unwrap();
        assert!(paused.apply(Event::Returned { ip_address: None }).is_err());
        let evicted = paused.apply(evict.clone()).unwrap();
        assert_eq!((evicted.worker(), evicted.status()), (None, BunkerStatus::Paused));
        assert!(evicted.apply(evict).is_err() && evicted.apply(Event::Resumed).is_err());
        assert!(!evicted.is_starting());
        let returning = evicted.apply(Event::Returning { to, by }).unwrap();
        assert!(returning.is_starting() && returning.worker().is_none());
        let returned = returning.apply(Event::Returned { ip_address: None }).unwrap();
        assert_eq!((returned.worker(), returned.status()), (Some(to), BunkerStatus::Running));
        assert!(!returned.is_starting());
    }

    #[test]
    fn one_that_is_paused_for_long_is_written_out_once() {
        let at = Timestamp::UNIX_EPOCH;
        let paused = bunker_in(BunkerStatus::Running).apply(Event::Paused { reason: None, at });
        let mut paused = paused.unwrap();
        let after = |seconds| at.checked_add(SignedDuration::from_secs(seconds)).unwrap();
        assert!(!paused.is_to_be_evicted(after(3599)) && paused.is_to_be_evicted(after(3600)));
        let evicted = paused.apply(Event::Evicted { to: SnapshotId::generate() }).unwrap();
        assert!(!evicted.is_to_be_evicted(after(3600)));
        paused.spec.pause_evict_after_s = None;
        assert!(!paused.is_to_be_evicted(after(3600)));
    }

    #[test]
    fn reasons_are_bounded() {
        let reason = "é".repeat(5_000);
        let failed =
            pending_bunker().apply(Event::Failed { reason, at: Timestamp::UNIX_EPOCH }).unwrap();
        let kept = failed.life.status_reason.unwrap();
        assert_eq!(kept.chars().count(), MAX_REASON_CHARS);
    }

    #[test]
    fn a_lifetime_ends_where_it_says() {
        assert_eq!(pending_bunker().expires_at().unwrap().as_second(), 3600);
    }
}
