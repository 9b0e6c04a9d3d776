//! How the background tasks fare, for whoever operates the process.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;

/// The last runs of every task.
#[derive(Default)]
pub struct TaskBoard {
    runs: Mutex<BTreeMap<&'static str, TaskRuns>>,
}

/// What is known of one task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskRuns {
    /// When a run last ended; `None`: none has.
    pub last_run: Option<Timestamp>,
    /// The last run that failed, and why.
    pub last_error: Option<(Timestamp, String)>,
}

impl TaskBoard {
    /// Notes that there is a task.
    pub(super) fn enter(&self, name: &'static str) {
        self.change(name, |_| {});
    }

    /// Notes a run, and why it failed if it did.
    pub(super) fn note(&self, name: &'static str, at: Timestamp, error: Option<String>) {
        self.change(name, |runs| {
            runs.last_run = Some(at);
            if let Some(error) = error {
                runs.last_error = Some((at, error));
            }
        });
    }

    /// Every task, by name.
    #[must_use]
    pub fn runs(&self) -> Vec<(&'static str, TaskRuns)> {
        let runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.iter().map(|(name, runs)| (*name, runs.clone())).collect()
    }

    fn change(&self, name: &'static str, change: impl FnOnce(&mut TaskRuns)) {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        change(runs.entry(name).or_default());
    }
}
