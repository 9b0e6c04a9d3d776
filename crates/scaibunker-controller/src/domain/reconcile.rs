//! What to do where the database and a worker say different things about a bunker.

use jiff::Timestamp;
use scaibunker_api::{
    bunker::BunkerStatus,
    ids::WorkerId,
    worker::{BunkerReport, WorkerBunkerState},
};

use super::bunker::{Bunker, Event};

/// Reason of a bunker that its worker does not know.
pub const NO_LONGER_HELD: &str = "the worker restarted and no longer holds it";

/// What brings both sides together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Nothing,
    /// The database learns of the event.
    Apply(Event),
    /// The database learns of the event, then the worker forgets the bunker: were it the other way
    /// round, a crash in between would lose the reason.
    ApplyThenForget(Event),
    /// The worker frees the bunker, then the database learns of it.
    ForgetThenApply(Event),
    /// The worker frees what nobody owns.
    Forget,
}

impl Action {
    /// Whether it follows only from a report that is newer than the row: a bunker is paused and
    /// resumed again and again, so an older report may tell what a later call has undone.
    #[must_use]
    pub fn needs_newer_report(&self) -> bool {
        matches!(self, Self::Apply(Event::Paused { .. } | Event::Resumed))
    }
}

/// Compares a row with what its worker says; `report` is `None` when the worker, asked just now,
/// did not name the bunker.
#[must_use]
pub fn decide(
    row: Option<&Bunker>,
    worker_id: WorkerId,
    report: Option<&BunkerReport>,
    now: Timestamp,
) -> Action {
    let owned = row.filter(|row| row.worker_id == worker_id && !row.status().is_terminal());
    let Some(row) = owned else {
        return if report.is_some() { Action::Forget } else { Action::Nothing };
    };
    let ends = row.status() == BunkerStatus::Terminating;
    if row.worker().is_none() && !ends {
        // What it was evicted from there, or what nobody brings back any more.
        return if report.is_some() { Action::Forget } else { Action::Nothing };
    }
    match report.map(|report| (&report.state, report)) {
        None if ends => Action::Apply(Event::Released { at: now }),
        Some(_) if ends => Action::ForgetThenApply(Event::Released { at: now }),
        None => Action::Apply(Event::Failed { reason: NO_LONGER_HELD.to_owned(), at: now }),
        Some((WorkerBunkerState::Ended { reason }, _)) => {
            Action::ApplyThenForget(Event::Failed { reason: reason.clone(), at: now })
        }
        Some((WorkerBunkerState::Starting, _)) => Action::Nothing,
        Some((state, report)) => match (row.status(), state) {
            (BunkerStatus::Pending | BunkerStatus::Provisioning, _) => {
                let (at, ip_address) = (report.started_at.unwrap_or(now), report.ip_address);
                Action::Apply(Event::Started { at, ip_address })
            }
            // Who paused or resumed it was cut off before it could write that down.
            (BunkerStatus::Running, WorkerBunkerState::Paused) => {
                Action::Apply(Event::Paused { reason: None, at: now })
            }
            (BunkerStatus::Paused, WorkerBunkerState::Running) => Action::Apply(Event::Resumed),
            _ => Action::Nothing,
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use scaibunker_api::ids::BunkerId;

    use super::*;
    use crate::domain::bunker::tests::bunker_in;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn report(state: WorkerBunkerState) -> BunkerReport {
        let id = BunkerId::generate();
        BunkerReport { id, state, started_at: None, last_active_at: None, ip_address: None }
    }

    fn any_state() -> impl Strategy<Value = WorkerBunkerState> {
        prop_oneof![
            Just(WorkerBunkerState::Starting),
            Just(WorkerBunkerState::Running),
            Just(WorkerBunkerState::Paused),
            ".{0,8}".prop_map(|reason| WorkerBunkerState::Ended { reason }),
        ]
    }

    proptest! {
        /// Following every decision with an ideal worker leads to agreement in a few rounds.
        #[test]
        fn both_sides_converge(
            status in proptest::sample::select(&BunkerStatus::ALL[..]),
            state in proptest::option::of(any_state()),
        ) {
            let mut row = bunker_in(status);
            let mut held = state.map(report);
            for _ in 0..4 {
                match decide(Some(&row), row.worker_id, held.as_ref(), NOW) {
                    Action::Nothing => {}
                    Action::Forget => held = None,
                    Action::Apply(event) => row = row.apply(event).unwrap(),
                    Action::ApplyThenForget(event) | Action::ForgetThenApply(event) => {
                        row = row.apply(event).unwrap();
                        held = None;
                    }
                }
                if let Some(BunkerReport { state: state @ WorkerBunkerState::Starting, .. }) = &mut held {
                    *state = WorkerBunkerState::Running;
                }
            }
            prop_assert_eq!(decide(Some(&row), row.worker_id, held.as_ref(), NOW), Action::Nothing);
            prop_assert_eq!(held.is_none(), row.status().is_terminal());
        }
    }

    #[test]
    fn what_nobody_owns_is_freed() {
        let running = report(WorkerBunkerState::Running);
        let here = WorkerId::generate();
        assert_eq!(decide(None, here, Some(&running), NOW), Action::Forget);
        let elsewhere = bunker_in(BunkerStatus::Running);
        assert_eq!(decide(Some(&elsewhere), here, Some(&running), NOW), Action::Forget);
    }

    #[test]
    fn a_reason_reaches_the_database() {
        let row = bunker_in(BunkerStatus::Running);
        let ended = report(WorkerBunkerState::Ended { reason: "out of memory".to_owned() });
        let action = decide(Some(&row), row.worker_id, Some(&ended), NOW);
        let event = Event::Failed { reason: "out of memory".to_owned(), at: NOW };
        assert_eq!(action, Action::ApplyThenForget(event));
    }
}
