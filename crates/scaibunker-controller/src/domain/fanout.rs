//! What to ask of which worker, so that every image is baked once and then is where it shall be.
//!
//! Told again with the same facts, it answers the same; told what came of its answer, it comes to
//! an end. What failed or was evicted is left alone until somebody warms the image.

use scaibunker_api::{
    ids::WorkerId,
    image::{CacheStatus, ImageStatus},
    worker::ImageFaultCause,
};

/// A worker of the image's groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub worker_id: WorkerId,
    /// Whether it can be asked.
    pub is_linked: bool,
    /// Whether it was heard of lately. Without a link it may be back in a moment.
    pub is_alive: bool,
    /// What it said of the image, if it said anything.
    pub row: Option<Row>,
}

/// What a worker said of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub status: CacheStatus,
    pub cause: Option<ImageFaultCause>,
    pub error: Option<String>,
    /// Said so lately that the worker need not be asked again.
    pub is_recent: bool,
}

/// An image's part of the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    pub status: ImageStatus,
    pub baker_id: Option<WorkerId>,
    pub lazy_pull: bool,
    /// Differs from image to image, so that different workers bake them.
    pub seed: usize,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write down that this worker bakes the image, then ask it.
    Bake(WorkerId),
    /// Ask the worker that bakes it once more: it has not begun.
    Remind(WorkerId),
    /// Write down that nobody bakes the image.
    LoseBaker,
    /// Write down that the image cannot be baked.
    Fail(String),
    /// Ask this worker to fetch what is baked.
    Fetch(WorkerId),
}

/// What is to be done for one image.
#[must_use]
pub fn decide(subject: Subject, targets: &[Target]) -> Vec<Step> {
    match subject.status {
        ImageStatus::Pending => begin(subject.seed, targets),
        ImageStatus::Baking => follow(subject, targets),
        ImageStatus::Ready if !subject.lazy_pull => {
            let missing = targets.iter().filter(|target| target.is_linked && is_missing(target));
            missing.map(|target| Step::Fetch(target.worker_id)).collect()
        }
        ImageStatus::Ready | ImageStatus::Failed => Vec::new(),
    }
}

/// Chooses who bakes. Nobody, while no worker can be asked.
fn begin(seed: usize, targets: &[Target]) -> Vec<Step> {
    let has_failed =
        |target: &&Target| target.row.as_ref().is_some_and(|row| row.status == CacheStatus::Failed);
    let able = targets.iter().filter(|target| target.is_linked && !has_failed(target));
    let able: Vec<_> = able.collect();
    if !able.is_empty() {
        return vec![Step::Bake(able[seed % able.len()].worker_id)];
    }
    let is_anyone_left = targets.iter().any(|target| !has_failed(&target));
    let last = targets.iter().rev().find_map(|target| target.row.as_ref()?.error.clone());
    match last {
        Some(error) if !is_anyone_left => vec![Step::Fail(error)],
        _ => Vec::new(),
    }
}

fn follow(subject: Subject, targets: &[Target]) -> Vec<Step> {
    let baker = targets.iter().find(|target| Some(target.worker_id) == subject.baker_id);
    let baker = match baker {
        Some(baker) if baker.is_linked => baker,
        // It goes on with its work, and says what came of it when its link is back.
        Some(baker) if baker.is_alive => return Vec::new(),
        // It is not in the image's groups any more, or was silent for too long.
        _ => return vec![Step::LoseBaker],
    };
    match &baker.row {
        Some(Row { status: CacheStatus::Failed, cause, error, .. }) => {
            let is_everyones = cause.is_some_and(ImageFaultCause::is_of_the_source);
            match error {
                Some(error) if is_everyones => vec![Step::Fail(error.clone())],
                _ => vec![Step::LoseBaker],
            }
        }
        _ if is_missing(baker) => vec![Step::Remind(baker.worker_id)],
        _ => Vec::new(),
    }
}

/// Whether the worker has nothing and is not at it. One that has evicted the image is left alone.
fn is_missing(target: &Target) -> bool {
    match &target.row {
        None => true,
        Some(row) => row.status == CacheStatus::Pending && row.cause.is_none() && !row.is_recent,
    }
}

/// Why no worker can start a bunker from an image, and what to do about it.
#[must_use]
pub fn why_nowhere(status: ImageStatus, reason: Option<&str>, targets: &[Target]) -> String {
    let next = "`GET /images/{id}/cache` tells more, and `POST /images/{id}/warm` tries again";
    if let (ImageStatus::Failed, Some(reason)) = (status, reason) {
        return format!("no worker has the image ready: it could not be baked: {reason}; {next}");
    }
    if targets.is_empty() {
        return "no worker has the image ready: it is in no availability group with workers; add it \
                to one with `POST /availability-groups/{id}/images`"
            .to_owned();
    }
    let count = |wanted: fn(&Row) -> bool| {
        targets.iter().filter(|target| target.row.as_ref().is_some_and(wanted)).count()
    };
    let failed = count(|row| row.status == CacheStatus::Failed);
    let under_way = count(|row| matches!(row.status, CacheStatus::Pulling | CacheStatus::Baking));
    let total = targets.len();
    let waiting = total - failed - under_way - count(|row| row.status == CacheStatus::Ready);
    let first = targets.iter().find_map(|target| target.row.as_ref()?.error.clone());
    let first = first.map(|error| format!(" (such as: {error})")).unwrap_or_default();
    format!(
        "no worker has the image ready: of {total} in its availability groups it is on its way to \
         {under_way}, {waiting} wait and {failed} failed{first}; wait, or set `lazy_pull`; {next}"
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Workers that do as they are asked, some of which always fail.
    #[derive(Debug, Clone)]
    struct World {
        subject: Subject,
        targets: Vec<Target>,
        faults: Vec<Option<ImageFaultCause>>,
        bakes: usize,
    }

    impl World {
        fn new(
            faults: Vec<Option<ImageFaultCause>>,
            linked: &[bool],
            lazy_pull: bool,
            seed: usize,
        ) -> Self {
            let targets = linked.iter().take(faults.len()).map(|is_linked| Target {
                worker_id: WorkerId::generate(),
                is_linked: *is_linked,
                is_alive: *is_linked,
                row: None,
            });
            Self {
                targets: targets.collect(),
                subject: Subject { status: ImageStatus::Pending, baker_id: None, lazy_pull, seed },
                faults,
                bakes: 0,
            }
        }

        fn at_work(&self) -> usize {
            let is_baking = |target: &&Target| {
                target.row.as_ref().is_some_and(|row| row.status == CacheStatus::Baking)
            };
            self.targets.iter().filter(is_baking).count()
        }

        fn carry_out(&mut self, step: &Step) {
            match step {
                Step::Bake(id) => {
                    self.subject.status = ImageStatus::Baking;
                    self.subject.baker_id = Some(*id);
                    self.set(*id, CacheStatus::Baking);
                    self.bakes += 1;
                }
                Step::Remind(id) => self.set(*id, CacheStatus::Baking),
                Step::LoseBaker => {
                    self.subject.status = ImageStatus::Pending;
                    self.subject.baker_id = None;
                }
                Step::Fail(_) => self.subject.status = ImageStatus::Failed,
                Step::Fetch(id) => self.set(*id, CacheStatus::Pulling),
            }
        }

        fn set(&mut self, id: WorkerId, status: CacheStatus) {
            let target = self.targets.iter_mut().find(|target| target.worker_id == id).unwrap();
            target.row = Some(Row { status, cause: None, error: None, is_recent: false });
        }

        /// Every worker ends what it does.
        fn work(&mut self) {
            for (target, fault) in self.targets.iter_mut().zip(&self.faults) {
                let Some(row) = &mut target.row else { continue };
                let is_baker = row.status == CacheStatus::Baking;
                if !matches!(row.status, CacheStatus::Baking | CacheStatus::Pulling) {
                    continue;
                }
                *row = match fault {
                    Some(cause) => Row {
                        status: CacheStatus::Failed,
                        cause: Some(*cause),
                        error: Some("failed".to_owned()),
                        is_recent: false,
                    },
                    None => Row {
                        status: CacheStatus::Ready,
                        cause: None,
                        error: None,
                        is_recent: false,
                    },
                };
                if is_baker && fault.is_none() {
                    self.subject.status = ImageStatus::Ready;
                }
            }
        }
    }

    fn faults() -> impl Strategy<Value = Vec<Option<ImageFaultCause>>> {
        let fault = prop_oneof![
            Just(None),
            Just(Some(ImageFaultCause::NoSpace)),
            Just(Some(ImageFaultCause::RegistryAuth)),
        ];
        proptest::collection::vec(fault, 1..6)
    }

    proptest! {
        #[test]
        fn it_comes_to_an_end_with_one_bake_at_a_time(
            faults in faults(), linked in proptest::collection::vec(any::<bool>(), 6),
            lazy in any::<bool>(), seed in any::<usize>(),
        ) {
            let mut world = World::new(faults.clone(), &linked, lazy, seed);
            for _ in 0..40 {
                let steps = decide(world.subject, &world.targets);
                for step in &steps {
                    world.carry_out(step);
                }
                prop_assert!(world.at_work() <= 1);
                world.work();
            }
            prop_assert!(decide(world.subject, &world.targets).is_empty());
            prop_assert!(world.bakes <= faults.len());
            // A worker without a fault bakes it, unless a fault of the source may have come first.
            let asked: Vec<_> = world.targets.iter().zip(&faults).filter(|(t, _)| t.is_linked).collect();
            let has = |wanted: Option<ImageFaultCause>| asked.iter().any(|(_, fault)| **fault == wanted);
            if has(None) && !has(Some(ImageFaultCause::RegistryAuth)) {
                prop_assert_eq!(world.subject.status, ImageStatus::Ready);
                if !lazy {
                    let is_there = |(t, fault): (&Target, &Option<_>)| {
                        !t.is_linked || fault.is_some()
                            || t.row.as_ref().is_some_and(|row| row.status == CacheStatus::Ready)
                    };
                    prop_assert!(world.targets.iter().zip(&faults).all(is_there));
                }
            }
        }
    }

    #[test]
    fn what_was_evicted_is_left_alone() {
        let row = Row {
            status: CacheStatus::Pending,
            cause: Some(ImageFaultCause::Evicted),
            error: Some("evicted".to_owned()),
            is_recent: false,
        };
        let target = Target {
            worker_id: WorkerId::generate(),
            is_linked: true,
            is_alive: true,
            row: Some(row),
        };
        let subject =
            Subject { status: ImageStatus::Ready, baker_id: None, lazy_pull: false, seed: 0 };
        assert!(decide(subject, &[target]).is_empty());
    }

    #[test]
    fn the_reason_names_what_to_do_next() {
        let worker_id = WorkerId::generate();
        let target = |status, error: Option<&str>| Target {
            worker_id,
            is_linked: true,
            is_alive: true,
            row: Some(Row {
                status,
                cause: None,
                error: error.map(str::to_owned),
                is_recent: false,
            }),
        };
        let text = why_nowhere(ImageStatus::Ready, None, &[]);
        assert!(text.contains("POST /availability-groups/{id}/images"), "{text}");
        let rows = [target(CacheStatus::Pulling, None), target(CacheStatus::Failed, Some("disk"))];
        let text = why_nowhere(ImageStatus::Ready, None, &rows);
        for part in ["of 2", "way to 1", "1 failed", "disk", "warm", "lazy_pull"] {
            assert!(text.contains(part), "{text}");
        }
        let text = why_nowhere(ImageStatus::Failed, Some("no password"), &rows);
        assert!(text.contains("no password"), "{text}");
    }
}
